"""Rows that stand for each set that is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROLES = ("background", "objective", "methods", "results", "conclusions")


def choice(i: int, n: int) -> dict[str, Any]:
    return {"choices": [f"option {i} {k}" for k in range(n)], "answer": i % n}


def role(i: int) -> dict[str, Any]:
    label = ROLES[i % 5]
    return {"abstract_id": i, "label": label, "text": f"Sentence {i}.", "sentence_id": i}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "mmlu": lambda i: {
        "question": f" Question {i}? ",
        "subject": ("anatomy", "us_foreign_policy")[i % 2],
        **choice(i, 4),
    },
    "gsm8k": lambda i: {"question": f"What is {i}+{i}?", "answer": f"It is.\n#### {2 * i}"},
    "math": lambda i: {
        "problem": f"Find {i}.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": f"Clearly $\\boxed{{{i}}}$.",
    },
    "pubmedqa": lambda i: {
        "pubid": i,
        "question": f"Does {i} help?",
        "context": {"contexts": [f"Part {i}.", "The end."]},
        "final_decision": ("yes", "no", "maybe")[i % 3],
    },
    "medqa_usmle": lambda i: {
        "question": f"A patient, {i}.",
        "options": {letter: f"drug {letter}{i}" for letter in "ABCD"},
        "answer_idx": "ABCD"[i % 4],
    },
    "pubmed_rct20k": role,
    "pubmed_section_roles": role,
    "biomed_cloze": lambda i: {"context": f"Context {i} and a", **choice(i, 4)},
    "financial_phrasebank": lambda i: {"sentence": f"Profit {i} rose.", "label": i % 3},
    "fiqa_sa": lambda i: {"sentence": f"News {i}", "target": "Acme", "score": (i % 3 - 1) / 2},
    "fin_ner": lambda i: {"tokens": ["Acme", str(i), "in", "Rome"], "tags": [7, 7, 0, 6]},
    "hellaswag": lambda i: {
        "ctx_a": f"A man {i} [title] stands.",
        "ctx_b": "he",
        "activity_label": "Standing",
        "endings": [f"falls {i}{k}." for k in range(4)],
        "label": str(i % 4),
    },
    "winogrande": lambda i: {
        "sentence": f"The cup {i} is not in the box as _ is small.",
        "option1": "cup",
        "option2": "box",
        "answer": str(i % 2 + 1),
    },
    "arc_challenge": lambda i: {
        "question": f"Which is {i}?",
        "choices": {"text": [f"x{i}", f"y{i}", "z"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[i % 3],
    },
}
COUNT = 30
