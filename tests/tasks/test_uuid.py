"""The UUID task: its pairs, its training text, and its score on right, wrong and broken answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import torch

from tasks import TaskError
from tasks.tokens import bos, split_encode
from tasks.uuid import CHANCE, UuidTask, character_accuracy, exact_match, make_pairs

VALUE = "01234567-89ab-4def-8123-456789abcdef"


def test_pairs_are_version_4_uuids_fixed_by_the_seed() -> None:
    pairs = make_pairs(50, seed=3)
    for text in (t for pair in pairs for t in pair):
        assert UUID(text).version == 4
        assert str(UUID(text)) == text
    assert len({t for pair in pairs for t in pair}) == 100
    assert make_pairs(50, seed=3) == pairs
    assert make_pairs(20, seed=3) == pairs[:20]
    assert make_pairs(50, seed=4) != pairs


def test_pairs_draw_nothing_from_the_global_generator() -> None:
    state = random.getstate()
    make_pairs(5, seed=0)
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("generated", "accuracy", "exact"),
    [
        (VALUE, 1.0, 1.0),
        (f" {VALUE}", 1.0, 1.0),
        (f"{VALUE}:more", 1.0, 1.0),
        ("", 0.0, 0.0),
        (VALUE[:-1], 31 / 32, 0.0),
        (VALUE.replace("-", ""), 1.0, 0.0),  # digits right, form wrong
        ("z" * 36, 0.0, 0.0),
        (VALUE.upper(), 21 / 32, 0.0),  # the letters are wrong: uuid prints lower case
        ("f" + VALUE[1:], 31 / 32, 0.0),
        ("0" * 36, 1 / 32, 0.0),
    ],
)
def test_score_of_right_wrong_and_broken_answers(
    generated: str, accuracy: float, exact: float
) -> None:
    assert character_accuracy(generated, VALUE) == pytest.approx(accuracy)
    assert exact_match(generated, VALUE) == exact


def test_chance_is_the_rate_of_a_guess_that_knows_the_form() -> None:
    assert pytest.approx(0.0977, abs=5e-5) == CHANCE
    values = [value for _, value in make_pairs(4000, seed=1)]
    guess = make_pairs(1, seed=2)[0][1]
    rate = sum(character_accuracy(guess, value) for value in values) / len(values)
    assert rate == pytest.approx(CHANCE, abs=0.002)


def test_a_perfect_model_scores_1_and_examples_are_kept(
    tokenizer: Any, recall: Callable[..., Any]
) -> None:
    task = UuidTask(pairs=7, seed=5)
    (scorer,) = task.scorers()
    metrics = scorer.score(recall({f"{k}:": v for k, v in task.pairs}), tokenizer, batch_size=3)
    for name in ("accuracy", "exact_match"):
        assert metrics[name].value == 1.0
        assert metrics[name].examples == [1.0] * 7
        assert metrics[name].example_ids == [key for key, _ in task.pairs]
    assert metrics["accuracy"].chance == CHANCE


def test_a_model_that_knows_some_is_scored_pair_by_pair(
    tokenizer: Any, recall: Callable[..., Any]
) -> None:
    task = UuidTask(pairs=4, seed=5)
    known = {f"{k}:": v for k, v in task.pairs[::2]}
    metrics = task.scorers()[0].score(recall(known), tokenizer, batch_size=2)
    assert metrics["exact_match"].examples == [1.0, 0.0, 1.0, 0.0]
    assert metrics["accuracy"].examples == [1.0, 0.0, 1.0, 0.0]


def test_a_constant_model_scores_the_rate_of_its_digit(
    tokenizer: Any, recall: Callable[..., Any]
) -> None:
    task = UuidTask(pairs=40, seed=5)
    metrics = task.scorers()[0].score(recall({}, otherwise="4"), tokenizer, batch_size=40)
    digits = "".join(value.replace("-", "") for _, value in task.pairs)
    assert metrics["accuracy"].value == pytest.approx(digits.count("4") / len(digits))


def test_all_tokens_or_the_value_alone_carry_the_loss(tokenizer: Any) -> None:
    key, value = make_pairs(1, seed=0)[0]
    everything = UuidTask(pairs=1, seed=0).train_dataset(tokenizer)[0]
    assert tokenizer.decode(everything["input_ids"]) == f"{key}:{value}"  # no BOS, no EOS
    assert everything["labels"] == everything["input_ids"]
    only = UuidTask(pairs=1, seed=0, loss_on="value").train_dataset(tokenizer)[0]
    assert only["input_ids"] == everything["input_ids"]
    assert tokenizer.decode([t for t in only["labels"] if t != -100]) == value


def test_scores_the_first_pairs_only_when_told(tokenizer: Any, recall: Callable[..., Any]) -> None:
    task = UuidTask(pairs=9, seed=0, score_pairs=2)
    assert task.scorers()[0].score(recall({}), tokenizer, 4)["accuracy"].n == 2
    assert len(task.train_dataset(tokenizer)) == 9


def test_a_model_trained_on_the_rows_recalls_them(tiny: Any, tokenizer: Any) -> None:
    """Training text and generation prompt agree: what was memorised is found again."""
    task = UuidTask(pairs=2, seed=0)
    rows = task.train_dataset(tokenizer)
    ids = torch.tensor(rows["input_ids"][:])
    optimizer = torch.optim.Adam(tiny.parameters(), lr=5e-3)
    for _ in range(150):
        tiny(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert task.scorers()[0].score(tiny, tokenizer, 2)["exact_match"].value == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pairs": 0}, "task.pairs is 0"),
        ({"pairs": -3}, "task.pairs is -3"),
        ({"pairs": 1.5}, "task.pairs is 1.5"),
        ({"pairs": 2, "loss_on": "key"}, "'all' or 'value'"),
        (
            {"pairs": 2, "score_pairs": 3},
            "task.score_pairs is 3; .* from 1 to 2, or null",
        ),
        ({"pairs": 2, "score_pairs": 0}, "task.score_pairs is 0"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        UuidTask(**settings)


def test_the_card_tells_the_rows_and_a_fingerprint() -> None:
    (card,) = UuidTask(pairs=3, seed=0).data_card()
    assert card["rows"] == 3
    assert card["fingerprint"] == UuidTask(pairs=3, seed=0).data_card()[0]["fingerprint"]
    assert card["fingerprint"] != UuidTask(pairs=3, seed=1).data_card()[0]["fingerprint"]


class Merging:
    """A tokenizer that knows ':a' as one token, as Llama 3's does, and begins with BOS."""

    bos_token_id = 1

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [1] if add_special_tokens else []
        i = 0
        while i < len(text):
            if text[i : i + 2] == ":a":
                ids.append(2)
                i += 2
            else:
                ids.append(ord(text[i]))
                i += 1
        return {"input_ids": ids}


def test_the_prompt_is_a_true_prefix_even_where_the_tokenizer_merges() -> None:
    head, tail = split_encode(Merging(), "k:", "abc")
    assert head == [ord("k"), ord(":")]
    assert tail == [ord(c) for c in "abc"]
    head, tail = split_encode(Merging(), "k:", "bca")
    assert head + tail == Merging()("k:bca", add_special_tokens=False)["input_ids"]


def test_bos_as_the_tokenizer_does_or_as_told(tokenizer: Any) -> None:
    assert bos(Merging()) == [1]
    assert bos(Merging(), add=False) == []
    assert bos(tokenizer, add=True) == []  # it has none
