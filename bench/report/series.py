"""What each arm ends with against a number of the task, such as how many facts there are.

A series is made of sections that differ in that number alone. Of random facts it is the measure of
capacity: below some number all of them are stored, above it the bits level off, and the most that
an arm stores, divided by its trained parameters, is its capacity (arXiv 2505.24832).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.judge import intervals
from bench.judge.rows import Row, Section, told_apart
from bench.records.words import free_name
from bench.report.numbers import format_number, scaled, unit_label
from bench.report.render import DASH, Column, Table, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 3  # numbers that make a series
BITS = "bits_tempered"  # judged where facts are counted: see conf/claims/primary.yaml


@dataclass(frozen=True)
class Series:
    """Sections by a number of their task; `slug` begins the names of its files."""

    setting: str
    metric: str
    sections: dict[int, Section]
    slug: str = ""

    @property
    def largest(self) -> Section:
        """The section of most cells."""
        return max(self.sections.values(), key=lambda section: len(section.cells))

    @property
    def named(self) -> Section:
        """The largest, by whose title the whole is called: its own number is not said."""
        own = f"{self.setting} "
        kept = (words for words in self.largest.details if not words.startswith(own))
        return replace(self.largest, details=tuple(kept))

    @property
    def in_bits(self) -> bool:
        return self.largest.metrics[self.metric].unit == "bits"

    @cached_property
    def arms(self) -> dict[str, dict[int, Row]]:
        """Of each arm, by number, the row whose rate ended best by the mean; one at which a seed
        diverged only where all rates have such a seed."""
        higher = self.largest.metrics[self.metric].higher_is_better

        def rank(row: Row) -> tuple[bool, float]:
            return row.ended(self.metric, higher_is_better=higher)

        # A section names its rows by what differs in it: an operator that is alone goes unsaid.
        placed = [(number, row) for number, s in self.sections.items() for row in s.rows]
        rows = told_apart([row for _, row in placed])
        found: dict[str, dict[int, Row]] = {}
        for (number, _), row in zip(placed, rows, strict=True):
            if not row.values(self.metric):
                continue
            arm = found.setdefault(row.name_and_rank, {})
            if number not in arm or rank(row) > rank(arm[number]):
                arm[number] = row
        return {name: by for name, by in found.items() if len(by) >= LEAST}

    def mean(self, row: Row) -> float:
        """Over its seeds."""
        return float(np.mean(row.values(self.metric)))

    @cached_property
    def table(self) -> Table:
        """An arm a row, a number a column: means over seeds; of bits, the most a parameter."""
        return _table(self)

    def everything(self, number: int) -> float | None:
        """The bits that there are to be stored; None where the task isn't one of facts."""
        values = self.largest.task_settings.get("values")
        if self.in_bits and self.setting == "facts" and isinstance(values, int):
            return number * math.log2(values)
        return None


def find(sections: Sequence[Section]) -> list[Series]:
    """The series among the sections: at least LEAST numbers, all else of task and model alike."""
    groups: dict[tuple[str, str], dict[int, Section]] = {}
    for section in sections:
        cell = section.cells[0]
        for setting, number in cell.same.get("task", cell.task_settings).items():
            if isinstance(number, bool) or not isinstance(number, int):
                continue
            key = (setting, cell.section_key(over=setting))
            groups.setdefault(key, {})[number] = section
    made: list[Series] = []
    for (setting, _), by in groups.items():
        metric = next((m for n in sorted(by) if (m := _metric(by[n])) is not None), None)
        # All cells of a number may have failed.
        by = {number: section for number, section in by.items() if metric in section.metrics}
        if len(by) < LEAST or metric is None:
            continue
        section = by[min(by)]
        words = f"{section.task}-{section.model}-{setting}"
        slug = free_name(words, [one.slug for one in made])
        one = Series(setting, metric, dict(sorted(by.items())), slug)
        if one.arms:
            made.append(one)
    return made


def _metric(section: Section) -> str | None:
    return BITS if BITS in section.metrics else section.main_metric()


def _table(series: Series) -> Table:
    example = series.largest.metrics[series.metric]
    columns = [Column("method", numeric=False), Column("trainable\nparameters")]
    columns += [
        Column(f"{number:,}", f"{unit_label(series.metric, example)} at {series.setting}")
        for number in series.sections
    ]
    notes = ["means over seeds, each arm at the best of the rates that were tried there"]
    if series.in_bits:
        columns.append(Column("most, bits a\ntrained parameter"))
        notes += [
            f"there to be stored: {', '.join(_bits(series.everything(n)) for n in series.sections)}"
        ] * (series.everything(1) is not None)
        notes.append(
            "most: at the number where the mean is largest, Student's t over its seeds (95 %); "
            "≥: at the largest number tried, or as good as all that there was: there may be more"
        )
    rows = []
    for name, by in series.arms.items():
        first = next(iter(by.values()))
        row = [Value(name), Value(f"{first.trainable:,}" if first.trainable else DASH)]
        row += [Value(_mean(series, by[n]) if n in by else DASH) for n in series.sections]
        if series.in_bits:
            row.append(Value(_most(series, by)))
        rows.append(row)
    seeds = sorted({cell.seed for s in series.sections.values() for cell in s.cells})
    sheet = [f"seeds: {', '.join(map(str, seeds))}; not all at every number"]
    named = series.named
    titled = replace(named, details=(*named.details, f"by {series.setting}"))
    return Table(titled.title, sheet, columns, rows, notes)


def _mean(series: Series, row: Row) -> str:
    """The mean over the seeds that came to the end, and how many did where some diverged."""
    metric = series.largest.metrics[series.metric]
    mean = scaled(metric, series.mean(row))
    text = _bits(mean) if series.in_bits else format_number(mean, metric.unit)
    return text + (f" ({len(row.ok)} of {len(row.cells)} seeds)" if row.diverged else "")


def _bits(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _most(series: Series, by: dict[int, Row]) -> str:
    """The most bits a trained parameter, and the interval of its mean."""
    number = max(by, key=lambda n: series.mean(by[n]))
    row = by[number]
    if not row.trainable:
        return DASH
    stored = [value / row.trainable for value in row.values(series.metric)]
    mean, everything = float(np.mean(stored)), series.everything(number)
    full = everything is not None and mean * row.trainable > 0.95 * everything
    words = "≥ " * (full or number == max(by)) + f"{mean:.3f}"
    if len(stored) < 2:
        return words
    found = intervals.paired(stored)
    return f"{words} [{found.low:.3f} to {found.high:.3f}]"


def _below(series: Series, by: Mapping[int, Row]) -> list[int]:
    """The numbers at which an arm did worse than a guess, which an axis of bits does not show."""
    return [n for n in sorted(by) if series.in_bits and series.mean(by[n]) <= 0]


def figure(series: Series) -> Figure | None:
    """The metric against the number; of bits, beside it the same for each trained parameter."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    from bench.report.figures import STYLE, frame, literal
    from bench.report.looks import looks

    arms = series.arms
    first = [next(iter(by.values())) for by in arms.values()]
    example = series.largest.metrics[series.metric]
    with plt.style.context(STYLE):
        styles = looks(first)
        legend = [
            Line2D([], [], **look.keywords(), label=literal(name))
            for name, look in zip(arms, styles, strict=True)
        ]
        said = "mean over seeds; bar: their range"
        if any(_below(series, by) for by in arms.values()):
            said += "\ntriangle at the axis: worse than a guess"
        legend.append(Line2D([], [], linestyle="none", label=said))
        everything = [(n, series.everything(n)) for n in series.sections]
        there = [(n, bits) for n, bits in everything if bits is not None]
        if there:
            legend.insert(-1, Line2D([], [], color="#555555", linestyle=":", label="all there is"))
        drawn, panels = frame(
            series.named, [5.4, 5.4] if series.in_bits else [7.2], legend, f"by {series.setting}"
        )
        if there:
            panels[0].plot(*zip(*there, strict=True), color="#555555", linestyle=":", zorder=1)
        for axes, each_parameter in zip(panels, (False, True), strict=False):
            for by, look in zip(arms.values(), styles, strict=True):
                if each_parameter and any(row.rank is None for row in by.values()):
                    continue  # full fine-tuning is far from its capacity
                ns = sorted(by)
                values = [
                    [
                        scaled(example, v) / ((by[n].trainable or 1) if each_parameter else 1)
                        for v in by[n].values(series.metric)
                    ]
                    for n in ns
                ]
                axes.plot(ns, [np.mean(v) for v in values], **look.keywords())
                if below := _below(series, by):
                    at_the_axis = axes.get_xaxis_transform()
                    axes.plot(below, [0.0] * len(below), "v", color=look.colour, markersize=7,
                              transform=at_the_axis, clip_on=False)  # fmt: skip
                axes.vlines(ns, [min(v) for v in values], [max(v) for v in values],
                            color=look.colour, linewidth=1.0)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks([*series.sections], [f"{n:,}" for n in series.sections])
            axes.set_xlabel(literal(series.setting))
        panels[0].set_ylabel(literal(unit_label(series.metric, example)))
        if series.in_bits:
            panels[0].set_yscale("log", base=2, nonpositive="mask")  # worse than chance: no point
            panels[1].set_ylabel("bits a trained parameter (adapters)")
            panels[1].set_ylim(bottom=0)
    return drawn
