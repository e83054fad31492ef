"""The cells of a sweep that have not ended yet."""

from __future__ import annotations

import math
import time
from collections import deque

from bench.sweep import outcomes
from bench.sweep.grid import Job
from bench.sweep.outcomes import Outcome

LOOK_AGAIN = 5.0  # seconds until a cell that runs elsewhere is tried again


class Pending:
    """A queue. What runs elsewhere comes up again after a while, until it is complete.

    patience: seconds after which a cell that still runs elsewhere is left to its owner, from when
    it was first found there.
    """

    def __init__(self, jobs: list[Job], patience: float = math.inf) -> None:
        self.ready, self.waiting = deque(jobs), deque[tuple[float, Job]]()
        self.patience, self.ends = patience, dict[str, float]()

    def __len__(self) -> int:
        return len(self.ready) + len(self.waiting)

    def next(self) -> Job | None:
        """The next cell to try; None: none is due now."""
        if self.ready:
            return self.ready.popleft()
        if self.waiting and self.waiting[0][0] <= time.monotonic():
            return self.waiting.popleft()[1]
        return None

    def settle(self, job: Job, result: Outcome) -> None:
        """What becomes of a cell that was tried."""
        now = time.monotonic()
        end = self.ends.setdefault(job.cell, now + self.patience)
        if result.status == "elsewhere" and now < end:
            self.waiting.append((now + LOOK_AGAIN, job))
        else:
            outcomes.add(result)
