"""A grid on this machine: one cell after the other here, or several at once in workers.

Cells of several processes run last, one after the other, each in processes that torchrun starts.

A cell that fails does not stop the others. One that another process runs is looked at again
later: it will be complete, or its owner dead. Asked to leave, the cells that run write their
checkpoints, and the same command goes on.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from bench.errors import UserError
from bench.run import interrupts
from bench.run.plan import done
from bench.sweep import outcomes, pool, together
from bench.sweep.grid import Job
from bench.sweep.leases import Watcher
from bench.sweep.outcomes import Outcome, of_record
from bench.sweep.overview import Overview
from bench.sweep.pending import Pending


def run(jobs: list[Job], workers: int | None, patience: float = math.inf, again: str = "") -> None:
    """Run the cells that are not complete; how each ended goes to bench.sweep.outcomes.

    patience: seconds to wait at most for cells that run elsewhere. again: what goes on with them,
    where it is not this command.
    """
    todo = split(jobs)
    if workers is None:
        workers = pool.gpus() or 2
    alone, spread = list[Job](), list[Job]()
    for job in todo:
        (spread if together.needed(json.loads(job.config)) else alone).append(job)
    pending, others = Pending(alone, patience), Pending(spread, patience)
    with Overview(len(jobs), len(jobs) - len(todo), workers) as overview:
        if todo and workers == 0:
            one_by_one(pending, overview)
        elif alone:
            pool.Pool(min(workers, len(alone)), workers, pending, overview).run()
        if spread:
            one_by_one(others, overview)
    if (left := len(pending) + len(others)) or interrupts.requested():
        reason = f"{interrupts.requested()}; {left} cells have not begun"
        again = again or outcomes.command_line(sys.argv[1:])
        outcomes.add(Outcome("the sweep", "stopped", reason, again, whole=True))


def split(jobs: list[Job]) -> list[Job]:
    """The cells that are to run. Complete ones, and torn records in their place, are outcomes."""
    listed: dict[Path, set[str]] = {}
    todo = []
    for job in jobs:
        plan = job.plan()
        if plan.folder not in listed:  # one look at the folder, not one for each of its cells
            names = plan.folder.iterdir() if plan.folder.is_dir() else ()
            listed[plan.folder] = {file.name for file in names}
        try:
            known = done(plan)
        except UserError as error:
            outcomes.add(Outcome(plan.title, "refused", str(error), plan.command))
            continue
        if known is None or {plan.lease.name, plan.checkpoints.name} & listed[plan.folder]:
            todo.append(job)  # with something to tidy it is tried as well
        else:
            outcomes.add(of_record(plan.title, plan.command, known, fresh=False))
    return todo


def one_by_one(pending: Pending, overview: Overview) -> None:
    """All cells, in this process or, where they want several, in others that it starts."""
    from bench.run import kept

    watcher = Watcher()
    with kept.between_cells():
        while len(pending) and not interrupts.requested():
            job = pending.next()
            if job is None:
                time.sleep(0.2)
                continue
            plan = job.plan()
            overview.begin(0, plan.title)
            shown = overview.progress(0)
            result = together.run(plan, job.overrides, watcher, shown, overview.say)
            overview.end(0, result)
            pending.settle(job, result)
