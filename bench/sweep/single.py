"""One cell, in this process, on this terminal."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from bench.errors import UserError
from bench.run import checks, distributed
from bench.run.plan import Plan, done, plan
from bench.run.progress import Shown
from bench.sweep import leases
from bench.sweep.attempt import MISTAKES, attempt
from bench.sweep.outcomes import Outcome


def run(config: Any, command: str) -> Outcome:
    """Run the cell of a composed configuration; what is wrong with it is an outcome as well."""
    try:
        planned = plan(config, command)
        checks.configuration(planned.config)
        distributed.check(planned.config["distributed"], planned.method)  # in all processes alike
    except MISTAKES as error:
        return Outcome("the cell", "refused", str(error), command)
    distributed.join(planned.config["device"])
    watcher = leases.Watcher()
    if distributed.first():
        with suppress(UserError):  # which the attempt meets as well, and tells
            watch(planned, watcher)
    return attempt(planned, watcher, Shown(planned.title))


def watch(planned: Plan, watcher: leases.Watcher) -> None:
    """Where an owner elsewhere seems to be dead, wait until the watcher can tell.

    Raises UserError where lease or record cannot be read.
    """
    end, told = time.monotonic() + leases.WATCHED + 5, False
    while time.monotonic() < end:
        try:
            return leases.look(planned.lease, watcher)
        except leases.Taken as taken:
            if not taken.doubtful or done(planned) is not None:
                return None
            if not told:
                told = True
                print(
                    f"{planned.title} {taken}, which has given no sign of life for at least "
                    f"{leases.STALE_AFTER:.0f} s: watching for {leases.WATCHED:.0f} s whether it "
                    "is dead",
                    file=sys.stderr,
                    flush=True,
                )
        time.sleep(min(1.0, leases.WATCHED))
    return None
