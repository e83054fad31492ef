"""The cells of a grid, each composed, named and found complete or not.

Hydra takes a tenth of a second to compose a configuration. Cells of one grid differ by values
more than by groups, so each choice of groups is composed once, and values are put into copies, by
the function that Hydra itself puts them in with.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from bench.errors import UserError
from bench.run import checks
from bench.run.plan import Plan, plan
from bench.sweep import outcomes
from bench.sweep.outcomes import Outcome
from methods import MethodError


@dataclass(frozen=True)
class Job:
    """One cell of a grid, as text: so that ten thousand fit in memory, and pass to a worker."""

    overrides: tuple[str, ...]
    config: str  # JSON, resolved
    cell: str
    title: str
    here: bool = True  # this machine runs it
    since: float = math.inf  # see Plan

    @property
    def command(self) -> str:
        """The command that runs this cell alone."""
        return outcomes.command_line(self.overrides)

    def plan(self) -> Plan:
        """The cell's plan, with its method built. Raises UserError or MethodError."""
        return plan(json.loads(self.config), self.command, here=self.here, since=self.since)


class Composer:
    """Composes cells as Hydra's load_sweep_config does, faster."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The cell's configuration. Raises Hydra's exceptions for what cannot be composed."""
        parsed = self.parser.parse_overrides(list(overrides))
        values = [o for o in parsed if self._is_value(o)]
        groups = tuple(o.input_line for o in parsed if not self._is_value(o))
        if groups not in self.bases:
            base = self.loader.load_sweep_config(self.master, list(groups))
            with open_dict(base):
                del base["hydra"]
            self.bases[groups] = base
        config = copy.deepcopy(self.bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether it sets a value in the composed configuration, and chooses nothing."""
        key = override.key_or_group
        if key.split(".")[0] == "hydra":
            return False
        return isinstance(override.value(), dict) or not self.loader.repository.group_exists(key)


def compose_grid(
    loader: ConfigLoaderImpl,
    master: DictConfig,
    grid: Sequence[Sequence[str]],
    *,
    here: bool = True,
    since: float = math.inf,
) -> list[Job]:
    """The cells of a grid, each once. A cell that cannot be is an outcome; the others go on.

    here: this machine will run them. since: from when on records count under force=true.
    Raises Hydra's exceptions where the command line itself is wrong, before anything runs.
    """
    composer, jobs = Composer(loader, master), dict[str, Job]()
    told = time.monotonic()
    for number, overrides in enumerate(grid):
        config = composer.compose(overrides)
        command = outcomes.command_line(overrides)
        try:
            planned = plan(config, command, here=here, since=since)
            checks.configuration(planned.config)
        except (UserError, MethodError, OmegaConfBaseException) as error:
            outcomes.add(Outcome(" ".join(overrides), "refused", str(error), command))
            continue
        if planned.cell not in jobs:  # FFT, say, is the same cell at every rank
            text = json.dumps(planned.config)
            jobs[planned.cell] = Job(
                tuple(overrides), text, planned.cell, planned.title, here, since
            )
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"composed {number + 1} of {len(grid)} cells", file=sys.stderr, flush=True)
    return list(jobs.values())
