"""Generated maths: seeds apart, answers extracted and verified, scored right on known models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tasks import TaskError
from tasks.math_symbolic import GENERATORS, MathSymbolicTask, extract, prompt, verify


@pytest.fixture(scope="module")
def task() -> MathSymbolicTask:
    return MathSymbolicTask(train_items=60, test_items=12)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 42", "42"),
        ("42", "42"),
        (" -7.5 metres", "-7.5"),
        (" 1,234,567", "1234567"),
        (" The answer is 12.", "12"),
        (" 12\n99", "12"),
        ("\n\n 12", "12"),
        ("", None),
        ("   ", None),
        (" none", None),
        (" ,", None),
    ],
)
def test_extraction(text: str, number: str | None) -> None:
    assert extract(text) == number


def test_the_verifier_takes_right_answers_only(task: MathSymbolicTask) -> None:
    for item in task.test:
        assert verify(extract(f" {item['answer']}"), item) == 1.0
        assert verify(str(float(item["answer"]) + 1), item) == 0.0
        assert verify("9" + item["answer"], item) == 0.0
        assert verify(None, item) == 0.0


def test_train_and_test_questions_are_apart_and_test_is_the_same_for_every_seed() -> None:
    first, second = (MathSymbolicTask(train_items=300, test_items=30, seed=s) for s in (0, 1))
    asked = [{i["question"] for i in t.train} for t in (first, second)]
    test = {i["question"] for i in first.test}
    assert [i["question"] for i in first.test] == [i["question"] for i in second.test]
    assert not test & asked[0] and not test & asked[1]
    assert len(asked[0] & asked[1]) < 10  # small sums meet by chance; seeds do not


def test_perfect_and_constant_models(
    task: MathSymbolicTask, tokenizer: Any, recall: Callable[..., Any]
) -> None:
    (scorer,) = task.scorers()
    answers = {prompt(i["question"]): f" {i['answer']}{tokenizer.eos_token}" for i in task.test}
    metrics = scorer.score(recall(answers), tokenizer, 5)
    assert metrics["accuracy"].value == metrics["answered"].value == 1.0
    for generator in GENERATORS:
        assert metrics[f"accuracy_{generator}"].value == 1.0
        assert metrics[f"accuracy_{generator}"].n == 4
    metrics = scorer.score(recall({}, otherwise="x"), tokenizer, 5)
    assert metrics["accuracy"].value == metrics["answered"].value == 0.0
    metrics = scorer.score(recall({}, otherwise="7"), tokenizer, 5)
    assert metrics["answered"].value == 1.0
    assert metrics["accuracy"].value == 0.0  # 777...7 is no answer here


def test_the_loss_is_on_the_answer_and_its_end(task: MathSymbolicTask, tokenizer: Any) -> None:
    row = task.train_dataset(tokenizer)[0]
    item = task.train[0]
    learnt = [t for t in row["labels"] if t != -100]
    assert tokenizer.decode(learnt) == f" {item['answer']}{tokenizer.eos_token}"
    assert tokenizer.decode(row["input_ids"]).startswith(prompt(item["question"]) + " ")


def test_a_random_model_is_scored(task: MathSymbolicTask, tiny: Any, tokenizer: Any) -> None:
    metrics = task.scorers()[0].score(tiny, tokenizer, 16)
    assert metrics["accuracy"].n == 12
    assert 0.0 <= metrics["answered"].value <= 1.0


def test_the_card_reports_overlap(task: MathSymbolicTask) -> None:
    train, test = task.data_card()
    assert train["rows"] == len(task.train)
    assert test["overlap"]["run_of_words"] == 13


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"generators": []}, "task.generators is"),
        ({"generators": ["sudoku"]}, "sudoku"),
        ({"train_items": 0}, "task.train_items is 0"),
        ({"test_items": -1}, "task.test_items is -1"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        MathSymbolicTask(**settings)


def test_options_make_the_questions_of_a_generator_easier_and_are_on_its_card() -> None:
    easy = MathSymbolicTask(
        generators=["chain_sum"],
        options={"chain_sum": {"min_terms": 2, "max_terms": 2, "max_digits": 1}},
        train_items=40,
        test_items=10,
    )
    sums = [re.search(r"problem: (.*) =", item["question"]) for item in easy.test]
    assert all(found and re.fullmatch(r"\d [+-] \d", found[1]) for found in sums)
    assert "chain_sum (max_digits=1, max_terms=2, min_terms=2)" in easy.data_card()[0]["notes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gsm_symbolic": {}}, "options names gsm_symbolic"),
        ({"chain_sum": {"terms": 2}}, r"options.chain_sum is \{'terms': 2\}: .*terms"),
        ({"chain_sum": {"min_terms": 0}}, "options.chain_sum"),
    ],
)
def test_wrong_options_are_told(options: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        MathSymbolicTask(generators=["chain_sum"], options=options, train_items=4, test_items=4)
