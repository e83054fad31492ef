"""Numbers of the tables, as they are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.judge.cells import Score
from bench.judge.rows import Section, mean_and_spread
from bench.report.render import DASH

METRICS_SHOWN = 5  # more final metrics than these are in the CSV alone


def scaled(metric: Score, value: float) -> float:
    """Fractions are shown as per cent."""
    return value * 100 if metric.unit == "fraction" else value


def unit_label(name: str, metric: Score) -> str:
    """exact_match -> exact match (%); a unit that the name says already is not said again."""
    words = name.replace("_", " ")
    unit = "%" if metric.unit == "fraction" else metric.unit
    return words if unit in words else f"{words} ({unit})"


def decimals(unit: str, value: float, spread: float | None = None) -> int:
    """As many as the unit deserves. Bits and what has no unit may be of any size: where the usual
    three would show zeros alone, or more digits than anyone reads, two digits of the spread."""
    usual = {"fraction": 1, "perplexity": 2}.get(unit, 3)
    value, spread = abs(value), spread or 0.0
    known = spread > 1e-6 * value  # below lies rounding
    size, digits = (spread, 2) if known else (value, 3)
    legible = size == 0 or (size >= 0.01 and max(size, value) < 1000)
    if unit not in ("", "bits") or legible or not math.isfinite(size):
        return usual
    return max(0, digits - 1 - math.floor(math.log10(size)))


def format_number(value: float, unit: str, places: int | None = None) -> str:
    """A value that is already scaled, with as many decimals as its unit deserves."""
    text = f"{value:.{decimals(unit, value) if places is None else places}f}"
    return text[1:] if text.startswith("-") and not float(text) else text


def with_spread(values: Sequence[float], metric: Score) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one seed."""
    if not values:
        return DASH
    mean, spread = mean_and_spread([scaled(metric, v) for v in values])
    places = decimals(metric.unit, mean, spread)
    text = format_number(mean, metric.unit, places)
    return text if spread is None else f"{text} ± {format_number(spread, metric.unit, places)}"


def columns_shown(section: Section, main: str | None) -> list[str]:
    """The final metrics that have columns: the main one first, no side product, not too many."""
    parts = {name for cell in section.cells for name in cell.forgetting_parts}
    names = [n for n in section.metrics if n not in parts and "_extracted" not in n]
    names.sort(key=lambda name: name != main)
    return names[:METRICS_SHOWN]
