"""Progress of a training run: a bar with loss and time left, or plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """Shows nothing; what a training run needs of any progress."""

    def start(self, total: int, done: int = 0) -> None:
        """Training begins: ``done`` of ``total`` steps are behind it."""

    def note(self, text: str) -> None:
        """A score, shown beside the loss until the next one."""

    def step(self, step: int, loss: float) -> None:
        """A step is done."""

    def stop(self) -> None:
        """Training has ended. May be called again."""


class Shown(Progress):
    """On the terminal that the command runs in."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Bar | None = None
        self.total = self.first = 0
        self._begin = self._last = 0.0
        self._note = ""

    def start(self, total: int, done: int = 0) -> None:
        self.total, self.first = total, done
        self._begin = self._last = time.monotonic()
        if done:
            print(f"{self.title}  goes on from step {done}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
            self.bar.add_task(self.title, total=total, completed=done, loss="-", note="")

    def note(self, text: str) -> None:
        self._note = text

    def step(self, step: int, loss: float) -> None:
        if self.bar is not None:
            self.bar.update(
                self.bar.task_ids[0], completed=step, loss=f"{loss:.3f}", note=self._note
            )
            return
        now = time.monotonic()
        if step == self.total or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            left = (now - self._begin) / max(step - self.first, 1) * (self.total - step)
            print(
                f"{self.title}  step {step}/{self.total}  loss {loss:.3f}  {self._note}"
                f"  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
