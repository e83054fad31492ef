"""A worker of bench/sweep/pool.py: reads cells from standard input, reports on standard output."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import sys
import threading
import time
import warnings
from dataclasses import asdict
from typing import IO, Any

from bench.run import interrupts
from bench.run.progress import Progress

SECONDS_BETWEEN_STEPS = 0.5


class Telling(Progress):
    """Progress as lines for the sweep, not too many."""

    def __init__(self, told: IO[str]) -> None:
        self.told, self.total, self.text, self._last = told, 0, "", 0.0

    def start(self, total: int, done: int = 0) -> None:
        self.total = total
        tell(self.told, event="step", at=[done, total, None, ""])

    def note(self, text: str) -> None:
        self.text = text

    def step(self, step: int, loss: float) -> None:
        if time.monotonic() - self._last >= SECONDS_BETWEEN_STEPS:
            self._last = time.monotonic()
            tell(self.told, event="step", at=[step, self.total, loss, self.text])


def tell(stream: IO[str], **message: Any) -> None:
    """Write a message as one line of JSON. Where the sweep is gone, ask this process to stop."""
    try:
        print(json.dumps(message), file=stream, flush=True)
    except BrokenPipeError:
        interrupts.request("the sweep it belongs to has ended")


def channel() -> IO[str]:
    """Standard output, for messages alone: what a library prints or warns of goes to the errors."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    return told


def main() -> None:
    """Run the cells that standard input names, until it is closed or a stop is requested."""
    told = channel()
    cells: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            cells.put(line)
        interrupts.request("the sweep it belongs to has ended")
        cells.put(None)

    try:
        with interrupts.handled():
            threading.Thread(target=listen, daemon=True).start()
            work(cells, told)
    except interrupts.Stopped:
        pass  # between two cells


def work(cells: queue.Queue[str | None], told: IO[str]) -> None:
    """Run cells from the queue until it gives None or a stop is requested.

    told: where messages go: "ready", "step" for progress, and "end" with the outcome.
    """
    from bench.run import kept
    from bench.run.plan import plan
    from bench.sweep.attempt import attempt
    from bench.sweep.leases import Watcher

    watcher = Watcher()
    with kept.between_cells():
        while not interrupts.requested():
            tell(told, event="ready")
            if (line := cells.get()) is None:
                return
            job = json.loads(line)
            since = job.get("since", math.inf)
            planned = plan(json.loads(job["config"]), job["command"], since=since)
            outcome = attempt(planned, watcher, Telling(told))
            tell(told, event="end", outcome=asdict(outcome))


if __name__ == "__main__":
    main()
