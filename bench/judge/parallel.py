"""Work that falls into many equal parts, done by as many processes as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

MOST_PROCESSES = 8
Part = TypeVar("Part")
Made = TypeVar("Made")


def mapped(
    work: Callable[[Part], Made], parts: Sequence[Part], *, least: int, chunk: int = 1
) -> list[Made]:
    """What `work` makes of each part, in order. Fewer parts than `least` are no other's work.

    chunk: parts that a process takes at a time.
    """
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if len(parts) < least or processes < 2:
        return [work(part) for part in parts]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(work, parts, chunksize=chunk))
