"""``python -m bench.dryrun KEY=VALUE ...``: what ``python -m bench -m KEY=VALUE ...`` would run.

Lists the cells of the grid with their steps, tokens and an estimate of time and memory, says which
are complete, and names the data sets and models that are missing here. Nothing is trained,
downloaded or written.

Exit status: 0, whatever is missing; 2 for a mistake in the configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.errors import UserError
from bench.judge.cells import format_rate
from bench.run import models, wheel
from bench.run.build import build
from bench.run.plan import Plan, done
from bench.sweep import outcomes
from bench.sweep.estimate import DEVICES, FORMULAS, Device, Estimate, estimate
from bench.sweep.grid import Job, compose_grid
from methods import MethodError
from tasks import Task, TaskError
from tasks.data import require
from tasks.forgetting import Forgetting

LISTED = 40  # more cells than these are summed up by task, model, method and rank, unless --all
NOT_FOUND = " was not found: "  # in the message of a missing data set
# Overrides that have a column of their own, or say nothing of one cell.
_COLUMNS = ("method", "task", "model", "seed", "method.rank", "method.learning_rate")


@dataclass(frozen=True)
class Row:
    """One cell of the grid: what it is, what it takes, and whether it is there."""

    plan: Plan
    also: str  # the varied settings without a column, such as "trial=high"
    estimate: Estimate
    state: str  # complete | diverged | to run | broken record

    @property
    def group(self) -> tuple[str, str, str, int]:
        config = self.plan.config
        name, rank = self.plan.method.label, self.plan.method.settings().get("rank")
        return task_name(config), config["model"]["label"], name, rank or 0


@dataclass
class DryRun:
    """What a command would do."""

    title: str
    combinations: int
    device: Device
    rows: list[Row]
    missing: list[str]
    ours: list[str] = field(default_factory=list)  # labels of methods that are not in the paper


def look(overrides: Sequence[str], device: str | None = None) -> DryRun:
    """Compose the grid and look at each cell. device: a key of DEVICES; None: by the scale.

    Raises Hydra's and OmegaConf's exceptions, or UserError, for what cannot be composed.
    """
    if refusal := outcomes.refuse(overrides):
        raise UserError(refusal)
    grid, jobs = compose(overrides)
    if not jobs:
        return DryRun("nothing to run", len(grid), DEVICES[device or "cpu"], [], [])
    plans = [job.plan() for job in jobs]
    first = plans[0].config
    chosen = DEVICES[device or ("cpu" if first["scale_name"] == "laptop" else "a100")]
    also = _varied([job.overrides for job in jobs])
    rows = [
        Row(plan, words, estimate(plan.config, plan.method, chosen), state(plan))
        for plan, words in zip(plans, also, strict=True)
    ]
    order = {group: i for i, group in enumerate(dict.fromkeys(row.group for row in rows))}
    rows.sort(key=lambda row: order[row.group])
    names = first["arms"].get("not_in_paper", [])
    ours = sorted({p.method.label for p in plans if p.method.name in names})
    title = f"experiment {first['experiment_name']}, scale {first['scale_name']}"
    return DryRun(title, len(grid), chosen, rows, missing([p.config for p in plans]), ours)


def compose(overrides: Sequence[str]) -> tuple[list[list[str]], list[Job]]:
    """The combinations of a multirun with these overrides, and the cells that they come to."""
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            master = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        except ValueError as error:  # Hydra's for a number in the place of a group's choice
            raise UserError(f"{' '.join(overrides)}: {error}") from error
        grid = combinations(loader, master)
        return grid, compose_grid(loader, master, grid)


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


def task_name(config: Mapping[str, Any]) -> str:
    return str(config["task"].get("name") or config["task"]["_target_"])


def _varied(overrides: Sequence[Sequence[str]]) -> list[str]:
    """For each cell the overrides in which cells differ, those with a column of their own aside."""
    lines = [dict(item.split("=", 1) for item in line) for line in overrides]
    keys = {key for line in lines for key in line if key not in _COLUMNS}
    told = {key for key in keys if len({line.get(key) for line in lines}) > 1}
    return [
        ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in line.items() if k in told)
        for line in lines
    ]


# ---- what is missing --------------------------------------------------------------------------


def missing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A message for each data set and model of the cells that cannot be had here."""
    problems: list[str] = []
    for task in _distinct(config["task"] for config in configs):
        problems += _task_problems(task)
    for model in _distinct(config["model"] for config in configs):
        problems += _problems([partial(check_model, model)])
    return list(dict.fromkeys(problems))


def _distinct(parts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ in more than the seed."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        key = json.dumps({k: v for k, v in part.items() if k != "seed"}, sort_keys=True)
        found.setdefault(key, dict(part))
    return list(found.values())


def _task_problems(config: Mapping[str, Any]) -> list[str]:
    """What the task lacks: all of it, where a run would stop at the first."""
    try:
        task: Task = build(config)
        task.prepare()
    except TaskError as error:
        problems = [str(error)]
    else:
        return []
    benchmarks = getattr(task, "benchmarks", None)
    needed = [s for score in (benchmarks.scores if benchmarks else ()) for s in score.sources]
    folder = config["data_dir"]
    problems += _problems(partial(require, source, split, folder) for source, split in needed)
    parts = [
        Forgetting([name], data_dir=folder, limit=task.forgetting.limit)
        for name in task.forgetting.names
    ]
    return problems + _problems(part.prepare for part in parts)


def _problems(checks: Iterable[Callable[[], Any]]) -> list[str]:
    found = []
    for check in checks:
        try:
            check()
        except (TaskError, UserError) as error:
            found.append(str(error))
    return found


def check_model(config: Mapping[str, Any]) -> None:
    """As models.check, but for a wheel that the first run would download."""
    if config["kind"] == "wheel" and not os.environ.get("MORA_BENCH_WHEEL"):
        source = wheel.Wheel(config["source"], config["sha256"], config["member"])
        kept = wheel.cache_folder() / "wheels" / f"{source.stem}.whl"
        if not (source.folder / wheel.MANIFEST).is_file() and not kept.is_file():
            raise UserError(
                f"{config['source']} is not in the cache: the first run fetches it with pip "
                "(93 MB)."
            )
        return
    models.check(config)


# ---- text -------------------------------------------------------------------------------------


def text(found: DryRun, *, everything: bool = False) -> str:
    """The dry run for people."""
    rows = found.rows
    lines = [f"{found.title}: {_count(len(rows), 'cell')}"]
    if found.combinations > len(rows):
        lines[0] += f" ({found.combinations} combinations, some of them the same cell)"
    if rows:
        lines += [f"results_dir {folder}: {said}" for folder, said in _folders(rows)]
        lines += ["", *_table(rows, everything), *_sums(rows)]
    if found.ours:
        lines += ["", f"Not in the paper's table, and so ours: {', '.join(found.ours)}"]
    lines += ["", "Missing here:" if found.missing else "No data set and no model is missing."]
    lines += [f"  {line}" for line in _shortened(found.missing)]
    lines += ["", f"Time is that of {found.device.label}. Estimates, not measurements:"]
    lines.append(FORMULAS)
    return "\n".join(lines)


def _shortened(problems: Sequence[str]) -> list[str]:
    """Many data sets are missing for one reason: it is told once, after their names."""
    names, why = [], ""
    others = []
    for problem in problems:
        name, found, reason = problem.partition(NOT_FOUND)
        if not found:
            others.append(problem)
            continue
        names.append(name.rpartition("data set ")[2])
        why = why or f"for {names[0].partition(' ')[0]}: {reason}"
    return [*names, *([why] if names else []), *others]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _folders(rows: Sequence[Row]) -> list[tuple[Path, str]]:
    """Each results folder with how many of its cells are in which state."""
    counts: dict[Path, dict[str, int]] = {}
    for row in rows:
        states = counts.setdefault(row.plan.folder, {})
        states[row.state] = states.get(row.state, 0) + 1
    return [(f, ", ".join(f"{n:,} {s}" for s, n in c.items())) for f, c in counts.items()]


def _table(rows: Sequence[Row], everything: bool) -> list[str]:
    """All cells, or where they are many the groups that they form."""
    if len(rows) <= LISTED or everything:
        return aligned(_cells(rows))
    lines = aligned(_groups(rows))
    return [*lines, f"(--all lists the {len(rows):,} cells)"]


Columns = dict[str, list[str]]
LEFT = ("task", "model", "method", "also", "state", "cell", "rates")


def _cells(rows: Sequence[Row]) -> Columns:
    columns: Columns = {
        "task": [row.group[0] for row in rows],
        "model": [row.group[1] for row in rows],
        "method": [row.group[2] for row in rows],
        "rank": [str(row.group[3] or "-") for row in rows],
        "rate": [format_rate(row.plan.method.learning_rate) for row in rows],
        "seed": [str(row.plan.config["seed"]) for row in rows],
        "also": [row.also for row in rows],
        "steps": [f"{row.estimate.steps:,}" for row in rows],
        "tokens": [_amount(row.estimate.tokens) for row in rows],
        "trained": [_amount(row.estimate.trainable) for row in rows],
        "time": [_hours(row.estimate.hours) for row in rows],
        "memory": [_bytes(row.estimate.bytes) for row in rows],
        "state": [row.state for row in rows],
        "cell": [row.plan.cell for row in rows],
    }
    if not any(columns["also"]):
        del columns["also"]
    return columns


def _groups(rows: Sequence[Row]) -> Columns:
    columns: Columns = {}
    for (task, model, method, rank), group in groupby(rows, key=lambda row: row.group):
        members = list(group)
        parts = [row.estimate for row in members]
        rates = sorted({row.plan.method.learning_rate for row in members})
        steps = sorted({part.steps for part in parts})
        done = sum(row.state == "complete" for row in members)
        values = {
            "task": task,
            "model": model,
            "method": method,
            "rank": str(rank or "-"),
            "cells": f"{len(members):,}",
            "complete": f"{done:,}",
            "rates": " ".join(map(format_rate, rates)),
            "seeds": f"{len({row.plan.config['seed'] for row in members})}",
            "steps": " to ".join(f"{n:,}" for n in dict.fromkeys((steps[0], steps[-1]))),
            "tokens": _amount(_sum(part.tokens for part in parts)),
            "time": _hours(_sum(part.hours for part in parts)),
            "memory": _bytes(max(part.bytes or 0 for part in parts) or None),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns


def aligned(columns: Columns) -> list[str]:
    """Lines of a table with its head; words to the left, numbers to the right."""
    widths = {name: max(map(len, [name, *values])) for name, values in columns.items()}

    def line(cells: Iterable[str]) -> str:
        return "  ".join(
            cell.ljust(widths[name]) if name in LEFT else cell.rjust(widths[name])
            for name, cell in zip(columns, cells, strict=True)
        ).rstrip()

    return [line(columns), *map(line, zip(*columns.values(), strict=True))]


def _sums(rows: Sequence[Row]) -> list[str]:
    left = [row.estimate for row in rows if row.state not in ("complete", "diverged")]
    every = [row.estimate for row in rows]
    lines = [
        "",
        f"in all {_amount(_sum(part.tokens for part in every))} tokens, "
        + _hours(_sum(part.hours for part in every)),
    ]
    if len(left) < len(every):
        hours = _sum(part.hours for part in left)
        lines.append(f"to run {_count(len(left), 'cell')}, {_hours(hours)}")
    if unknown := sum(part.hours is None for part in every):
        lines.append(f"{_count(unknown, 'cell')} of a size that is not known: left out of the sums")
    return lines


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)


def _amount(number: float | None) -> str:
    """12345678 -> 12.3M."""
    if number is None:
        return "?"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _bytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.1f} GB"


def _said(error: BaseException | None) -> str:
    """The error's words; Hydra wraps some in errors that say nothing."""
    while error is not None and not str(error).strip():
        error = error.__cause__ or error.__context__
    return str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.dryrun",
        description="Tell what `python -m bench -m KEY=VALUE ...` would run, and what is missing.",
        epilog="example: python -m bench.dryrun experiment=table1_main scale=paper",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a multirun")
    parser.add_argument("--device", choices=DEVICES, help="whose time is estimated")
    parser.add_argument("--all", action="store_true", help="list every cell of a long grid")
    options = parser.parse_intermixed_args(arguments)
    try:
        found = look(options.overrides, options.device)
    except (UserError, MethodError, TaskError, HydraException, OmegaConfBaseException) as error:
        print(_said(error), file=sys.stderr)
        return outcomes.STATUS["refused"]
    if found.rows:
        print(text(found, everything=options.all))
    return outcomes.conclude()
