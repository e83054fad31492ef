"""The sweeper and launchers, as Hydra sees them; local.py, array.py and slurm.py do the work."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bench.errors import UserError
from bench.sweep import outcomes


class GridSweeper(BasicSweeper):
    """Hydra's own, less a full composition of every cell before the launcher composes it."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """The launchers compose all cells before they run any."""


class _GridLauncher(Launcher):
    """Composes a grid and hands it on. ``settings``: what conf/hydra/launcher says."""

    here = True  # this machine runs the cells

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from bench.sweep.grid import compose_grid

        found = [] if self.here else searchpath(self.config)
        grid = [[*found, *overrides] for overrides in job_overrides]
        try:
            jobs = compose_grid(self.loader, self.config, grid, here=self.here, since=time.time())
            if not self.here:
                warn_of_auto(jobs)
            self.run(jobs)
        except UserError as error:  # of the sweep as a whole; Hydra would print where it was raised
            command = outcomes.command_line(sys.argv[1:])
            outcomes.add(outcomes.Outcome("the sweep", "refused", str(error), command))
        done = JobStatus.COMPLETED
        return [JobReturn(overrides=o, status=done) for o in job_overrides]

    def run(self, jobs: list[Any]) -> None:
        """Run the cells (bench.sweep.grid.Job). Raises UserError for the sweep as a whole."""
        raise NotImplementedError


class LocalLauncher(_GridLauncher):
    """On this machine: workers=0 in this process, else in so many processes."""

    def run(self, jobs: list[Any]) -> None:
        from bench.sweep import local

        local.run(jobs, **self.settings)


class ArrayLauncher(_GridLauncher):
    """A SLURM job array of single cells; returns at once."""

    here = False

    def run(self, jobs: list[Any]) -> None:
        from bench.sweep import array

        array.run(jobs, self.settings)


class SubmititLauncher(_GridLauncher):
    """SLURM jobs through submitit; waits for them."""

    here = False

    def run(self, jobs: list[Any]) -> None:
        from bench.sweep import slurm

        slurm.run(jobs, self.settings)


def searchpath(config: DictConfig) -> list[str]:
    """The override that makes a job find the configuration files of --config-dir and the like."""
    paths = [
        "'" + f"{source.schema}://{source.path}".replace("'", r"\'") + "'"
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")
    ]
    return [f"hydra.searchpath=[{','.join(paths)}]"] if paths else []


def warn_of_auto(jobs: Sequence[Any]) -> None:
    """Say that the precision of cells for other machines was settled by this one."""
    for job in jobs:
        if json.loads(job.config)["precision"] == "auto":
            settled = job.plan().placement.precision
            print(
                f"precision=auto is {settled} on this machine. A node where it is another runs "
                "another cell: better say precision=bf16 or precision=fp32.",
                file=sys.stderr,
            )
            return
