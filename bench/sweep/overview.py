"""One overview of a sweep: cells done, running, failed, left, and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.run.progress import Progress
from bench.sweep.outcomes import Outcome

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Running:
    """A cell at work."""

    title: str
    begin: float = field(default_factory=time.monotonic)
    step: int = 0
    total: int = 0
    loss: float | None = None
    note: str = ""
    told: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Title, step, loss and last score in one line."""
        steps = f"step {self.step}/{self.total}" if self.total else "starting"
        loss = "" if self.loss is None else f"  loss {self.loss:.3f}"
        return f"{self.title}  {steps}{loss}  {self.note}".rstrip()


class Overview:
    """Lines that renew themselves on a terminal; without one, a line for each cell that ends."""

    def __init__(self, cells: int, done_before: int, workers: int) -> None:
        self.cells, self.workers = cells, workers
        self.counts = Counter({"done before": done_before})
        self.running: dict[int, Running] = {}
        self.seconds: list[float] = []  # that cells took
        self.live: Live | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> Overview:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self.live = Live(get_renderable=self._picture, console=console, refresh_per_second=2)
            self.live.start()
        else:
            self.say(self.header())
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live is not None:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def begin(self, slot: int, title: str) -> None:
        """A cell begins; slot: the number of the worker that runs it."""
        with self._lock:
            self.running[slot] = Running(title)

    def step(self, slot: int, step: int, total: int, loss: float | None, note: str) -> None:
        """Enter the step of the slot's cell. Without a terminal, print it at most once a minute."""
        with self._lock:
            cell = self.running[slot]
            cell.step, cell.total, cell.loss, cell.note = step, total, loss, note
            if self.live is None and time.monotonic() - cell.told > SECONDS_BETWEEN_LINES:
                cell.told = time.monotonic()
                self.say(f"  {cell.line()}")

    def end(self, slot: int, outcome: Outcome) -> None:
        """The slot's cell has ended. Prints a line, unless another process has the cell."""
        with self._lock:
            cell = self.running.pop(slot)
            if outcome.status == "elsewhere":  # it comes up again
                return
            took = time.monotonic() - cell.begin
            if outcome.fresh:
                self.seconds.append(took)
            self.counts[outcome.status if outcome.fresh else "done before"] += 1
            how = outcome.status if outcome.fresh else "done before"
            what = outcome.note or outcome.reason or ""
            line = f"{outcome.title}: {how}{', ' if what else ''}{what} ({took:.0f} s)"
            self.say(f"[{self.ended}/{self.cells}] {line}{self._left()}")

    def progress(self, slot: int) -> Progress:
        """For the cell that runs in this slot of this process."""
        return _Slot(self, slot)

    @property
    def ended(self) -> int:
        """How many cells have ended, those done before included."""
        return sum(self.counts.values())

    def header(self) -> str:
        """How many cells there are, how many in each state, and how many are left."""
        counts = [f"{n} {status}" for status, n in self.counts.items() if n]
        left = self.cells - self.ended - len(self.running)
        words = [f"{self.cells} cells", *counts, f"{len(self.running)} running", f"{left} left"]
        return ", ".join(words)

    def _left(self) -> str:
        left = self.cells - self.ended
        if not self.seconds or not left:
            return ""
        seconds = sum(self.seconds) / len(self.seconds) * left / max(self.workers, 1)
        return f"; about {duration(seconds)} left"

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            lines = [self.header() + self._left()]
            lines += [f"  {cell.line()}" for _, cell in sorted(self.running.items())]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


class _Slot(Progress):
    def __init__(self, overview: Overview, slot: int) -> None:
        self.overview, self.slot, self.total, self.text = overview, slot, 0, ""

    def start(self, total: int, done: int = 0) -> None:
        self.total = total
        self.overview.step(self.slot, done, total, None, "")

    def note(self, text: str) -> None:
        self.text = text

    def step(self, step: int, loss: float) -> None:
        self.overview.step(self.slot, step, self.total, loss, self.text)


def duration(seconds: float) -> str:
    """In the unit that suits: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
