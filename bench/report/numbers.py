"""Numbers of the tables, as they are printed."""

from __future__ import annotations

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


def decimals(unit: str) -> int:
    return {"fraction": 1, "perplexity": 2}.get(unit, 3)


def format_number(value: float, unit: str) -> str:
    """A value that is already scaled, with as many decimals as its unit deserves."""
    text = f"{value:.{decimals(unit)}f}"
    return text[1:] if text.startswith("-") and not float(text) else text


def with_spread(values: Sequence[float], metric: Score) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one seed."""
    if not values:
        return DASH
    mean, spread = mean_and_spread([scaled(metric, v) for v in values])
    text = format_number(mean, metric.unit)
    return text if spread is None else f"{text} ± {format_number(spread, metric.unit)}"


def columns_shown(section: Section, main: str | None) -> list[str]:
    """The final metrics that have columns: the main one first, no side product, not too many."""
    parts = {name for cell in section.cells for name in cell.forgetting_parts}
    names = [n for n in section.metrics if n not in parts and "_extracted" not in n]
    names.sort(key=lambda name: name != main)
    return names[:METRICS_SHOWN]
