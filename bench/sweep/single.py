"""One cell, in this process, on this terminal."""

from __future__ import annotations

from typing import Any

from bench.run import distributed
from bench.run.plan import plan
from bench.run.progress import Shown
from bench.sweep.attempt import MISTAKES, attempt
from bench.sweep.leases import Watcher
from bench.sweep.outcomes import Outcome


def run(config: Any, command: str) -> Outcome:
    """Run the cell of a composed configuration; what is wrong with it is an outcome as well."""
    try:
        planned = plan(config, command)
        distributed.check(planned.config["distributed"], planned.method)  # in all processes alike
    except MISTAKES as error:
        return Outcome("the cell", "refused", str(error), command)
    distributed.join(planned.config["device"])
    return attempt(planned, Watcher(), Shown(planned.title))
