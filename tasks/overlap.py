"""Test texts that a training text holds in part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

RUN_OF_WORDS = 13  # the length of a shared run that counts as overlap (GPT-3's, lm-eval's)
TEXTS_SCANNED = 100_000  # a minute or two


def overlap(train: Iterable[str], test: Sequence[str], run: int = RUN_OF_WORDS) -> dict[str, Any]:
    """How many test texts share a run of `run` words with a training text.

    Words are lower-cased letters and digits. A text shorter than the run counts as one run. Of a
    huge corpus the first TEXTS_SCANNED are looked at. Returns run_of_words, train_rows (looked
    at), test_rows, rows_that_overlap and `first`, up to ten of their indices.
    """
    owners: dict[int, set[int]] = {}
    for index, text in enumerate(test):
        for piece in _runs(text, run):
            owners.setdefault(piece, set()).add(index)
    hit: set[int] = set()
    scanned = 0
    for text in islice(train, TEXTS_SCANNED):
        scanned += 1
        for piece in _runs(text, run):
            if piece in owners:
                hit |= owners[piece]
    return {
        "run_of_words": run,
        "train_rows": scanned,
        "test_rows": len(test),
        "rows_that_overlap": len(hit),
        "first": sorted(hit)[:10],
    }


def _runs(text: str, run: int) -> Iterator[int]:
    words = re.findall(r"[^\W_]+", text.lower())
    if not words:
        return
    for start in range(max(1, len(words) - run + 1)):
        yield hash(tuple(words[start : start + run]))
