"""Models small enough to build in every test: random, oracle, constant; byte tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a byte; no BOS; appends EOS unless told not to."""
    return ByT5Tokenizer()


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    """A random LLaMA of under 100,000 parameters over the byte vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


class Recall(nn.Module):
    """Says what `answers` holds for the prompt it has read; `otherwise` anywhere else.

    Its cache is the sequence read so far, so it works token by token like a real model.
    """

    def __init__(self, answers: Mapping[tuple[int, ...], list[int]], otherwise: int) -> None:
        super().__init__()
        self.answers = answers
        self.otherwise = otherwise

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[list[int]] | None = None,
        use_cache: bool = True,
    ) -> SimpleNamespace:
        read = past_key_values or [[] for _ in input_ids]
        offset = attention_mask.shape[1] - input_ids.shape[1]
        rows = []
        for before, ids, mask in zip(read, input_ids, attention_mask, strict=True):
            kept = [int(t) for t, m in zip(ids, mask[offset:], strict=True) if m]
            rows.append(before + kept)
        logits = torch.zeros(len(rows), 1, 384)
        for i, row in enumerate(rows):
            logits[i, 0, self._next(row)] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=rows)

    def _next(self, row: list[int]) -> int:
        for cut in range(len(row), 0, -1):
            answer = self.answers.get(tuple(row[:cut]))
            if answer is not None and len(row) - cut < len(answer):
                return answer[len(row) - cut]
        return self.otherwise


@pytest.fixture
def recall(tokenizer: Any) -> Callable[..., Recall]:
    """recall({prompt text: answer text}, otherwise="x") -> a model that answers so."""

    def build(answers: Mapping[str, str], otherwise: str = "x") -> Recall:
        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        return Recall(
            {tuple(encode(k)): encode(v) for k, v in answers.items()}, encode(otherwise)[0]
        )

    return build


# --- rows that stand for each set that lm-eval scores


def choice(i: int, n: int) -> dict[str, Any]:
    return {"choices": [f"option {i} {k}" for k in range(n)], "answer": i % n}


def role(i: int) -> dict[str, Any]:
    from tasks.lm_eval.functions import ROLES  # brings lm_eval

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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir with thirty rows of every set that is scored."""
    from tasks.sets import SETS

    root = tmp_path_factory.mktemp("data")
    for name, make in ROWS.items():
        (root / name).mkdir()
        for start, file in enumerate(SETS[name].files.values()):
            rows = [make(i) for i in range(start * COUNT, (start + 1) * COUNT)]
            (root / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)
