"""``torchrun -m bench.sweep.process CELL ANSWER``: one of the processes that train a cell together.

CELL: a JSON file with the cell's configuration and overrides. The first process reports its steps
as lines of JSON on standard output, and writes how the cell ended to the file ANSWER.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.run import distributed, interrupts
from bench.sweep import outcomes
from bench.sweep.outcomes import Outcome
from bench.sweep.worker import Telling, channel


def main(cell: Path, answer: Path) -> int:
    """Work at the cell; the exit status, as of ``python -m bench``."""
    told = channel()
    job = json.loads(cell.read_text())
    command = outcomes.command_line(job["overrides"])
    try:
        with interrupts.handled():
            outcome = work(job["config"], command, Telling(told))
    except interrupts.Stopped as stopped:
        outcome = Outcome("the cell", "stopped", f"{stopped}; it can be resumed", command)
    if distributed.first():
        answer.write_text(json.dumps(asdict(outcome)))
    return outcomes.STATUS[outcome.status]


def work(config: dict[str, Any], command: str, progress: Telling) -> Outcome:
    """The cell's outcome; what is wrong with it is one as well."""
    from bench.run.plan import plan
    from bench.sweep.attempt import MISTAKES, attempt
    from bench.sweep.leases import Watcher

    try:
        planned = plan(config, command)
        distributed.check(planned.config["distributed"], planned.method)
    except MISTAKES as error:
        return Outcome("the cell", "refused", str(error), command)
    distributed.join(planned.config["device"])
    return attempt(planned, Watcher(), progress)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
