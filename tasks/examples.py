"""Training examples with a prompt and what is to be learnt, cut to a length, cuts counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError
from tasks.tokens import IGNORED, bos, segments_encode

if TYPE_CHECKING:
    import datasets

Segments = Sequence[tuple[str, bool]]  # (text, whether it carries the loss)


@dataclass
class Cuts:
    """What a maximum length did to a training set."""

    rows: int = 0  # kept
    cut: int = 0  # of these, cut
    dropped: int = 0  # nothing to learn was left

    def note(self, length: int) -> str:
        """A sentence for the data card; length: the maximum, in tokens."""
        return (
            f"{self.rows} examples kept, {self.cut} of them cut to {length} tokens; "
            f"{self.dropped} dropped, whose cut left nothing to learn"
        )


def examples_dataset(
    examples: Iterable[Segments], tokenizer: Any, max_tokens: int
) -> tuple[datasets.Dataset, Cuts]:
    """input_ids and labels of examples in segments, BOS as the tokenizer does by itself.

    Cut on the right to max_tokens; an example that loses all it teaches is dropped.
    """
    from datasets import Dataset

    if max_tokens < 2:
        raise TaskError(f"task.max_tokens is {max_tokens}; it must be at least 2")
    start = bos(tokenizer)
    cuts = Cuts()
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for segments in examples:
        ids, labels = segments_encode(tokenizer, segments)
        ids, labels = start + ids, [IGNORED] * len(start) + labels
        is_cut = len(ids) > max_tokens
        ids, labels = ids[:max_tokens], labels[:max_tokens]
        if all(label == IGNORED for label in labels):
            cuts.dropped += 1
            continue
        cuts.rows += 1
        cuts.cut += is_cut
        rows["input_ids"].append(ids)
        rows["labels"].append(labels)
    if not cuts.rows:
        raise TaskError(
            f"no training example has anything to learn within task.max_tokens={max_tokens}: "
            "raise it"
        )
    return Dataset.from_dict(rows), cuts


def take(data: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """`count` rows at random, the same every time and in their order; None: all."""
    if count is None or count >= len(data):
        return data
    if count < 1:
        raise TaskError(f"task.max_examples is {count}; it must be at least 1, or null")
    import random

    return data.select(sorted(random.Random(0).sample(range(len(data)), count)))
