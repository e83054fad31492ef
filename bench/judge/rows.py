"""How cells become rows, and rows become sections.

A section is a setting (task, model, scale, device, precision, reported or validation seeds); its
rows are what is compared in it (method, rank, learning rate, everything else the method and the
trainer were told); a row's cells differ in nothing but the seed. So nothing is ever averaged
over different models, tasks or settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from bench.judge.cells import Array, Result, Score, twice
from bench.records.words import format_rate

LONGEST_DETAIL = 24  # letters


@dataclass(frozen=True)
class Row:
    """Cells that differ in the seed alone."""

    method: str
    label: str
    rank: int | None
    learning_rate: float | None
    settings: dict[str, Any]
    cells: list[Result]
    variant: str = ""  # what sets it apart from rows of the same method, rank aside

    @cached_property
    def ok(self) -> list[Result]:
        return [cell for cell in self.cells if cell.ok]

    @property
    def diverged(self) -> int:
        """Seeds whose loss was not finite; means are over the others."""
        return sum(cell.status == "diverged" for cell in self.cells)

    @property
    def name(self) -> str:
        """As the tables have it: the method and what is special about this one."""
        return f"{self.label} ({self.variant})" if self.variant else self.label

    @property
    def name_and_rank(self) -> str:
        return self.name if self.rank is None else f"{self.name} r={self.rank}"

    @property
    def full_name(self) -> str:
        """As the legends have it: with rank and learning rate."""
        rate = "" if self.learning_rate is None else f", lr {format_rate(self.learning_rate)}"
        return f"{self.name_and_rank}{rate}"

    @property
    def trainable(self) -> int | None:
        return next((c.trainable for c in self.cells if c.trainable is not None), None)

    @property
    def steps(self) -> set[int]:
        """Planned optimiser steps, or those that the cells came to."""
        planned = self.settings.get("trainer.max_steps")
        if isinstance(planned, int):
            return {planned}
        return {int(cell.train["step"][-1]) for cell in self.ok if "step" in cell.train}

    @property
    def examples_a_step(self) -> int | None:
        """Examples behind one optimiser step, over all processes."""
        size = self.settings.get("trainer.batch_size")
        if not isinstance(size, int):
            return None
        times = self.settings.get("trainer.accumulation") or 1
        return size * times * int(self.settings.get("trainer.processes", 1))

    def values(self, metric: str) -> list[float]:
        return [c.metrics[metric].value for c in self.ok if metric in c.metrics]

    def ended(self, metric: str, *, higher_is_better: bool) -> tuple[bool, float]:
        """How well it ended; more is better. A row of which a seed diverged is below all of which
        none did, and one without the metric is last."""
        values = self.values(metric)
        if not values:
            return False, -np.inf
        return not self.diverged, float(np.mean(values)) * (1 if higher_is_better else -1)


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: the same task, model, scale, device and precision."""

    key: str
    task: str
    task_label: str
    task_settings: dict[str, Any]
    model: str
    model_label: str
    scale: str
    split: str
    device: str
    precision: str
    rows: list[Row]
    details: tuple[str, ...] = ()  # what sets it apart from others of this task, model and scale

    @property
    def detail(self) -> str:
        return ", ".join(self.details)

    @property
    def title(self) -> str:
        words = f"{self.task_label} on {self.model_label}, {self.scale} scale"
        words += f", {self.detail}" if self.detail else ""
        if self.split != "reported":
            words += f" ({self.split} seeds: they choose learning rates and are not results)"
        return words

    @property
    def cells(self) -> list[Result]:
        return [cell for row in self.rows for cell in row.cells]

    @cached_property
    def metrics(self) -> dict[str, Score]:
        """One example of each final metric; the order is the records' own."""
        found: dict[str, Score] = {}
        for cell in self.cells:
            for name, metric in cell.metrics.items():
                found.setdefault(name, metric)
        return found

    @cached_property
    def scored_steps(self) -> dict[str, list[int]]:
        """For each metric all steps at which some cell was scored along its run."""
        steps: dict[str, list[Array]] = {}
        for cell in self.cells:
            for key in cell.scores:
                if key.startswith("metrics."):
                    steps.setdefault(key.removeprefix("metrics."), []).append(cell.scores["step"])
        return {
            name: np.unique(np.concatenate(s)).astype(int).tolist() for name, s in steps.items()
        }

    def main_metric(self, wanted: str | None = None) -> str | None:
        """The metric that tables and curves turn on: the wanted one, else the first scored
        along the run, else the first."""
        if wanted is not None and wanted in self.metrics:
            return wanted
        names = [name for name in self.metrics if name in self.scored_steps] or [*self.metrics]
        usual = (name for name in ("accuracy", "average") if name in names)
        return next(usual, next(iter(names), None))

    def shared(self, key: str) -> Any:
        """The value that all rows give to a setting; None where they differ or have none."""
        values = {repr(row.settings.get(key)): row.settings.get(key) for row in self.rows}
        return next(iter(values.values())) if len(values) == 1 else None


# ---------------------------------------------------------------------------- grouping


def group(cells: Iterable[Result]) -> list[Section]:
    """Sections, reported ones first, each with its rows in the paper's order."""
    sections: dict[str, dict[str, list[Result]]] = {}
    for cell in cells:
        rows = sections.setdefault(cell.section_key(), {})
        rows.setdefault(cell.row_key, []).append(cell)
    made = [_section(key, list(rows.values())) for key, rows in sections.items()]
    made.sort(key=lambda s: (s.split != "reported", s.task, s.model, s.scale, s.key))
    alike: dict[str, list[Section]] = {}
    for section in made:
        alike.setdefault(section.title, []).append(section)
    return [_with_detail(section, alike[section.title]) for section in made]


def _with_detail(section: Section, alike: Sequence[Section]) -> Section:
    """Titles that are the same, told apart by what differs; settings too long to say are not."""

    def known(of: Section) -> dict[str, Any]:
        settings = {k: v for k, v in of.task_settings.items() if isinstance(v, (int, float, str))}
        return settings | {"precision": of.precision, "device": of.device}

    ours, others = known(section), [known(other) for other in alike]
    apart = [k for k in ours if any(other.get(k) != ours[k] for other in others)]
    words = (f"{k} {ours[k]}" for k in apart if len(str(ours[k])) <= LONGEST_DETAIL)
    return replace(section, details=tuple(words))


def _section(key: str, groups: list[list[Result]]) -> Section:
    rows = [
        Row(c[0].method, c[0].label, c[0].rank, c[0].learning_rate, c[0].settings, _by_seed(c))
        for c in groups
    ]
    rows = told_apart(rows)
    rows.sort(key=lambda r: (r.rank or 0, _method_order(r.method), r.variant, r.learning_rate or 0))
    c = rows[0].cells[0]
    return Section(
        key, c.task, c.task_label, c.task_settings, c.model, c.model_label, c.scale, c.split,
        c.device, c.precision, rows,
    )  # fmt: skip


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, named by the settings in which those of one method differ among them."""
    methods = {row.method for row in rows}
    varying = {m: _varying([row for row in rows if row.method == m]) for m in methods}
    return [_with_variant(row, varying[row.method]) for row in rows]


def _by_seed(cells: list[Result]) -> list[Result]:
    """Raises UserError where a seed is there twice: it must not count as two."""
    ordered = sorted(cells, key=lambda cell: (cell.seed, cell.cell))
    for a, b in pairwise(ordered):
        if a.seed == b.seed:
            raise twice(a, b)
    return ordered


_ORDER = ("fft", "lora", "lora_plus", "relora", "asylora", "dora", "peft", "mora", "remora")


def _method_order(method: str) -> tuple[int, str]:
    """The paper's order; others after it, by name."""
    return (_ORDER.index(method) if method in _ORDER else len(_ORDER), method)


def _varying(peers: list[Row]) -> list[str]:
    """The settings in which rows of one method differ, those that go without saying left out."""
    varying = []
    for key in sorted({key for peer in peers for key in peer.settings}):
        # What merely goes with the rank, such as alpha = 2 r, needs no mention; a name does.
        named = any(isinstance(peer.settings.get(key), str) for peer in peers)
        values = {(None if named else p.rank, json.dumps(p.settings.get(key))) for p in peers}
        if len(values) > len({rank for rank, _ in values}):
            varying.append(key)

    def told(by: list[str]) -> int:
        return len({json.dumps([peer.settings.get(k) for k in by]) for peer in peers})

    for key in list(varying):
        # What only some rows have, such as the groups of one operator, may go without saying.
        others = [k for k in varying if k != key]
        if any(key not in peer.settings for peer in peers) and told(others) == told(varying):
            varying = others
    return varying


def _with_variant(row: Row, varying: list[str]) -> Row:
    """Name the settings in which rows of one method differ."""
    words = [_setting(k, row.settings[k]) for k in varying if row.settings.get(k) is not None]
    return Row(
        row.method, row.label, row.rank, row.learning_rate, row.settings, row.cells,
        ", ".join(words),
    )  # fmt: skip


def _setting(key: str, value: Any) -> str:
    if isinstance(value, str) and not key.startswith("trainer."):
        return value
    if isinstance(value, list):
        value = "+".join(map(str, value))
    return f"{key.rsplit('.', 1)[-1]}={value}"


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single value, or where one is infinite)."""
    known = len(values) > 1 and bool(np.isfinite(values).all())
    return float(np.mean(values)), float(np.std(values, ddof=1)) if known else None


def count(number: int, noun: str) -> str:
    """count(2, "seed") -> "2 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unequal(budgets: Mapping[str, int], tolerance: float) -> str | None:
    """Says who trains how many parameters, where they differ by more than the tolerance."""
    if not budgets or max(budgets.values()) <= min(budgets.values()) * (1 + tolerance):
        return None
    most = max(budgets.values())
    return "trainable parameters: " + ", ".join(
        f"{name} {number:,}" + (f" ({100 * number / most - 100:.1f} %)" if number < most else "")
        for name, number in budgets.items()
    )
