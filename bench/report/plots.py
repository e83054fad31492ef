"""Figures of final values: spectra of delta W, learning against forgetting and cost, rates.

Each is drawn only where the records hold its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from bench.judge.rows import Row, Section, count
from bench.records.words import format_rate
from bench.report.figures import STYLE, drawable, entries, frame, literal, named
from bench.report.looks import Look, looks
from bench.report.numbers import scaled, unit_label

THRESHOLD = 0.1  # the paper's Fig. 5 counts singular values above it


ROUNDING = 1e-6  # of the largest singular value; below it lies fp32's noise


def spectrum_figure(section: Section, metric: str | None) -> Figure | None:
    """Singular values of delta W; how many exceed 0.1, and the effective rank, by layer kind."""
    rows, note = drawable(section, metric)
    rows = [row for row in rows if any(cell.spectrum for cell in row.ok)]
    if not rows:
        return None
    with plt.style.context(STYLE):
        styles = looks(rows)
        figure, (left, middle, right) = frame(
            section, [4.2, 4.2, 4.2], entries(rows, styles, bands=False), note
        )
        for i, (row, look) in enumerate(zip(rows, styles, strict=True)):
            found = [cell.spectrum.singular_values for cell in row.ok if cell.spectrum]
            kept = min(map(len, found))
            values = np.mean([v[:kept] for v in found], axis=0)
            every = max(1, kept // 8)
            keywords = look.keywords() | {"markevery": ((3 * i) % every, every)}
            shown = np.where(values > ROUNDING * values.max(), values, np.nan)
            left.plot(np.arange(1, kept + 1), shown, **keywords)
        left.set_yscale("log")
        left.axhline(THRESHOLD, color="#555555", linestyle=(0, (1, 2)), linewidth=1.3)
        left.annotate(
            "0.1", (1.01, THRESHOLD), xycoords=("axes fraction", "data"), va="center",
            fontsize=8.5, color="#333333",
        )  # fmt: skip
        left.set(xlabel="index", ylabel="singular value (mean over layers)")
        for axes, part, label in (
            (middle, "above", "singular values above 0.1, a layer"),
            (right, "effective_rank", "effective rank of ΔW, a layer"),
        ):
            _by_kind(axes, rows, styles, part)
            axes.set_ylabel(label)
    return figure


def _by_kind(axes: Axes, rows: Sequence[Row], styles: Sequence[Look], part: str) -> None:
    """A marker a row above each layer kind, side by side so that none hides another."""
    kinds = sorted({k for r in rows for c in r.ok if c.spectrum for k in c.spectrum.above})
    gap = 0.7 / max(1, len(rows) - 1)
    for i, (row, look) in enumerate(zip(rows, styles, strict=True)):
        found = [getattr(cell.spectrum, part) for cell in row.ok if cell.spectrum]
        heights = [np.mean([f[k] for f in found if k in f]) for k in kinds]
        places = np.arange(len(kinds)) + (i - (len(rows) - 1) / 2) * gap
        axes.plot(places, heights, **look.keywords() | {"linestyle": "none"})
    for edge in range(len(kinds) - 1):
        axes.axvline(edge + 0.5, color="#dddddd", linewidth=0.8)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(range(len(kinds)), [literal(k.removesuffix("_proj")) for k in kinds])
    axes.set_xlabel("layer kind")
    axes.set_ylim(bottom=0)


def forgetting_figure(section: Section, metric: str | None) -> Figure | None:
    """What was learned against what was forgotten, each seed a point, and the Pareto front."""
    if metric is None:
        return None
    rows, note = drawable(section, metric)
    lost = _not_drawn(rows)
    points = {row.full_name: _paired(row, metric) for row in rows}
    rows = [row for row in rows if points[row.full_name]]
    if not rows:
        return None
    example = section.metrics[metric]
    with plt.style.context(STYLE):
        styles = looks(rows)
        front = Line2D([], [], color="#555555", linewidth=1.0, label="Pareto front of the means")
        legend = [*_points_legend(rows, styles), *lost, front]
        figure, (axes,) = frame(section, [7.2], legend, note)
        means = []
        for row, look in zip(rows, styles, strict=True):
            learned = np.array([scaled(example, x) for x, _ in points[row.full_name]])
            forgotten = np.array([100 * y for _, y in points[row.full_name]])
            _scatter(axes, learned, forgotten, look)
            means.append((float(learned.mean()), float(forgotten.mean())))
        best = pareto(means, higher=(example.higher_is_better, False))
        axes.plot(*zip(*best, strict=True), color="#555555", linewidth=1.0, zorder=1)
        axes.axhline(0, color="#555555", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.set(
            xlabel=literal(f"learned: {unit_label(metric, example)}"),
            ylabel="forgotten: mean drop (% of before)",
        )
        if not example.higher_is_better:
            axes.invert_xaxis()
    return figure


def _paired(row: Row, metric: str) -> list[tuple[float, float]]:
    return [
        (c.metrics[metric].value, c.forgetting)
        for c in row.ok
        if c.forgetting is not None and metric in c.metrics
    ]


def pareto(
    points: Iterable[tuple[float, float]], higher: tuple[bool, bool]
) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, from left to right.

    higher: whether more is better, of each coordinate.

    >>> pareto([(1, 1), (2, 3), (3, 2), (2, 2)], higher=(True, True))
    [(2, 3), (3, 2)]
    """
    sign = [1 if better else -1 for better in higher]
    front: list[tuple[float, float]] = []
    best = -np.inf
    for x, y in sorted(set(points), key=lambda p: (-sign[0] * p[0], -sign[1] * p[1])):
        if sign[1] * y > best:
            front.append((x, y))
            best = sign[1] * y
    return sorted(front)


def cost_figure(section: Section, metric: str | None) -> Figure | None:
    """The final metric against training time (if it counts), peak memory and parameters."""
    if metric is None:
        return None
    rows, note = drawable(section, metric)
    lost = _not_drawn(rows)
    rows = [row for row in rows if row.values(metric) and row.trainable]
    if not rows:
        return None
    example = section.metrics[metric]
    with plt.style.context(STYLE):
        styles = looks(rows)
        costs_of = _costs(rows, metric)
        legend = [*_points_legend(rows, styles), *lost]
        figure, panels = frame(section, [3.7] * len(costs_of), legend, note)
        for axes, (label, costs) in zip(panels, costs_of.items(), strict=True):
            for row, look, xs in zip(rows, styles, costs, strict=True):
                ys = [
                    scaled(example, c.metrics[metric].value) for c in row.ok if metric in c.metrics
                ]
                _scatter(axes, np.array(xs), np.array(ys), look)
            axes.set_xlabel(label)
            if max(map(max, costs)) > 20 * min(map(min, costs)):
                axes.set_xscale("log")
            else:
                axes.set_xlim(0, 1.08 * max(map(max, costs)))
                if max(map(max, costs)) > 1_000:
                    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        panels[0].set_ylabel(literal(f"final {unit_label(metric, example)}"))
    return figure


def _costs(rows: Sequence[Row], metric: str) -> dict[str, list[list[float]]]:
    """For each kind of cost and each row, a number for each seed that has the metric."""
    cells = [[cell for cell in row.ok if metric in cell.metrics] for row in rows]

    def of(key: str, unit: float) -> list[list[float]]:
        return [[(cell.cost[key] or 0.0) / unit for cell in group] for group in cells]

    untimed = any(cell.untimed for group in cells for cell in group)
    times = {} if untimed else {"training time (s)": of("training_seconds", 1.0)}
    return times | {
        "peak memory (GiB)": of("peak_memory_bytes", 2**30),
        "trainable parameters": [[float(c.trainable or 0) for c in group] for group in cells],
    }


def rate_figure(section: Section, metric: str | None) -> Figure | None:
    """The final metric against the learning rate: how good the best is, and how wide the good.

    Beside it, where it was measured, what each rate makes the model forget.
    """
    if metric is None:
        return None
    lines: dict[tuple[str, str, int | None], list[Row]] = {}
    for row in section.rows:
        if row.learning_rate is not None:
            lines.setdefault((row.method, row.variant, row.rank), []).append(row)
    if not any(len(rows) > 1 for rows in lines.values()):
        return None
    arms = [sorted(rows, key=lambda r: r.learning_rate or 0.0) for rows in lines.values()]
    example = section.metrics[metric]
    with plt.style.context(STYLE):
        styles = looks([rows[0] for rows in arms])
        by_arm = named([rows[0] for rows in arms], styles)
        legend = [
            Line2D([], [], **look.keywords(), label=label.rsplit(", lr ", 1)[0])
            for look, label in by_arm
        ]
        lost = Line2D([], [], linestyle="none", color="#333333", marker="x", markersize=8,
                      label="a cell diverged or failed")  # fmt: skip
        if any(not cell.ok for cell in section.cells):
            legend.append(lost)
        parts: list[tuple[str, Callable[[Row], list[float]], bool]] = [
            (
                f"final {unit_label(metric, example)}",
                lambda row: [scaled(example, v) for v in row.values(metric)],
                example.higher_is_better,
            )
        ]
        if any(cell.forgetting is not None for cell in section.cells):
            parts.append(("forgotten: mean drop (% of before)", _forgotten, False))
        figure, panels = frame(section, [7.2 if len(parts) == 1 else 5.0] * len(parts), legend, "")
        rates = sorted({row.learning_rate for rows in arms for row in rows if row.learning_rate})
        for axes, (label, values, higher) in zip(panels, parts, strict=True):
            for rows, look in zip(arms, styles, strict=True):
                _rate_line(axes, rows, look, values, worst=0.0 if higher else 1.0)
            axes.set_xscale("log")
            apart = all(b > 1.5 * a for a, b in pairwise(rates))
            if len(rates) <= 10 and apart:
                axes.set_xticks(rates, [format_rate(rate) for rate in rates], rotation=40)
                axes.set_xticks([], minor=True)
            axes.set(xlabel="learning rate", ylabel=literal(label))
        if len(parts) > 1:
            _forgotten_scale(panels[1], arms)
    return figure


def _forgotten_scale(axes: Axes, arms: Sequence[Sequence[Row]]) -> None:
    """Logarithmic where some rates forget many times what others do; linear near zero."""
    means = [float(np.mean(v)) for rows in arms for row in rows if (v := _forgotten(row))]
    if max(means) > 20 * max(min(means), 1.0):
        low, high = axes.dataLim.intervaly
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(min(-1.0, 2 * low), max(1.0, 2 * high))
    else:
        axes.axhline(0, color="#555555", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)


def _forgotten(row: Row) -> list[float]:
    return [100 * cell.forgetting for cell in row.ok if cell.forgetting is not None]


def _rate_line(
    axes: Axes,
    rows: Sequence[Row],
    look: Look,
    values_of: Callable[[Row], list[float]],
    worst: float,
) -> None:
    """worst: the edge of the axes where the worst values are, 0 below and 1 above."""
    known = [(float(row.learning_rate or 0), v) for row in rows if (v := values_of(row))]
    if known:
        rates = [rate for rate, _ in known]
        means = [float(np.mean(values)) for _, values in known]
        axes.plot(rates, means, **look.keywords())
        axes.vlines(
            rates, [min(v) for _, v in known], [max(v) for _, v in known],
            color=look.colour, linewidth=1.0,
        )  # fmt: skip
    for row in rows:
        if any(not cell.ok for cell in row.cells):
            # At its mean where some seeds came through; else at the edge, wherever that ends up.
            values = values_of(row)
            y = float(np.mean(values)) if values else worst
            at = axes.transData if values else axes.get_xaxis_transform()
            axes.plot([float(row.learning_rate or 0)], [y], color=look.colour, transform=at,
                      clip_on=bool(values), **_CROSS)  # fmt: skip


_CROSS: dict[str, Any] = {
    "marker": "x",
    "markersize": 9,
    "markeredgewidth": 2,
    "linestyle": "none",
}


def _points_legend(rows: Sequence[Row], styles: Sequence[Look]) -> list[Line2D]:
    points = [
        Line2D([], [], **look.keywords() | {"linestyle": "none"}, label=label)
        for look, label in named(rows, styles)
    ]
    several = any(len(row.ok) > 1 for row in rows)
    words = "small: one seed; large: mean" if several else "one seed"
    return [*points, Line2D([], [], linestyle="none", label=words)]


def _not_drawn(rows: Sequence[Row]) -> list[Line2D]:
    """A line of the legend that counts the cells without a point; of rows without any, too, which
    the legend does not name."""
    lost = sum(cell.status in ("diverged", "failed") for row in rows for cell in row.cells)
    words = f"{count(lost, 'cell')} diverged or failed: not drawn"
    return [Line2D([], [], linestyle="none", label=words)] if lost else []


def _scatter(axes: Axes, xs: np.ndarray, ys: np.ndarray, look: Look) -> None:
    """Seeds small and pale, their mean large."""
    style = look.keywords() | {"linestyle": "none"}
    if len(xs) > 1:
        axes.plot(xs, ys, **style | {"markersize": 3.5, "alpha": 0.6})
    axes.plot([xs.mean()], [ys.mean()], **style | {"markersize": 8}, zorder=3)
