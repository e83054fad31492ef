"""A dry run as text: the cells or their groups, sums, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.records.words import format_rate
from bench.run.plan import Plan
from bench.sweep.estimate import FORMULAS, Device, Estimate
from bench.sweep.needs import Looked, Needs, folded

LISTED = 40  # more cells than these are summed up by task, model, method and rank, unless --all


@dataclass(frozen=True)
class Planned:
    """One cell of the grid: what it is, what it takes, and whether it is there."""

    plan: Plan
    also: str  # the varied settings without a column, such as "trial=high"
    estimate: Estimate
    state: str  # complete | diverged | to run | broken record

    @property
    def group(self) -> tuple[str, str, str, int]:
        """(task, model, method, rank), by which long lists are summed up; rank 0: it has none."""
        config = self.plan.config
        name, rank = self.plan.method.label, self.plan.method.settings.get("rank")
        return task_name(config), config["model"]["label"], name, rank or 0


@dataclass
class DryRun:
    """What a command would do."""

    title: str
    combinations: int
    device: Device
    rows: list[Planned]
    needs: Needs
    not_in_paper: list[str] = field(default_factory=list)  # labels of methods


def task_name(config: Mapping[str, Any]) -> str:
    """The task's name, or its class where the configuration gives no name."""
    return str(config["task"].get("name") or config["task"]["_target_"])


def text(found: DryRun, *, everything: bool = False) -> str:
    """The dry run for people."""
    rows = found.rows
    lines = [f"{found.title}: {_count(len(rows), 'cell')}"]
    if found.combinations > len(rows):
        lines[0] += f" ({found.combinations} combinations, some of them the same cell)"
    if rows:
        lines += [f"results_dir {folder}: {said}" for folder, said in _folders(rows)]
        lines += ["", *_table(rows, everything), *_sums(rows), *_too_large(rows)]
    if found.not_in_paper:
        lines += ["", f"Added to the paper's table here: {', '.join(found.not_in_paper)}"]
    if found.needs.sets:
        lines += ["", *aligned(_sets(found.needs.sets))]
    missing = found.needs.missing
    lines += ["", "Missing here:" if missing else "No data set and no model is missing."]
    lines += [f"  {line}" for line in folded(missing)]
    lines += ["", f"Time is that of {found.device.label}. Estimates, not measurements:"]
    lines.append(FORMULAS)
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _folders(rows: Sequence[Planned]) -> list[tuple[Path, str]]:
    """Each results folder with how many of its cells are in which state."""
    counts: dict[Path, dict[str, int]] = {}
    for row in rows:
        states = counts.setdefault(row.plan.folder, {})
        states[row.state] = states.get(row.state, 0) + 1
    return [(f, ", ".join(f"{n:,} {s}" for s, n in c.items())) for f, c in counts.items()]


def _table(rows: Sequence[Planned], everything: bool) -> list[str]:
    """All cells, or where they are many the groups that they form."""
    if len(rows) <= LISTED or everything:
        return aligned(_cells(rows))
    lines = aligned(_groups(rows))
    return [*lines, f"(--all lists the {len(rows):,} cells)"]


Columns = dict[str, list[str]]
LEFT = (
    *("task", "model", "method", "also", "state", "cell", "rates"),
    *("set", "split", "revision", "columns", "licence", "use"),
)
SHOWN = 40  # characters of a licence or a reason in a table


def _cells(rows: Sequence[Planned]) -> Columns:
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
        "host": [_bytes(row.estimate.host) for row in rows],
        "state": [row.state for row in rows],
        "cell": [row.plan.cell for row in rows],
    }
    if not any(columns["also"]):
        del columns["also"]
    return columns


def _groups(rows: Sequence[Planned]) -> Columns:
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
            "host": _bytes(max(part.host or 0 for part in parts) or None),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns


def _sets(sets: Sequence[Looked]) -> Columns:
    """What was seen of each set; the licence is the hub's card's, or else the one known here."""
    seen = [item.seen for item in sets]
    return {
        "set": [item.source.name for item in sets],
        "split": [item.split for item in sets],
        "revision": [
            item.place or (one.revision or "cache" if one else item.source.revision or "-")[:12]
            for item, one in zip(sets, seen, strict=True)
        ],
        "rows": ["?" if one is None or one.rows is None else f"{one.rows:,}" for one in seen],
        "columns": [
            ", ".join(c for c in one.columns if c in item.source.columns) if one else "-"
            for item, one in zip(sets, seen, strict=True)
        ],
        "licence": [
            _short((one.licence if one else None) or item.source.licence)
            for item, one in zip(sets, seen, strict=True)
        ],
        "use": ["ok" if item.seen else _short(item.why) for item in sets],
    }


def _short(words: str) -> str:
    return words if len(words) <= SHOWN else f"{words[: SHOWN - 1]}…"


def aligned(columns: Columns) -> list[str]:
    """Lines of a table with its head; words to the left, numbers to the right."""
    widths = {name: max(map(len, [name, *values])) for name, values in columns.items()}

    def line(cells: Iterable[str]) -> str:
        return "  ".join(
            cell.ljust(widths[name]) if name in LEFT else cell.rjust(widths[name])
            for name, cell in zip(columns, cells, strict=True)
        ).rstrip()

    return [line(columns), *map(line, zip(*columns.values(), strict=True))]


def _sums(rows: Sequence[Planned]) -> list[str]:
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


def _too_large(rows: Sequence[Planned]) -> list[str]:
    """Each reason why cells cannot fit, once, with the method and rank that it is of."""
    reasons: dict[str, set[str]] = {}
    for row in rows:
        if row.estimate.refused:
            _, model, method, rank = row.group
            name = f"{model}, {method}{f' r={rank}' if rank else ''}"
            reasons.setdefault(row.estimate.refused, set()).add(name)
    lines = [f"  {'; '.join(sorted(names))}: {why}" for why, names in reasons.items()]
    return ["", "Refused, as they cannot fit:", *lines] if lines else []


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
