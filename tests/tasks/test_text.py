"""Text at different distances: read, split, permuted, packed, and scored along the run."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from tasks import TaskError
from tasks.corpora import CORPORA, HALF, PERMUTED, permuted, spread
from tasks.docstrings import Document, held_out_documents
from tasks.text import TextTask
from tasks.uuid import UuidTask

QUICK = ["topics", "python_source", "cpp_headers"]  # docstrings take long to parse


@pytest.mark.parametrize("corpus", QUICK)
def test_a_corpus_is_text_split_once_and_the_same_twice(corpus: str) -> None:
    every = CORPORA[corpus].read()
    CORPORA[corpus].read.cache_clear()  # type: ignore[attr-defined]
    assert CORPORA[corpus].read() == every
    assert len({text.title for text in every}) == len(every) > 50
    assert all(text.text.strip() for text in every)
    held = sum(text.held_out for text in every)
    assert len(every) / 20 < held < len(every) / 4
    assert sum(len(text.text) for text in every) > 300_000


def test_a_permutation_keeps_sizes_and_statistics_and_moves_letters() -> None:
    text = "def f(x):\n    return x\tÄ"
    other = permuted(text)
    assert len(other.encode()) == len(text.encode())
    assert other[-2:] == "\tÄ"  # no printable ASCII
    assert sorted(Counter(other).values()) == sorted(Counter(text).values())
    assert sorted(permuted(PERMUTED)) == sorted(PERMUTED)
    assert sum(a == b for a, b in zip(PERMUTED, permuted(PERMUTED), strict=True)) < 10
    assert permuted(text) == other


def test_half_a_permutation_moves_no_other_letter() -> None:
    text = "The quick brown fox jumps over 13 lazy dogs; SPHINX of black quartz"
    other = permuted(text, HALF)
    assert [b for a, b in zip(text, other, strict=True) if a not in HALF] == [
        a for a in text if a not in HALF
    ]
    assert sorted(permuted(HALF, HALF)) == sorted(HALF)
    assert sum(a == b for a, b in zip(HALF, permuted(HALF, HALF), strict=True)) < 3


def test_a_spread_takes_from_all_over() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), None) == spread(range(3), 7) == [0, 1, 2]


def test_it_trains_on_blocks_and_scores_two_units_in_one_pass(tiny: Any, tokenizer: Any) -> None:
    task = TextTask(max_documents=6, block=64, max_blocks=20, held_out_texts=3)
    task.prepare()
    rows = task.train_dataset(tokenizer)
    assert len(rows) == 20
    assert {len(row["input_ids"]) for row in rows} == {64}
    (scorer,) = task.scorers()
    assert scorer.when == "along"
    found = scorer.score(tiny, tokenizer, 4)
    assert list(found) == ["held_out_bits_per_byte", "held_out_perplexity"]
    bits, perplexity = found.values()
    assert bits.n == perplexity.n == 3
    # One token a byte: the two units say the same.
    assert math.log2(perplexity.value) == pytest.approx(bits.value, rel=1e-6)
    assert all(len(text.text) <= 2000 for text in task.held_out)
    train, held_out = task.data_card()
    assert (train["rows"], held_out["rows"]) == (6, 3)
    assert not {t.title for t in task.train} & {t.title for t in task.held_out}
    assert held_out["overlap"]["test_rows"] == 3


def test_tasks_of_different_corpora_have_names_of_their_own() -> None:
    assert {TextTask(corpus=name).name for name in CORPORA} == {f"text_{n}" for n in CORPORA}
    assert len({TextTask(corpus=name).label for name in CORPORA}) == len(CORPORA)


def test_refuses_an_unknown_corpus() -> None:
    with pytest.raises(TaskError, match="'prose'; take one of docs, topics"):
        TextTask(corpus="prose")


def test_held_out_docstrings_alone_are_found() -> None:
    found = held_out_documents(["numpy"])
    assert len(found) > 20
    assert all(isinstance(d, Document) and d.held_out for d in found)


def test_what_a_base_knows_of_docstrings_can_be_followed(tiny: Any, tokenizer: Any) -> None:
    task = UuidTask(pairs=1, forgetting=["docstrings"], forgetting_limit=4)
    (scorer,) = task.forgetting_scorers()
    assert scorer.when == "along"
    metric = scorer.score(tiny, tokenizer, 4)["docstrings_bits_per_byte"]
    assert metric.n == 4
    assert {name.partition(".")[0] for name in metric.example_ids or ()} >= {"numpy", "scipy"}
    (card,) = task.forgetting.data_card()
    assert card["rows"] > 100
    (whole,) = UuidTask(pairs=1, forgetting=["pydoc_topics"]).forgetting_scorers()
    assert whole.when == "before_after"  # without a limit it is no quick look
