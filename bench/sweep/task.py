"""``python -m bench.sweep.task CELLS INDEX [NUMBER]``: one task of a job array (array.sbatch).

CELLS: a file with a cell a line, each a JSON list of overrides. Task INDEX (from 1) runs NUMBER of
them. Exit status as of ``python -m bench``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import initialize_config_module
from hydra.types import RunMode

from bench import sweep
from bench.run import interrupts
from bench.sweep import outcomes
from bench.sweep.outcomes import Outcome

if TYPE_CHECKING:
    from bench.sweep.grid import Composer

# A lease's owner elsewhere is known to be dead after this time at the latest (see leases.py).
# One that lives longer works at the cell, and this task's resources are better given back.
PATIENCE = 180.0


def read(file: Path, index: int, number: int) -> list[list[str]]:
    """The overrides of each cell of a task. Raises ValueError where there are none."""
    lines = file.read_text().splitlines()[(index - 1) * number : index * number]
    if not lines:
        raise ValueError(f"no cells for task {index}; sbatch's --array goes beyond the list")
    return [json.loads(line) for line in lines]


def main(arguments: list[str] | None = None) -> int:
    """Run the cells of one task of the array and print how they ended. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep.task")
    parser.add_argument("cells", type=Path)
    parser.add_argument("index", type=int)
    parser.add_argument("number", type=int, nargs="?", default=1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        cells = read(options.cells, options.index, options.number)
        with interrupts.handled():
            run(cells, options.cells.stat().st_mtime)
    except (OSError, ValueError, HydraException) as error:
        print(f"{options.cells}: {error}", file=sys.stderr)
        return outcomes.STATUS["refused"]
    except interrupts.Stopped as stopped:
        outcomes.add(Outcome("the task", "stopped", str(stopped), "the same job", whole=True))
    return outcomes.conclude()


def run(cells: list[list[str]], since: float) -> None:
    """Compose the cells from their overrides and run them in this process, one after the other.

    since: from when on records count under force=true, so that a requeued task goes on.
    """
    from bench.sweep import local
    from bench.sweep.grid import compose_grid

    with composer() as here:
        jobs = compose_grid(here.loader, here.master, cells, since=since)
        local.run(jobs, workers=0, patience=PATIENCE, again="the same job")


@contextmanager
def composer() -> Iterator[Composer]:
    """Composes cells in the job as the launcher did, from their overrides."""
    from bench.sweep.grid import Composer

    sweep.register()
    with initialize_config_module("conf", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader = hydra.config_loader
        yield Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


if __name__ == "__main__":
    sys.exit(main())
