"""Packed rows lose no token, and a document's logits do not depend on its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from tasks import TaskError, packing
from tasks.mixing import Mixed
from tasks.packing import concatenate, pack, packed_dataset
from tasks.tokens import IGNORED

DOCUMENTS = st.lists(st.lists(st.integers(5, 200), min_size=1, max_size=20), max_size=12)


@given(DOCUMENTS, st.integers(2, 16))
@settings(max_examples=60, deadline=None)
def test_rows_hold_every_token_once_in_order_with_restarting_positions(
    documents: list[list[int]], block: int
) -> None:
    rows = list(pack(documents, block))
    assert all(len(row[column]) == block for row in rows for column in row)
    kept = [t for row in rows for t in row["input_ids"] if t != 0]
    everything = [t for document in documents for t in document]
    assert kept == everything[: len(kept)]
    assert len(everything) - len(kept) < block  # only a last block with nothing to predict goes
    for row in rows:
        for i, (token, label, position) in enumerate(
            zip(row["input_ids"], row["labels"], row["position_ids"], strict=True)
        ):
            if position == 0 or token == 0:
                assert label == IGNORED
            else:
                assert label == token
                assert row["position_ids"][i - 1] == position - 1
        assert row["position_ids"][0] == 0


@given(DOCUMENTS, st.integers(2, 16))
@settings(max_examples=60, deadline=None)
def test_concatenated_rows_are_one_stream_without_a_mask(
    documents: list[list[int]], block: int
) -> None:
    rows = list(concatenate(documents, block))
    stream = [t for document in documents for t in document]
    kept = [t for row in rows for t in row["input_ids"]]
    assert kept == stream[: len(stream) // block * block]
    for row in rows:
        assert row["labels"] == [IGNORED, *row["input_ids"][1:]]
        assert row["position_ids"] == list(range(block))


def test_without_a_mask_a_document_sees_the_one_before_it(tiny: Any) -> None:
    def logits(before: list[int]) -> torch.Tensor:
        (row,) = concatenate([before, [10, 20]], 4)
        with torch.no_grad():
            return tiny(
                input_ids=torch.tensor([row["input_ids"]]),
                position_ids=torch.tensor([row["position_ids"]]),
                use_cache=False,
            ).logits[0, -1]

    assert not torch.allclose(logits([7, 8]), logits([90, 91]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_a_document_ignore_its_neighbours(tiny: Any, attention: str) -> None:
    tiny.set_attn_implementation(attention)
    document = [10, 20, 30, 40]

    def logits(before: list[int], after: list[int]) -> torch.Tensor:
        (row,) = pack([before, document, after], 12)
        with torch.no_grad():
            out = tiny(
                input_ids=torch.tensor([row["input_ids"]]),
                position_ids=torch.tensor([row["position_ids"]]),
                use_cache=False,
            ).logits
        return out[0, len(before) : len(before) + len(document)]

    alone = tiny(input_ids=torch.tensor([document])).logits[0]
    first = logits([7, 8, 9], [11, 12, 13, 14, 15])
    torch.testing.assert_close(first, logits([90, 91, 92], [5, 6, 7, 8, 9]), rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-5)


def test_texts_become_blocks_that_spell_them(tokenizer: Any) -> None:
    texts = ["first text", "second"]
    data = packed_dataset(texts, tokenizer, 8)
    ids = [t for row in data["input_ids"] for t in row]
    end = tokenizer.eos_token
    assert tokenizer.decode(ids).replace(tokenizer.pad_token, "") == f"first text{end}second{end}"
    assert (
        packed_dataset(texts, tokenizer, 8, max_blocks=1)["input_ids"][:] == data["input_ids"][:1]
    )


def test_the_data_set_holds_the_rows_of_pack(tokenizer: Any) -> None:
    texts = ["Paß auf", "", "a </s> of its own", "the rest of it"]
    told = {"add_special_tokens": False, "split_special_tokens": True}
    documents = [[*tokenizer(t, **told)["input_ids"], 1] for t in texts]
    data = packed_dataset(texts, tokenizer, 8)
    assert data.to_list() == list(pack(documents, 8))
    assert {str(column) for column in data.features.values()} == {"List(Value('int32'))"}


def test_a_large_corpus_has_the_rows_on_disk_that_it_has_in_memory(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i}" for i in range(150)]
    held = packed_dataset(texts, tokenizer, 8)
    monkeypatch.setattr(packing, "LARGE", 149)
    stored = packed_dataset(texts, tokenizer, 8)
    assert stored.cache_files and not held.cache_files
    assert stored.to_list() == held.to_list() and stored.features == held.features
    assert packed_dataset(texts, tokenizer, 8).cache_files == stored.cache_files
    other = packed_dataset(texts, ByT5Tokenizer(additional_special_tokens=["99"], extra_ids=0), 8)
    assert other.cache_files != stored.cache_files  # though it reads the first text alike
    with pytest.raises(TaskError, match="don't fill a block of 9999 tokens"):
        packed_dataset(texts, tokenizer, 9999, mask="none")


@pytest.mark.parametrize("changed", ["text", "document", "instruction"])
def test_a_large_corpus_lies_in_another_file_whichever_text_is_another(
    changed: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LARGE", 3)
    order = np.random.default_rng(0).permutation(2500)  # in which instructions are drawn

    def stored(place: int) -> Any:
        """2,500 texts, one of which, neither among the first nor the last, ends in its place."""
        told = [f"{i}" for i in range(2500)]
        same = list(told)
        told[1250] += f" {place}"
        drawn = {int(row): text for row, text in zip(order, told, strict=True)}
        asked = [drawn[row] for row in range(2500)]
        rows = Dataset.from_dict({"instruction": asked, "output": same})
        texts: Any = {
            "text": told,
            "document": Mixed(told, str),
            "instruction": Mixed(same, str, [rows], 1.0),
        }[changed]
        return packed_dataset(texts, tokenizer, 64)

    first, second = stored(1), stored(2)
    assert first.cache_files != second.cache_files
    assert first.to_list() != second.to_list()
    assert stored(1).cache_files == first.cache_files


def test_refuses_a_block_without_room_and_a_corpus_without_text(tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="block of 1 tokens"):
        list(pack([[1, 2]], 1))
    with pytest.raises(TaskError, match="no text to pack"):
        packed_dataset([], tokenizer, 8)
    with pytest.raises(TaskError, match="don't fill a block of 8 tokens"):
        packed_dataset(["a"], tokenizer, 8, mask="none")
