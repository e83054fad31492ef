"""A corpus mixed with general instructions, made text by text as it is read."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tasks.tokens import TEXTS_AT_A_TIME, in_parts

if TYPE_CHECKING:
    import datasets


class Mixed(Sequence[str]):
    """Each document, as `made` makes it, and `ratio` instructions a document after it.

    instructions: sets of rows, drawn at random (the same every time), each row once before any
    comes again. ratio: 0.5: one after every second document. No text is kept: a corpus may be
    large.
    """

    def __init__(
        self,
        documents: Sequence[str],
        made: Callable[[str], str],
        instructions: Sequence[datasets.Dataset] = (),
        ratio: float = 0.0,
    ) -> None:
        self.documents = documents
        self.made = made
        self.instructions = list(instructions)
        self.ends = list(accumulate(map(len, self.instructions)))
        self.order = np.random.default_rng(0).permutation(self.ends[-1] if self.ends else 0)
        self.ratio = ratio if len(self.order) else 0.0

    def __len__(self) -> int:
        return self._start(len(self.documents))

    def key(self) -> Iterator[str]:
        """What determines the texts: what they are made of, and how the outermost turn out.

        To make all of a large corpus would take hours each time its key is asked for.
        """
        yield str(self.ratio)
        yield from chain.from_iterable(in_parts(self.documents))
        for rows in self.instructions:
            for first in range(0, len(rows), TEXTS_AT_A_TIME):
                yield json.dumps(rows[first : first + TEXTS_AT_A_TIME])
        yield from self[:TEXTS_AT_A_TIME]
        yield from self[-TEXTS_AT_A_TIME:]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._at(index % len(self))

    def _start(self, document: int) -> int:
        """Where a document stands: after those before it and their instructions."""
        return document + int(document * self.ratio)

    def _at(self, index: int) -> str:
        document = bisect_right(range(len(self.documents)), index, key=self._start) - 1
        after = index - self._start(document)
        if after == 0:
            return self.made(self.documents[document])
        drawn = int(self.order[(int(document * self.ratio) + after - 1) % len(self.order)])
        which = bisect_right(self.ends, drawn)
        rows = self.instructions[which]
        return instruction_text(rows[drawn - self.ends[which] + len(rows)])


def instruction_text(row: Mapping[str, Any]) -> str:
    """An instruction and its response, line by line; of a conversation all turns.

    >>> instruction_text({"system_prompt": "", "question": "2 + 2?", "response": "4"})
    '2 + 2?\\n4'
    """
    if "messages" in row:
        parts = [message["content"] for message in row["messages"]]
    else:
        asked = ("system_prompt", "question", "instruction", "response", "output")
        parts = [row[column] for column in asked if row.get(column)]
    return "\n".join(part.strip() for part in parts)
