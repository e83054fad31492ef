"""AdaptLLM's benchmarks: scores computed by hand, and the path from a row to a score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

from tasks.adaptllm import ANSWER_TOKENS, MEASURES, WINDOW
from tasks.adaptllm_scores import (
    half_credit_f1,
    last_word_entities,
    mean_weighted_f1,
    near_number,
    numbers,
    weighted_f1,
    whole_entities,
)
from tasks.errors import TaskError
from tasks.scores import SCORES, scorer
from tasks.sets import SETS
from tests.tasks.toys import Prefers


def judged(measure: str, rows: list[dict[str, Any]], answers: list[Any]) -> dict[str, float]:
    return {name: value for name, (value, _) in MEASURES[measure].of(rows, answers).items()}


# --- by hand: right, wrong, half right, malformed ------------------------------------------------


def test_accuracy_of_pubmedqa_usmle_and_rct_by_hand() -> None:
    rows = [{"gold_index": gold} for gold in (0, 1, 2, 2)]
    assert judged("accuracy", rows, [0, 1, 2, 2]) == {"acc": 1.0}
    assert judged("accuracy", rows, [0, 1, 0, 0]) == {"acc": 0.5}
    assert judged("accuracy", rows, [1, 2, 0, 0]) == {"acc": 0.0}


def test_weighted_f1_of_fpb_and_fiqa_by_hand() -> None:
    """Negative 1 of 1 found and 1 false: F1 2/3. Neutral 1 of 2: 2/3. Positive 1 of 1: 1."""
    rows = [{"gold_index": gold} for gold in (0, 1, 1, 2)]
    found = judged("weighted_f1", rows, [0, 1, 0, 2])
    assert found["f1"] == pytest.approx(2 / 3 / 4 + 2 / 3 * 2 / 4 + 1 / 4)
    assert found["acc"] == 3 / 4
    assert list(found) == ["f1", "acc"]  # AdaptLLM's first
    assert judged("weighted_f1", rows, [2, 2, 2, 0])["f1"] == 0.0


def test_headline_by_hand() -> None:
    """Kind 0 all right: 1. Kind 7, gold Yes and No, both said Yes: (2/3 + 0) / 2."""
    kinds = ((0, 1), (0, 0), (7, 1), (7, 0))
    rows = [{"class_id": kind, "gold_index": gold} for kind, gold in kinds]
    found = judged("headline", rows, [1, 0, 1, 1])
    assert found["f1"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["acc"] == 3 / 4


NER = "Ann Lee (person), Acme Inc (organization), Rome (location)"


@pytest.mark.parametrize(
    ("answer", "half", "whole", "extracted"),
    [
        (NER, 1.0, 1.0, 1.0),
        # Only the last word counts in AdaptLLM's; whole names differ.
        ("Bob Lee (person), Acme Inc (organization), Rome (location)", 1.0, 4 / 6, 1.0),
        # Text right, type wrong: one of two points for each gold entity that meets it.
        ("Rome (person)", 2 / 4, 0.0, 1.0),  # Lee by type, Rome by text
        ("Paris (location)", 1 / 4, 0.0, 1.0),
        ("Ann Lee (person)", 2 / 4, 2 / 4, 1.0),
        ("Ann Lee, Rome", 0.0, 0.0, 0.0),
        ("((((", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
        (f"none\n{NER}", 0.0, 0.0, 0.0),  # the first line alone
    ],
)
def test_entities_by_hand(answer: str, half: float, whole: float, extracted: float) -> None:
    found = judged("entities", [{"label": NER}], [answer])
    assert found == pytest.approx({"f1": half, "entity_f1": whole, "extracted": extracted})
    assert judged("entities", [{"label": [NER]}], [answer]) == found


def test_two_entities_of_one_type_meet_the_first_of_it() -> None:
    """Without positions nereval gives the second of two persons half: (2 + 1) of 4 points."""
    people = "Ann (person), Bob (person)"
    pairs = last_word_entities(people)
    assert pairs == [("Ann", "person"), ("Bob", "person")]
    assert half_credit_f1(pairs, pairs) == 3 / 4
    assert judged("entities", [{"label": people}], [people])["entity_f1"] == 1.0


def test_a_type_of_two_words_is_no_type_to_adaptllm() -> None:
    assert last_word_entities("Ann Lee (a person) Rome (location)") == [("Rome", "location")]
    assert whole_entities("Ann Lee (a Person)") == [("Ann Lee", "a person")]


@pytest.mark.parametrize(
    ("label", "answer", "right", "extracted"),
    [
        ("206588.0", " 206588", 1.0, 1.0),
        (["14.1%"], "0.141", 1.0, 1.0),
        ("0.5", "perhaps 3 or 0.505", 1.0, 1.0),
        ("0.5", "0.52", 0.0, 1.0),
        ("0.5", "half", 0.0, 0.0),
        ("0.5", "\n0.5", 0.0, 0.0),  # the first line alone
        ("0.5", "", 0.0, 0.0),
        ("yes", "yes", 0.0, 0.0),
    ],
)
def test_convfinqa_by_hand(label: Any, answer: str, right: float, extracted: float) -> None:
    found = judged("numbers", [{"label": label}], [answer])
    assert found == {"exact_match": right, "extracted": extracted}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12", [12.0]),
        ("-1,234.5%", [-12.345]),
        ("between .5 and 1e3", [0.5, 1000.0]),
        ("none\n7", []),
        ("", []),
        ("1, 2", [1.0, 2.0]),
    ],
)
def test_numbers(text: str, found: list[float]) -> None:
    assert numbers(text) == pytest.approx(found)


def test_a_label_without_a_number_is_never_met() -> None:
    assert not near_number("no", "1")


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 0), (1, 1), (2, 2)],
        [(0, 1), (1, 1), (2, 1), (2, 2)],
        [(0, 2), (0, 2), (1, 2)],
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1)],
    ],
)
def test_weighted_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    want = f1_score(gold, predicted, average="weighted", zero_division=0)
    assert weighted_f1(pairs) == pytest.approx(want)
    assert mean_weighted_f1((0, *pair) for pair in pairs) == pytest.approx(want)


# --- from rows to scores -------------------------------------------------------------------------


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    data_set = SCORES[name].sets[0][0]
    (folder / data_set).mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / data_set / "test.jsonl").write_text(text)
    return str(folder)


def test_an_options_loss_is_its_mean_over_tokens(tmp_path: Path, tokenizer: Any) -> None:
    """The sum would take the short option; so USMLE's long ones are not at a loss."""
    question = "Question: What is it?\nAnswer:"
    rows = [{"input": question, "options": ["b", "aaaaaaaabb"], "gold_index": i} for i in (1, 0)]
    token = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    folder = write(tmp_path, "usmle", rows)
    found = scorer("usmle", limit=None, data_dir=folder).score(Prefers(token), tokenizer, 4)
    metric = found["usmle_acc"]
    by_row = dict(zip(metric.example_ids or [], metric.examples or [], strict=True))
    assert by_row == {"0": 1.0, "1": 0.0}
    assert (metric.value, metric.chance) == (0.5, 0.5)


def test_what_the_model_reads_is_the_row_and_no_more(
    tmp_path: Path, tiny: Any, tokenizer: Any
) -> None:
    """The published prompt ("Context: ...") as it is, a blank, an option; no BOS."""
    row = {"input": "Context: C.\nQuestion: Q?\nAnswer:", "options": ["yes", "no", "maybe"]}
    rows = [{**row, "gold_index": gold} for gold in range(3)]
    means = []
    for option in row["options"]:
        ids = tokenizer(f"{row['input']} {option}", add_special_tokens=False)["input_ids"]
        tail = len(option) + 1
        with torch.no_grad():
            logs = tiny(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        losses = [-float(logs[i - 1, ids[i]]) for i in range(len(ids) - tail, len(ids))]
        means.append(math.fsum(losses) / tail)
    folder = write(tmp_path, "pubmedqa", rows)
    found = scorer("pubmedqa", limit=None, data_dir=folder).score(tiny, tokenizer, 2)
    metric = found["pubmedqa_acc"]
    best = str(means.index(min(means)))
    assert dict(zip(metric.example_ids or [], metric.examples or [], strict=True))[best] == 1.0
    assert metric.value == pytest.approx(1 / 3)


class WithBos:
    """Puts a token before every text unless told not to, as Llama's tokenizer does."""

    bos_token_id = 1

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_token_id
        self.decode = tokenizer.decode

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


@pytest.mark.parametrize("name", ["fpb", "ner"])
def test_no_bos_is_put_before_a_prompt(
    tmp_path: Path, recall: Callable[..., Any], tiny: Any, tokenizer: Any, name: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"input": f"Profit {i}?", "options": ["up", "down"], "gold_index": i % 2}
        if name == "fpb"
        else {"input": f"Profit {i}?", "label": f"Acme{i} (organization)"}
        for i in range(6)
    ]
    folder = write(tmp_path, name, rows)
    model = tiny if name == "fpb" else recall({r["input"]: f" {r['label']}\n" for r in rows})
    one = scorer(name, limit=None, data_dir=folder)
    found = one.score(model, WithBos(tokenizer), 3)
    assert found == one.score(model, tokenizer, 3)
    assert next(iter(found)).endswith("_f1")
    if name == "ner":
        assert found["ner_f1"].value == 1.0


def test_answers_are_one_line_and_long_prompts_lose_their_beginning(
    tmp_path: Path, tokenizer: Any, recall: Callable[[Mapping[str, str]], Any]
) -> None:
    long = "x" * WINDOW + " How much?"
    known = {long[-(WINDOW - ANSWER_TOKENS) :]: " 12\n13", "How many?": " 5 or 7</s>"}
    rows = [{"input": long, "label": "12"}, {"input": "How many?", "label": "7.0"}]
    folder = write(tmp_path, "convfinqa", [*rows, {"input": "Why?", "label": "13"}])
    found = scorer("convfinqa", limit=None, data_dir=folder).score(recall(known), tokenizer, 1)
    metric = found["convfinqa_exact_match"]
    by_row = dict(zip(metric.example_ids or [], metric.examples or [], strict=True))
    assert by_row == {"0": 1.0, "1": 1.0, "2": 0.0}
    assert found["convfinqa_extracted"].value == pytest.approx(2 / 3)


def test_a_limit_takes_a_fair_sample_and_the_same_every_time(
    tmp_path: Path, tiny: Any, tokenizer: Any
) -> None:
    rows = [
        {"input": f"Gold {i}?", "options": ["Yes", "No"], "gold_index": i % 2, "class_id": i % 9}
        for i in range(40)
    ]
    folder = write(tmp_path, "headline", rows)
    first, second = (
        scorer("headline", limit=6, data_dir=folder).score(tiny, tokenizer, 3) for _ in range(2)
    )
    assert first == second
    ids = first["headline_f1"].example_ids or []
    assert len(set(ids)) == 6
    assert ids != [str(i) for i in range(6)]
    keys = [scorer("headline", limit=n, data_dir=folder).cache_key() for n in (6, 6, 7)]
    assert keys[0] == keys[1] != keys[2]


def test_every_measure_is_one_of_a_benchmark_and_reads_its_columns() -> None:
    used = {score.adaptllm: SETS[score.sets[0][0]] for score in SCORES.values() if score.adaptllm}
    assert set(used) == set(MEASURES)
    for measure, source in used.items():
        assert ("options" in source.columns) == MEASURES[measure].chosen
        assert str(source.hub_id).startswith("AdaptLLM/")


def test_a_row_with_two_of_one_type_is_rehearsed(tmp_path: Path) -> None:
    """AdaptLLM's f1 gives its right answer 3/4; what else is wrong with a row is still refused."""
    folder = write(tmp_path, "ner", [{"input": "Who?", "label": "Ann (person), Bob (person)"}])
    one = scorer("ner", limit=None, data_dir=folder)
    assert one.rehearse() == one.answer()
    (tmp_path / "other").mkdir()
    folder = write(tmp_path / "other", "ner", [{"input": "Who?", "label": "Ann and Bob"}])
    with pytest.raises(TaskError, match="gets extracted 0"):
        scorer("ner", limit=None, data_dir=folder).rehearse()
