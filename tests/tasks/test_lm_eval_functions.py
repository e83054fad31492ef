"""Prompts, targets and scores of the task files, on hand-made right, wrong and broken answers."""

from __future__ import annotations

import pytest

from tasks.lm_eval import functions as f
from tasks.prompts import metamath_eval_prompt

NER = {
    "tokens": ["Ann", "Lee", "of", "Acme", "Inc", "in", "Rome", "and", "Ann", "Lee"],
    "tags": [5, 5, 0, 7, 7, 0, 6, 0, 5, 5],
}
GOLD = [("Ann Lee", "person"), ("Acme Inc", "organization"), ("Rome", "location")]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([1, 5, 0], [("a b", "person")]),  # IOB2
        ([5, 5, 0], [("a b", "person")]),  # IOB1
        ([1, 1, 0], [("a", "person"), ("b", "person")]),
        ([5, 7, 0], [("a", "person"), ("b", "organization")]),
        ([5, 0, 5], [("a", "person"), ("c", "person")]),
        ([8, 4, 0], []),  # other kinds are left out
        ([0, 0, 0], []),
    ],
)
def test_entities_of_tags(tags: list[int], found: list[tuple[str, str]]) -> None:
    assert f.entities({"tokens": ["a", "b", "c"], "tags": tags}) == found


@pytest.mark.parametrize(
    ("answer", "f1", "extracted"),
    [
        (" Ann Lee (person), Acme Inc (organization), Rome (location)", 1.0, 1.0),
        ("Rome (location), Ann Lee (person), Acme Inc (Organization)\nmore (person)", 1.0, 1.0),
        ("Ann Lee (person)", 2 / 4, 1.0),
        ("Ann (person), Rome (person)", 0.0, 1.0),
        ("Ann Lee (person), Ann Lee (person)", 2 / 4, 1.0),
        ("Ann Lee, Rome", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("((((", 0.0, 0.0),
    ],
)
def test_entity_answers(answer: str, f1: float, extracted: float) -> None:
    assert f.entities(NER) == GOLD
    assert f.ner_scores(NER, [answer]) == {"entity_f1": pytest.approx(f1), "extracted": extracted}


def test_the_entity_target_is_a_right_answer() -> None:
    assert f.ner_target(NER) == "Ann Lee (person), Acme Inc (organization), Rome (location)"
    assert f.ner_scores(NER, [f.ner_target(NER)])["entity_f1"] == 1.0
    assert f.ner_prompt(NER).endswith("Rome and Ann Lee\nExtract named entity:")
    comma = {"tokens": ["Acme", ",", "Inc", "of", "Rome"], "tags": [7, 7, 7, 0, 6]}
    assert f.ner_scores(comma, [f.ner_target(comma)]) == {"entity_f1": 1.0, "extracted": 1.0}
    assert f.ner_scores(comma, ["Rome (location)"])["entity_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("score", "label"), [(-1, 0), (-0.11, 0), (-0.1, 1), (0.09, 1), (0.1, 2)])
def test_fiqa_classes(score: float, label: int) -> None:
    assert f.fiqa_target({"score": score}) == label


SOLUTION = "Thus $x=\\boxed{\\frac{1}{2}}$."


@pytest.mark.parametrize(
    ("answer", "right", "extracted"),
    [
        (" $\\frac{1}{2}$", 1.0, 1.0),
        ("so $\\frac12$.", 1.0, 1.0),
        ("$0.3$", 0.0, 1.0),
        ("\\frac{1}{2}", 1.0, 0.0),  # lm-eval takes the whole answer where there are no signs
        ("", 0.0, 0.0),
        ("$", 0.0, 0.0),
    ],
)
def test_math_answers(answer: str, right: float, extracted: float) -> None:
    got = f.math_scores({"solution": SOLUTION}, [answer])
    assert got == {"exact_match": right, "extracted": extracted}


@pytest.mark.parametrize(
    ("answer", "right", "extracted"),
    [
        ("Half. The answer is: \\frac{1}{2}", 1.0, 1.0),
        ("The answer is: \\frac12.", 1.0, 1.0),
        ("The answer is: 1/2.\nThat is all", 1.0, 1.0),
        ("The answer is: \\frac{1}{2}\nThat is all", 0.0, 1.0),  # no full stop before the break
        ("Half. The answer is: $\\frac{1}{2}$", 0.0, 1.0),  # dollar signs stay
        ("The answer is \\frac{1}{2}", 0.0, 0.0),  # no colon
        ("The answer is: 2", 0.0, 1.0),
        ("\\frac{1}{2}", 0.0, 0.0),
        ("The answer is", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_math_answers_in_metamaths_form(answer: str, right: float, extracted: float) -> None:
    got = f.metamath_math_scores({"solution": SOLUTION}, [answer])
    assert got == {"exact_match": right, "extracted": extracted}


@pytest.mark.parametrize(
    ("answer", "right", "extracted"),
    [
        ("1+1=2\nThe answer is: 1,234", 1.0, 1.0),
        ("The answer is: $1234.", 1.0, 1.0),
        ("The answer is: 1234.0", 1.0, 1.0),
        ("The answer is: 5. No. The answer is: 1234", 1.0, 1.0),
        ("The answer is: 1234 of the 2000", 1.0, 1.0),  # the first number
        ("The answer is: 1234.4", 1.0, 1.0),  # rounded
        ("The answer is: 2468/2", 1.0, 1.0),
        ("The answer is: 1235", 0.0, 1.0),
        ("The answer is: 1,234,567", 1.0, 1.0),  # the source's pattern knows one comma
        ("The answer is 1234", 0.0, 0.0),  # no colon
        ("The answer is: /2", 0.0, 0.0),
        ("The answer is: " + "9" * 400, 0.0, 0.0),  # too large for a float
        ("1234", 0.0, 0.0),
        ("The answer is: many", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_gsm8k_answers_in_metamaths_form(answer: str, right: float, extracted: float) -> None:
    got = f.metamath_gsm8k_scores({"answer": "So 12.\n#### 1,234"}, [answer])
    assert got == {"exact_match": right, "extracted": extracted}


def test_metamaths_prompt() -> None:
    text = metamath_eval_prompt("Add 1 and 2.")
    assert text.startswith("Below is an instruction that describes a task. Write a response")
    assert "### Instruction:\nAdd 1 and 2.\n\n### Response: Let's think step by step." in text
