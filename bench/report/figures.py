"""Curves of a section: one colour, line style and marker a method, in every figure.

Variants of a method (ranks, learning rates, operators) share its colour, line and marker, and
differ in the marker's filling and the colour's lightness. Same records, same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from bench.judge import paper
from bench.judge.cells import Array, Result, Score
from bench.judge.rows import Row, Section
from bench.report.numbers import format_number, unit_label

STYLE = Path(__file__).with_name("style.mplstyle")
ROWS_DRAWN = 24  # more rows than these are no figure any more
ROWS_WITH_BAND = 6
ENTRIES = 6  # of a legend; two more say what line and band are, and the chance level

# Colours of Okabe and Ito (safe for the colour-blind), ordered so that lightness differs too.
_METHODS: dict[str, tuple[str, Any, str]] = {
    "fft": ("#000000", "-", "o"),
    "lora": ("#0072B2", (0, (5, 2)), "s"),
    "mora": ("#D55E00", "-", "^"),
    "lora_plus": ("#56B4E9", (0, (7, 2, 1, 2)), "D"),
    "asylora": ("#009E73", (0, (1, 1.2)), "v"),
    "dora": ("#CC79A7", (0, (3, 1.2)), "P"),
    "relora": ("#1B4F72", (0, (5, 1, 1, 1, 1, 1)), "X"),
    "remora": ("#E69F00", (0, (9, 1.5)), "*"),
    "peft": ("#777777", (0, (2, 2)), "h"),
}
_OTHERS = (
    ("#7B3F99", (0, (6, 1, 2, 1)), "<"),
    ("#8C6D31", (0, (1, 2)), ">"),
    ("#3B7D23", (0, (4, 1, 1, 1)), "p"),
    ("#AA3355", (0, (8, 3)), "d"),
)
_FILLINGS = ("full", "none", "left", "bottom", "right", "top")
_LIGHTEST = 0.45


@dataclass(frozen=True)
class Look:
    """How a row is drawn."""

    colour: tuple[float, float, float]
    line: Any
    marker: str
    filling: str

    def keywords(self) -> dict[str, Any]:
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "fillstyle": self.filling,
            "markerfacecoloralt": "white",
        }


def literal(words: str) -> str:
    """Words of a record as they are: no formulas, no line breaks."""
    return " ".join(words.split()).replace("$", r"\$")


def method_look(method: str) -> tuple[str, Any, str]:
    """Colour, line style and marker of a method; the same in every figure, known or not."""
    if method in _METHODS:
        return _METHODS[method]
    return _OTHERS[hashlib.sha256(method.encode()).digest()[0] % len(_OTHERS)]


def looks(rows: Sequence[Row]) -> list[Look]:
    """One look a row; variants of a method grow lighter and change the marker's filling."""
    made, seen = [], dict.fromkeys((row.method for row in rows), 0)
    totals = {method: sum(row.method == method for row in rows) for method in seen}
    for row in rows:
        colour, line, marker = method_look(row.method)
        i = seen[row.method]
        seen[row.method] += 1
        light = _LIGHTEST * i / max(1, totals[row.method] - 1)
        shade = tuple(part + (1 - part) * light for part in to_rgb(colour))
        made.append(Look(shade, line, marker, _FILLINGS[i % len(_FILLINGS)]))  # type: ignore[arg-type]
    return made


def drawable(section: Section, metric: str | None) -> tuple[list[Row], str]:
    """The rows that are drawn, and a sentence if that is not all of them.

    Above ROWS_DRAWN: for each method, variant and rank the learning rate that ended best.
    """
    rows = [row for row in section.rows if any(len(cell.train) for cell in row.cells)]
    if len(rows) <= ROWS_DRAWN:
        return rows, ""
    best: dict[tuple[str, str, int | None], Row] = {}
    for row in rows:
        key = (row.method, row.variant, row.rank)
        if key not in best or _ended(row, section, metric) > _ended(best[key], section, metric):
            best[key] = row
    kept = list(best.values())[:ROWS_DRAWN]
    return kept, (
        f"{len(kept)} of {len(rows)} rows drawn: of each method and rank "
        "the learning rate that ended best"
    )


def _ended(row: Row, section: Section, metric: str | None) -> float:
    values = row.values(metric) if metric else []
    if not values or metric is None:
        return -np.inf
    sign = 1 if section.metrics[metric].higher_is_better else -1
    return sign * float(np.mean(values))


# ---------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """A row's curve: means over its seeds and their range, at the points all seeds share."""

    x: Array
    mean: Array
    low: Array
    high: Array
    broke_off: bool  # no seed came to the end; drawn up to where the first one diverged


def curve(row: Row, part: str, x: str, y: str) -> Curve | None:
    """`part` is "train" or "scores"; x and y name their arrays. None where nothing was measured."""
    cells = row.ok or [cell for cell in row.cells if cell.status == "diverged"]
    data = [d for d in (_points(cell, part, x, y) for cell in cells) if len(d[0])]
    if not data:
        return None
    steps = data[0][0]
    for more in data[1:]:
        steps = np.intersect1d(steps, more[0])
    if not len(steps):
        return None
    xs, ys = (np.array([d[i][np.searchsorted(d[0], steps)] for d in data]) for i in (1, 2))
    return Curve(xs.mean(0), ys.mean(0), ys.min(0), ys.max(0), broke_off=not row.ok)


def _points(cell: Result, part: str, x: str, y: str) -> tuple[Array, Array, Array]:
    """Steps, x and y where both are measured, by step."""
    arrays = cell.train if part == "train" else cell.scores
    if not all(key in arrays for key in ("step", x, y)):
        empty = np.empty(0)
        return empty, empty, empty
    _, first = np.unique(arrays["step"], return_index=True)
    step, xs, ys = (arrays[key][first] for key in ("step", x, y))
    known = np.isfinite(xs) & np.isfinite(ys)
    return step[known], xs[known], ys[known]


def _draw(
    axes: Axes, rows: Sequence[Row], styles: Sequence[Look], part: str, x: str, y: str, scale: float
) -> int:
    """Draw the rows' curves; y is multiplied by `scale`. Returns how many there were."""
    drawn = 0
    for i, (row, look) in enumerate(zip(rows, styles, strict=True)):
        found = curve(row, part, x, y)
        if found is None:
            continue
        drawn += 1
        if len(rows) <= ROWS_WITH_BAND and len(row.ok) > 1:
            axes.fill_between(
                found.x, found.low * scale, found.high * scale,
                color=look.colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        axes.plot(found.x, found.mean * scale, **look.keywords(), markevery=_every(len(found.x), i))
        if found.broke_off:
            axes.plot(
                found.x[-1:], found.mean[-1:] * scale, color=look.colour, marker="x",
                markersize=10, markeredgewidth=2, linestyle="none",
            )  # fmt: skip
    return drawn


def _every(points: int, row: int) -> Any:
    """Some eight markers a line, not at the same places in all lines."""
    if points <= 12:
        return None
    gap = points // 8
    return ((row * 3) % gap if gap > 1 else 0, gap)


def frame(
    section: Section, widths: Sequence[float], legend: Sequence[Line2D], note: str
) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, its title, and below it the legend.

    The legend has as many columns as fit, and the figure grows by its lines, so that the axes
    keep their height.
    """
    width = sum(widths)
    longest = max(len(str(entry.get_label())) for entry in legend)
    columns = max(1, min(len(legend), int(width / (0.068 * longest + 0.75))))
    lines = -(-len(legend) // columns)
    figure, axes = plt.subplots(
        1, len(widths), figsize=(width, 3.5 + 0.2 * lines), width_ratios=widths, squeeze=False
    )
    heading = literal(f"{section.task_label} on {section.model_label} ({section.scale} scale)")
    if section.split != "reported":
        heading += f", {section.split} seeds"
    figure.suptitle(heading + (f"\n{note}" if note else ""), fontsize=11)
    figure.legend(handles=list(legend), loc="outside lower center", ncols=columns)
    return figure, list(axes[0])


def named(rows: Sequence[Row], styles: Sequence[Look]) -> list[tuple[Look, str]]:
    """What a legend names: each row, or where these are many, each method and rank, or method.

    Rows of one entry grow lighter from the first to the last.
    """
    for name in (lambda r: r.full_name, lambda r: r.name_and_rank, lambda r: r.label):
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(name(row), []).append(i)
        if len(groups) <= ENTRIES:
            break
    made = []
    for label, places in list(groups.items())[:ENTRIES]:
        lost = " (diverged)" * all(not rows[i].ok for i in places)
        more = f" ({len(places)} rows, lighter to the last)" if len(places) > 1 else lost
        made.append((styles[places[0]], literal(label) + more))
    return made


def entries(rows: Sequence[Row], styles: Sequence[Look], *, bands: bool = True) -> list[Line2D]:
    """Legend entries of rows, and one that says what line and band are."""
    lines = [Line2D([], [], **look.keywords(), label=label) for look, label in named(rows, styles)]
    seeds = max((len(row.ok) for row in rows), default=0)
    words = "line: mean over seeds" if seeds > 1 else "one seed"
    if bands and seeds > 1 and len(rows) <= ROWS_WITH_BAND:
        words += "; band: their range"
    return [*lines, Line2D([], [], linestyle="none", label=words)]


def loss_figure(section: Section, metric: str | None) -> Figure | None:
    """Training loss against step, the paper's digitised curves beside or behind."""
    rows, note = drawable(section, metric)
    rows = [row for row in rows if curve(row, "train", "step", "loss") is not None]
    if not rows:
        return None
    behind = section.task == "uuid"
    aside = behind and section.scale != "paper"
    with plt.style.context(STYLE):
        styles = looks(rows)
        widths = [5.6, 4.2] if aside else [7.2]
        figure, axes = frame(section, widths, entries(rows, styles), note)
        if behind:
            _paper_curves(axes[-1], aside=aside)
        _draw(axes[0], rows, styles, "train", "step", "loss", 1.0)
        axes[0].set(xlabel="optimiser step", ylabel="training loss (nats per token)")
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlim(left=0)
        if aside:
            axes[0].set_title("measured")
    return figure


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
    with plt.style.context(STYLE):
        styles = looks(rows)
        legend = entries(rows, styles)
        if example.chance is not None:
            legend.insert(-1, Line2D([], [], label="chance level", **_CHANCE))
        against = [a for a in _AGAINST if any(a[0] in c.scores for row in rows for c in row.cells)]
        figure, axes = frame(section, [3.7] * len(against), legend, note)
        for panel, (x, label) in zip(axes, against, strict=True):
            _draw(panel, rows, styles, "scores", x, f"metrics.{metric}", scale)
            panel.set_xlabel(label)
            panel.set_xlim(left=0)
            if example.unit == "fraction":
                panel.set_ylim(-2, 104)
            if x == "tokens":
                panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
                panel.xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_ylabel(literal(unit_label(metric, example)))
        if example.chance is not None:
            _chance(axes, example.chance * scale, example.unit)
    return figure


_CHANCE: dict[str, Any] = {"color": "#555555", "linestyle": (0, (1, 2)), "linewidth": 1.3}


def _chance(axes: Sequence[Axes], level: float, unit: str) -> None:
    for panel in axes:
        panel.axhline(level, zorder=1, **_CHANCE)
    words = f"chance {format_number(level, unit)}{' %' if unit == 'fraction' else ''}"
    axes[0].annotate(
        words, (0.01, level), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", ha="left", fontsize=8.5, color="#333333",
    )  # fmt: skip


# ---------------------------------------------------------------------------- files


def _freeze(figure: Figure) -> None:
    """Lay the figure out once, to four decimals: the solver's last digits vary between runs."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox.from_bounds(*(round(e, 4) for e in axes.get_position().bounds)))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((round(x, 4), round(y, 4)))


def save(figure: Figure, stem: Path, description: str) -> list[Path]:
    """Write <stem>.svg and <stem>.png, the description inside and no date; close the figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    with plt.style.context(STYLE):
        _freeze(figure)
        for suffix, metadata in (
            ("svg", {"Date": None, "Creator": "mora-bench", "Description": description}),
            ("png", {"Software": None, "Description": description}),
        ):
            path = stem.parent / f"{stem.name}.{suffix}"
            figure.savefig(path, metadata=metadata)
            files.append(path)
    plt.close(figure)
    return files
