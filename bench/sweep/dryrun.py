"""``python -m bench.dryrun KEY=VALUE ...``: what ``python -m bench -m KEY=VALUE ...`` would run.

Lists the cells of the grid with their steps, tokens and an estimate of time and memory, says which
are complete. Opens each data set as a run would, reads a row and lets each benchmark score an
answer, asks for each model, and says of each whether it is well or what to do. Nothing is trained,
and no weights are loaded.

Exit status: 0, whatever is missing; 2 for a mistake in the configuration.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.errors import UserError, in_words
from bench.run.build import build
from bench.run.plan import Plan, done
from bench.sweep import attempt, outcomes
from bench.sweep.estimate import DEVICES, estimate
from bench.sweep.grid import Job, compose_grid
from bench.sweep.needs import Needs, needs
from bench.sweep.preview import DryRun, Planned, text

# Overrides that have a column of their own, or say nothing of one cell.
_COLUMNS = ("method", "task", "model", "seed", "method.rank", "method.learning_rate")


def look(overrides: Sequence[str], device: str | None = None) -> DryRun:
    """Compose the grid and look at each cell. device: a key of DEVICES; None: by the scale.

    Raises Hydra's and OmegaConf's exceptions, or UserError, for what cannot be composed.
    """
    grid, jobs = compose(overrides)
    if not jobs:
        return DryRun("nothing to run", len(grid), DEVICES[device or "cpu"], [], Needs())
    plans = [job.plan() for job in jobs]
    first = plans[0].config
    chosen = DEVICES[device or ("cpu" if first["scale_name"] == "laptop" else "a100")]
    also = _varied([job.overrides for job in jobs])
    parts = [estimate(plan.config, build(plan.config["method"]), chosen) for plan in plans]
    rows = [
        Planned(plan, words, part, state(plan))
        for plan, words, part in zip(plans, also, parts, strict=True)
    ]
    order = {group: i for i, group in enumerate(dict.fromkeys(row.group for row in rows))}
    rows.sort(key=lambda row: order[row.group])
    names = first["arms"].get("not_in_paper", [])
    added = sorted({p.method.label for p in plans if p.method.name in names})
    title = f"experiment {first['experiment_name']}, scale {first['scale_name']}"
    return DryRun(title, len(grid), chosen, rows, needs([p.config for p in plans]), added)


def compose(overrides: Sequence[str]) -> tuple[list[list[str]], list[Job]]:
    """The combinations of a multirun with these overrides, and the cells that they come to.

    Raises as look.
    """
    if refusal := outcomes.refuse(overrides):
        raise UserError(refusal)
    with initialize_config_module("conf", version_base="1.3"):
        from bench.sweep import plugins  # after Hydra's own modules, which it executes anew

        loader = GlobalHydra.instance().config_loader()
        try:
            master = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        except ValueError as error:  # Hydra's for a number in the place of a group's choice
            raise UserError(f"{' '.join(overrides)}: {error}") from error
        grid = combinations(loader, master)
        name = str(master.hydra.launcher._target_).rpartition(".")[2]
        here = getattr(plugins, name, plugins.LocalLauncher).here
        return grid, compose_grid(loader, master, grid, here=here)


def combinations(loader: ConfigLoader, master: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's BasicSweeper makes them of a composed multirun."""
    params = master.hydra.sweeper.get("params") or {}
    # The last one counts: the command line replaces what the files say.
    lines = [f"{k}={v}" for k, v in params.items()] + list(master.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return list(jobs)


def state(plan: Plan) -> str:
    """Whether the cell's record is there, and how it ended."""
    try:
        known = done(plan)
    except UserError:
        return "broken record"
    if known is None:
        return "to run"
    return "complete" if known["status"] == "ok" else str(known["status"])


def _varied(overrides: Sequence[Sequence[str]]) -> list[str]:
    """For each cell the overrides in which cells differ, those with a column of their own aside."""
    lines = [dict(item.split("=", 1) for item in line) for line in overrides]
    keys = {key for line in lines for key in line if key not in _COLUMNS}
    told = {key for key in keys if len({line.get(key) for line in lines}) > 1}
    return [
        ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in line.items() if k in told)
        for line in lines
    ]


MISTAKES = (*attempt.MISTAKES, HydraException, OSError)


def refused(error: BaseException) -> int:
    """Say what is wrong with the command line, or the system with a file; the exit status."""
    print(_said(error), file=sys.stderr)
    return outcomes.STATUS["refused"]


def _said(error: BaseException | None) -> str:
    """The error's words; Hydra wraps some in errors that say nothing."""
    while error is not None and not str(error).strip():
        error = error.__cause__ or error.__context__
    return str(error) if error is None else in_words(error)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    made = argparse.ArgumentParser(
        prog="python -m bench.dryrun",
        description="Tell what `python -m bench -m KEY=VALUE ...` would run, and what is missing.",
        epilog="example: python -m bench.dryrun experiment=table1_main scale=paper",
    )
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a multirun")
    made.add_argument("--device", choices=DEVICES, help="whose time is estimated")
    made.add_argument("--ids", action="store_true", help="a line a cell, its id first, no more")
    made.add_argument("--all", action="store_true", help="list every cell of a long grid")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the dry run of a command line. Returns 0, or 2 for a mistake in the configuration."""
    return run(parser().parse_intermixed_args(arguments))


def run(options: argparse.Namespace) -> int:
    """What `main` does once the command line is read."""
    try:
        if options.ids:
            jobs = compose(options.overrides)[1]
            said = "\n".join(f"{j.cell} {j.title} {shlex.join(j.overrides)}" for j in jobs)
        else:
            found = look(options.overrides, options.device)
            said = text(found, everything=options.all) if found.rows else ""
    except MISTAKES as error:
        return refused(error)
    if said:
        print(said)
    return outcomes.conclude()
