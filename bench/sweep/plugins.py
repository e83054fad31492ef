"""The sweeper and launchers, as Hydra sees them; local.py, array.py and slurm.py do the work."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from bench.errors import UserError, in_words
from bench.run.inputs import check_flag, is_whole
from bench.sweep import outcomes


class GridSweeper(BasicSweeper):
    """Hydra's own, less a full composition of every cell before the launcher composes it."""

    def sweep(self, arguments: list[str]) -> Any:
        """Hydra writes the command's configuration down first: where only we can read it, and in a
        folder that goes again, since it may hold a secret.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="mora-bench-") as folder:
                with read_write(self.config):
                    self.config.hydra.sweep.dir = folder
                return super().sweep(arguments)
        except OSError as error:  # no such folder can be made, or the disk is full
            return refuse(error)

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

        found = outcomes.searchpath(self.config)
        grid = [[*found, *overrides] for overrides in job_overrides]
        try:
            check(self.settings)
            if not self.here:
                refuse_another_config(self.config)
            jobs = compose_grid(self.loader, self.config, grid, here=self.here, since=time.time())
            if not self.here:
                warn_of_auto(jobs)
            self.run(jobs)
        except (UserError, OSError) as error:
            refuse(error)
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


def refuse(error: UserError | OSError) -> None:
    """The sweep as a whole cannot be. Were the error raised, Hydra would print where it was."""
    command = outcomes.command_line(sys.argv[1:])
    outcomes.add(outcomes.Outcome("the sweep", "refused", in_words(error), command, whole=True))


# Whole numbers among the launchers' settings: the least that each may be, and whether null may be.
WHOLE = {"workers": (0, True), "cells_per_task": (1, False), "array_parallelism": (1, True)}


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError where one of a launcher's own settings cannot be."""
    for key, (least, may_be_null) in WHOLE.items():
        value = settings.get(key, least)
        if value is None and may_be_null:
            continue
        if not is_whole(value) or value < least:
            raise UserError(
                f"hydra.launcher.{key}={value} must be a whole number of at least {least}."
            )
    check_flag("hydra.launcher.submit", settings.get("submit", True))
    if not isinstance(options := settings.get("options", {}), Mapping):
        raise UserError(
            f"hydra.launcher.options={options} must be a table: +hydra.launcher.options.KEY=VALUE."
        )


def refuse_another_config(config: DictConfig) -> None:
    """Raise UserError for --config-name: a job composes conf/config.yaml, and so another cell."""
    if (name := config.hydra.job.config_name) != "config":
        raise UserError(
            f"--config-name={name} does not reach the jobs of a cluster. Put what that file says "
            "into an experiment or another group of files, which --config-dir may name."
        )


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
