"""Where a small cell's processor time goes: imports, loading, data, training, scoring, writing.

    python scripts/profile_cell.py --out results/cost              one cell of each form of task
    python scripts/profile_cell.py task=facts model=docs_1m        a cell of yours

Seconds are of this process's processor time, not of the clock, so that a busy machine tells the
same; each cell has a fresh process and one thread. A part's time is without the parts inside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEPS = 50
TINY = ("model=tiny", "trainer.batch_size=8")
CELLS = {
    "uuid": ("task=uuid", "task.pairs=8", *TINY),
    "facts": ("task=facts", "task.facts=32", "task.values=256", "model=docs_1m"),
    "text": ("task=text", *TINY),
    "docs": ("task=docs", *TINY),
    "math_symbolic": ("task=math_symbolic", *TINY),
}
SHARED = (f"trainer.max_steps={STEPS}", "tracker=none", "threads=1", "device=cpu", "precision=fp32")
PARTS = (
    "imports", "configuration", "checks", "base", "data", "scorers", "first step",
    "other steps", "scoring", "merge audit", "data card", "writing", "the rest",
)  # fmt: skip


class Clock:
    """Shares the process's time out among the parts that are entered, the innermost one first."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._parts, self._last = ["the rest"], 0.0

    def switch(self) -> None:
        """What has gone by belongs to the part at hand."""
        now = time.process_time()
        self.spent[self._parts[-1]] += now - self._last
        self._last = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, time is this part's."""
        self.switch()
        self._parts.append(name)
        try:
            yield
        finally:
            self.switch()
            self._parts.pop()

    def rename(self, name: str) -> None:
        """From here on the part at hand is another one."""
        self.switch()
        self._parts[-1] = name

    def wrap(self, owner: Any, function: str, name: str | None = None) -> None:
        """Calls of owner.function are the part ``name``; None: of its first argument's name."""
        inner: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name or {"card": "data card"}.get(args[0], args[0])):
                return inner(*args, **kwargs)

        setattr(owner, function, timed)


def profile(overrides: list[str]) -> dict[str, float]:
    """Seconds of each part of a cell that runs here and now. Raises SystemExit where it fails."""
    clock = Clock()
    with clock.part("imports"):
        from bench.run import imports

        imports.ahead("bench.run.cell")  # as a cell does
        from bench.run import analysis, kept, scoring, training
        from bench.run.progress import Progress
        from bench.sweep import attempt, dryrun, leases

    class Steps(Progress):
        """Tells the first step from the others."""

        def step(self, step: int, loss: float) -> None:
            if step == 1:
                clock.rename("other steps")

    clock.wrap(kept, "once")
    clock.wrap(attempt, "prepare", "checks")
    clock.wrap(training, "train", "first step")
    clock.wrap(analysis, "merge_audit", "merge audit")
    clock.wrap(attempt.records, "write", "writing")
    for function in ("before", "along", "final"):
        clock.wrap(scoring.Scoring, function, "scoring")
    with tempfile.TemporaryDirectory() as folder:
        with clock.part("configuration"):
            (job,) = dryrun.compose([*SHARED, *overrides, f"results_dir={folder}"])[1]
            plan = job.plan()
        outcome = attempt.attempt(plan, leases.Watcher(), Steps())
    clock.switch()
    if outcome.status != "ok":
        sys.exit(f"the cell ended {outcome.status}: {outcome.reason}")
    clock.spent["checks"] += clock.spent.pop("task", 0.0)
    return dict(clock.spent)


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Markdown: a row a part, a column a cell."""
    lines = [f"| part | {' | '.join(rows)} |", "| --- |" + " ---: |" * len(rows)]
    for part in PARTS:
        seconds = " | ".join(f"{row.get(part, 0):.2f}" for row in rows.values())
        lines += [f"| {part} | {seconds} |"]
    total = " | ".join(f"{sum(row.values()):.2f}" for row in rows.values())
    return [*lines, f"| **all** | {total} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="of a cell, as for python -m bench")
    parser.add_argument("--out", type=Path, help="folder for cells.md, of one cell of each form")
    options = parser.parse_args()
    if options.overrides:
        print(json.dumps(profile(options.overrides)))
        return
    rows = {}
    for name, overrides in CELLS.items():
        done = subprocess.run(
            [sys.executable, __file__, *overrides], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, {part: round(seconds, 2) for part, seconds in rows[name].items()}, flush=True)
    import timing

    lines = [
        "# Where a small cell's processor time goes",
        "",
        "Made by `python scripts/profile_cell.py --out results/cost`, which states the cells.",
        f"Seconds of processor time, {STEPS} steps, one thread, fp32, {timing.processor()}.",
        "",
        *table(rows),
    ]
    print("\n".join(lines))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "cells.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
