"""Curves along the run: the loss, and scores against steps, tokens and seconds.

Where an arm was run at many learning rates, each arm has a panel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.judge import paper
from bench.judge.cells import Score
from bench.judge.rows import Row, Section
from bench.records.words import format_rate
from bench.report.figures import (
    STYLE,
    curve,
    draw,
    drawable,
    entries,
    frame,
    heading,
    lines_are,
    literal,
)
from bench.report.looks import looks, method_look
from bench.report.numbers import format_number, unit_label

CROWDED = 8  # curves that one panel takes
COLUMNS = 4  # of panels
FAR = 1.5  # times the loss at the start; what lies above is cut off


def loss_figure(section: Section, metric: str | None) -> Figure | None:
    """Training loss against step, the paper's digitised curves beside or behind."""
    rows, note = drawable(section, metric)
    rows = [row for row in rows if curve(row, "train", "step", "loss") is not None]
    if not rows:
        return None
    behind = section.task == "uuid"
    aside = behind and section.scale != "paper"
    arms = by_arm(rows)
    with plt.style.context(STYLE):
        if arms:
            figure, axes = _panels(section, arms, note, "train", "loss", 1.0, more=aside)
            measured = axes[: len(arms)]
        else:
            styles = looks(rows)
            widths = [5.6, 4.2] if aside else [7.2]
            figure, axes = frame(section, widths, entries(rows, styles), note)
            draw(axes[0], rows, styles, "train", "step", "loss", 1.0)
            axes[0].set_xlabel("optimiser step")
            measured = axes[:1]
            if aside:
                axes[0].set_title("measured")
        if aside or (behind and not arms):
            _paper_curves(axes[-1], aside=aside)
        measured[0].set_ylabel("training loss (nats per token)")
        _loss_limits(measured, rows)
    return figure


def _loss_limits(panels: Sequence[Axes], rows: Sequence[Row]) -> None:
    """From zero; a loss that shoots up far above its start is cut off, and the axis says so."""
    found = [c for row in rows if (c := curve(row, "train", "step", "loss")) is not None]
    start = max(float(c.mean[0]) for c in found)
    peak = max(float(c.mean.max()) for c in found)
    far = peak > FAR * start
    top = FAR * start if far else max(axes.get_ylim()[1] for axes in panels)
    right = max(axes.get_xlim()[1] for axes in panels)
    for axes in panels:
        axes.set(xlim=(0, right), ylim=(0, top))
        highest = max(float(np.nanmax(line.get_ydata())) for line in axes.lines)
        if far and highest > top:
            axes.annotate(
                f"cut off: up to {highest:.3g}", (0.98, 0.97), xycoords="axes fraction",
                ha="right", va="top", fontsize=8.5, color="#333333",
            )  # fmt: skip


def by_arm(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each method and rank, where they are too many for one panel; else nothing."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row.name_and_rank, []).append(row)
    return [*arms.values()] if len(rows) > CROWDED and len(arms) < len(rows) else []


def _panels(
    section: Section,
    arms: Sequence[Sequence[Row]],
    note: str,
    part: str,
    y: str,
    scale: float,
    *,
    more: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A panel an arm, against steps, its rates from dark to light; `more`: and one that is empty.

    All that are of an arm share their limits, which the caller sets.
    """
    total = len(arms) + more
    columns = min(COLUMNS, total)
    lines = -(-total // columns)
    width = 0.4 + 2.7 * columns
    figure, grid = plt.subplots(lines, columns, figsize=(width, 0.9 + 2.4 * lines), squeeze=False)
    figure.suptitle(heading(section, note, width), fontsize=11)
    panels = list(grid.flat)
    for axes in panels[total:]:
        axes.set_visible(False)
    for axes, rows in zip(panels, arms, strict=False):
        draw(axes, rows, looks(rows), part, "step", y, scale, bands=False)
        axes.set_title(f"{literal(rows[0].name_and_rank)}\n{_rates(rows)}", fontsize=9)
    for axes in panels[max(0, total - columns) : total]:
        axes.set_xlabel("optimiser step")
    every = [row for rows in arms for row in rows]
    words = (
        f"darkest line: lowest learning rate, lightest: highest; {lines_are(every, bands=False)}"
    )
    figure.legend(handles=[Line2D([], [], linestyle="none", label=words)],
                  loc="outside lower center", handlelength=0)  # fmt: skip
    return figure, panels[:total]


def _rates(rows: Sequence[Row]) -> str:
    rates = sorted({row.learning_rate for row in rows if row.learning_rate is not None})
    if not rates:
        return ""
    ends = dict.fromkeys(map(format_rate, (rates[0], rates[-1])))
    return f"lr {' to '.join(ends)}"


def _paper_curves(axes: Axes, *, aside: bool) -> None:
    """Fig. 3 as digitised: thin lines of each method's style."""
    for (method, rank), losses in paper.FIG3.items():
        colour, line, marker = method_look(method)
        known = [(s, y) for s, y in zip(paper.FIG3_STEPS, losses, strict=True) if y is not None]
        axes.plot(
            *zip(*known, strict=True), color=colour, linestyle=line, linewidth=1.0, alpha=0.75,
            marker=marker, markersize=4, fillstyle="none" if rank == 256 else "full",
            label=paper.name(method, rank),
        )  # fmt: skip
    axes.legend(
        title=None if aside else f"paper, {paper.UUID_SETTING}", loc="upper right", handlelength=3.2
    )
    if aside:
        axes.set_title(f"the paper's Fig. 3 (digitised):\n{paper.UUID_SETTING}")
        axes.set(xlabel="optimiser step", ylim=(0, 2.8), xlim=(0, 1000))


_AGAINST = (
    ("step", "optimiser step"),
    ("tokens", "training tokens"),
    ("seconds", "seconds of training"),
)


def score_figure(section: Section, metric: str | None) -> Figure | None:
    """The metric against steps, tokens and seconds (if they count), with the chance level."""
    if metric is None:
        return None
    rows, note = drawable(section, metric)
    rows = [row for row in rows if curve(row, "scores", "step", f"metrics.{metric}") is not None]
    if not rows:
        return None
    example: Score = section.metrics[metric]
    scale = 100.0 if example.unit == "fraction" else 1.0
    name = f"metrics.{metric}"
    with plt.style.context(STYLE):
        if arms := by_arm(rows):
            figure, axes = _panels(section, arms, note, "scores", name, scale)
            _score_limits(axes, example)
        else:
            figure, axes = _against(section, rows, note, name, scale, example)
        axes[0].set_ylabel(literal(unit_label(metric, example)))
        if example.chance is not None:
            _chance(axes, example.chance * scale, example.unit)
    return figure


def _score_limits(panels: Sequence[Axes], example: Score) -> None:
    ends = np.array([[*axes.get_xlim(), *axes.get_ylim()] for axes in panels])
    low, high = ends[:, 2].min(), ends[:, 3].max()
    for axes in panels:
        axes.set_xlim(0, ends[:, 1].max())
        axes.set_ylim((-2, 104) if example.unit == "fraction" else (low, high))


def _against(
    section: Section, rows: Sequence[Row], note: str, name: str, scale: float, example: Score
) -> tuple[Figure, list[Axes]]:
    """All rows in a panel, for steps, tokens and seconds each."""
    styles = looks(rows)
    legend = entries(rows, styles)
    if example.chance is not None:
        legend.insert(-1, Line2D([], [], label="chance level", **_CHANCE))
    against = [a for a in _AGAINST if any(a[0] in c.scores for row in rows for c in row.cells)]
    figure, axes = frame(section, [3.7] * len(against), legend, note)
    for panel, (x, label) in zip(axes, against, strict=True):
        draw(panel, rows, styles, "scores", x, name, scale)
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        if example.unit == "fraction":
            panel.set_ylim(-2, 104)
        if x == "tokens":
            panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
            panel.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


_CHANCE: dict[str, Any] = {"color": "#555555", "linestyle": (0, (1, 2)), "linewidth": 1.3}


def _chance(axes: Sequence[Axes], level: float, unit: str) -> None:
    for panel in axes:
        panel.axhline(level, zorder=1, **_CHANCE)
    words = f"chance {format_number(level, unit)}{' %' if unit == 'fraction' else ''}"
    axes[0].annotate(
        words, (0.01, level), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", ha="left", fontsize=8.5, color="#333333",
    )  # fmt: skip
