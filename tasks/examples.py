"""Training examples with a prompt and what is to be learnt, cut to a length, cuts counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.errors import TaskError
from tasks.packing import table
from tasks.tokens import IGNORED, bos, segments_encode

if TYPE_CHECKING:
    import datasets

Segments = Sequence[tuple[str, bool]]  # (text, whether it carries the loss)
Row = TypeVar("Row")
Made = TypeVar("Made")


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
    data: Collection[Any], segments: Callable[[Any], Segments], tokenizer: Any, max_tokens: int
) -> tuple[datasets.Dataset, Cuts]:
    """input_ids and labels of the segments of each of data, BOS as the tokenizer does by itself.

    Cut on the right to max_tokens; an example that loses all it teaches is dropped. A large set is
    kept on disk in the datasets cache, not in memory.
    """
    from datasets import Features, List, Value

    if max_tokens < 2:
        raise TaskError(f"task.max_tokens is {max_tokens}; it must be at least 2")
    start = bos(tokenizer)

    def rows() -> Iterator[dict[str, Any]]:
        for parts in row_by_row(data, segments, "the training set"):
            ids, labels = segments_encode(tokenizer, parts)
            ids, labels = start + ids, [IGNORED] * len(start) + labels
            kept = labels[:max_tokens]
            if any(label != IGNORED for label in kept):
                is_cut = len(ids) > max_tokens
                yield {"input_ids": ids[:max_tokens], "labels": kept, "is_cut": is_cut}

    def key() -> Iterator[str]:
        yield from (str(start), str(max_tokens))
        # Every text: it is read in a fraction of the time that it is tokenised in, and tells of
        # another template too, wherever in the code that lies.
        yield from map(json.dumps, row_by_row(data, segments, "the training set"))

    ids = List(Value("int32"))
    features = Features({"input_ids": ids, "labels": ids, "is_cut": Value("bool")})
    made = table(rows, features, len(data), tokenizer, key)
    if not len(made):
        raise TaskError(
            f"no training example has anything to learn within task.max_tokens={max_tokens}: "
            "raise it"
        )
    cuts = Cuts(rows=len(made), cut=sum(made["is_cut"][:]), dropped=len(data) - len(made))
    return made.remove_columns("is_cut"), cuts


def row_by_row(rows: Iterable[Row], made: Callable[[Row], Made], where: str) -> Iterator[Made]:
    """What is made of each row of a split; a TaskError says which row, as they are read."""
    for number, row in enumerate(rows, start=1):
        try:
            yield made(row)
        except TaskError as error:
            raise TaskError(f"{where}, row {number}: {error}") from error


def take(data: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """`count` rows at random, the same every time and in their order; None: all."""
    if count is None or count >= len(data):
        return data
    if count < 1:
        raise TaskError(f"task.max_examples is {count}; it must be at least 1, or null")
    import random

    return data.select(sorted(random.Random(0).sample(range(len(data)), count)))
