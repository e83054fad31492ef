"""What all figures share: curves of rows, legends, files.

One colour, line style and marker a method, in every figure.

Variants of a method (ranks, learning rates, operators) share its colour, line and marker, and
differ in the marker's filling and the colour's lightness. Same records, same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from bench.judge.cells import Array, Result
from bench.judge.rows import Row, Section
from bench.records.words import format_rate
from bench.report.looks import Look

STYLE = Path(__file__).with_name("style.mplstyle")
ROWS_DRAWN = 24  # more rows than these are no figure any more
ROWS_WITH_BAND = 6
LETTERS = 11  # of a title, an inch; a few less than go in
ENTRIES = 6  # of a legend, methods aside; two more say what line and band are, and the chance level


def literal(words: str) -> str:
    """Words of a record as they are: no formulas, no line breaks."""
    return " ".join(words.split()).replace("$", r"\$")


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


def _ended(row: Row, section: Section, metric: str | None) -> tuple[bool, float]:
    if metric is None or metric not in section.metrics:
        return False, -np.inf
    return row.ended(metric, higher_is_better=section.metrics[metric].higher_is_better)


# ---------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """A row's curve: means over its seeds and their range, as far as all seeds go."""

    x: Array
    mean: Array
    low: Array
    high: Array
    broke_off: bool  # a seed diverged; where none came to the end, drawn up to the first that did


def curve(row: Row, part: str, x: str, y: str) -> Curve | None:
    """`part` is "train" or "scores"; x and y name their arrays. None where nothing was measured."""
    cells = row.ok or [cell for cell in row.cells if cell.status == "diverged"]
    data = [d for d in (_points(cell, part, x, y) for cell in cells) if len(d[0])]
    if not data:
        return None
    alike = all(np.array_equal(d[0], data[0][0]) for d in data)
    steps = data[0][0] if alike else _shared(data)
    if not len(steps):
        return None
    xs, ys = (np.array([np.interp(steps, d[0], d[i]) for d in data]) for i in (1, 2))
    return Curve(xs.mean(0), ys.mean(0), ys.min(0), ys.max(0), broke_off=row.diverged > 0)


def _shared(data: Sequence[tuple[Array, Array, Array]]) -> Array:
    """All steps at which some seed was scored, as far as all seeds go: between, lines are drawn."""
    first, last = max(d[0][0] for d in data), min(d[0][-1] for d in data)
    steps = np.unique(np.concatenate([d[0] for d in data]))
    return steps[(steps >= first) & (steps <= last)]


def _points(cell: Result, part: str, x: str, y: str) -> tuple[Array, Array, Array]:
    """Steps, x and y where both are measured, by step."""
    arrays = cell.train if part == "train" else _scored(cell, y)
    if not all(key in arrays for key in ("step", x, y)):
        empty = np.empty(0)
        return empty, empty, empty
    _, first = np.unique(arrays["step"], return_index=True)
    step, xs, ys = (arrays[key][first] for key in ("step", x, y))
    known = np.isfinite(xs) & np.isfinite(ys)
    return step[known], xs[known], ys[known]


def _scored(cell: Result, y: str) -> dict[str, Array]:
    """The scores along the run, and at its end the final one, where none was taken there."""
    metric = cell.metrics.get(y.removeprefix("metrics."))
    known, train = cell.scores, cell.train
    if metric is None or y not in known or "step" not in train or not len(train["step"]):
        return known
    if known["step"][-1] >= train["step"][-1]:
        return known
    end = {key: values[-1] for key, values in train.items()} | {y: metric.value}
    return {k: np.append(values, end.get(k, np.nan)) for k, values in known.items()}


def draw(
    axes: Axes,
    rows: Sequence[Row],
    styles: Sequence[Look],
    part: str,
    x: str,
    y: str,
    scale: float,
    *,
    bands: bool = True,
) -> None:
    """Draw the rows' curves; y is multiplied by `scale`. bands: seeds' ranges, of a few rows."""
    for i, (row, look) in enumerate(zip(rows, styles, strict=True)):
        found = curve(row, part, x, y)
        if found is None:
            continue
        if bands and len(rows) <= ROWS_WITH_BAND and len(row.ok) > 1:
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
    figure.suptitle(heading(section, note, width), fontsize=11)
    figure.legend(handles=list(legend), loc="outside lower center", ncols=columns)
    return figure, list(axes[0])


def heading(section: Section, note: str, width: float) -> str:
    """What the figure is of, in lines that fit its width."""
    words = f"{section.task_label} on {section.model_label} ({section.scale} scale)"
    words += f", {section.detail}" if section.detail else ""
    if section.split != "reported":
        words += f", {section.split} seeds"
    lines = textwrap.wrap(" ".join(words.split()), int(LETTERS * width), break_on_hyphens=False)
    return "\n".join([*map(literal, lines), *filter(None, [note])])


def named(rows: Sequence[Row], styles: Sequence[Look]) -> list[tuple[Look, str]]:
    """What a legend names: each row, or where these are many, each method and rank, or method.

    Methods are named however many there are: a line that is drawn must not be left without a name.
    Rows of one entry grow lighter from the first to the last.
    """
    for name in (lambda r: r.full_name, lambda r: r.name_and_rank, lambda r: r.label):
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(name(row), []).append(i)
        if len(groups) <= ENTRIES:
            break
    made = []
    for label, places in groups.items():
        more = _several([rows[i] for i in places]) if len(places) > 1 else ""
        made.append((styles[places[0]], literal(label) + (more or _lost(rows[places[0]]))))
    return made


def _lost(row: Row) -> str:
    """How many seeds diverged."""
    if not row.diverged or not row.ok:
        return "" if row.ok else " (diverged)"
    return f" ({row.diverged} of {len(row.cells)} diverged)"


def _several(rows: Sequence[Row]) -> str:
    """What lies behind one entry of a legend."""
    rates = sorted({row.learning_rate for row in rows if row.learning_rate is not None})
    if len(rates) == len(rows) and len({row.name_and_rank for row in rows}) == 1:
        return f" (lr {format_rate(rates[0])} to {format_rate(rates[-1])}, lighter: higher)"
    return f" ({len(rows)} rows, lighter to the last)"


def entries(rows: Sequence[Row], styles: Sequence[Look], *, bands: bool = True) -> list[Line2D]:
    """Legend entries of rows, and one that says what line and band are."""
    lines = [Line2D([], [], **look.keywords(), label=label) for look, label in named(rows, styles)]
    words = lines_are(rows, bands=bands)
    return [*lines, Line2D([], [], linestyle="none", label=words)]


def lines_are(rows: Sequence[Row], *, bands: bool = True) -> str:
    """What a line is, and the band around it where there is one."""
    seeds = max((len(row.ok) for row in rows), default=0)
    words = "line: mean over seeds" if seeds > 1 else "one seed"
    words += "; cross: a seed diverged" * any(row.diverged and row.ok for row in rows)
    banded = bands and seeds > 1 and len(rows) <= ROWS_WITH_BAND
    return words + "; band: their range" * banded


# ---------------------------------------------------------------------------- files


def _freeze(figure: Figure) -> None:
    """Lay the figure out once, to four decimals: the solver's last digits vary between runs."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # "none" would draw once more before each file
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
