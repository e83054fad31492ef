"""The gap between two arms against the distance of the task: a figure for claims of a trend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.judge.rows import count
from bench.judge.verdicts import Judgement
from bench.report import wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 4


def trends(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those that have a gap at each distance."""
    return [judgement for judgement in judgements if judgement.gaps]


def figure(judgements: Sequence[Judgement]) -> Figure | None:
    """A panel a comparison, beside each other on one scale; up is where a is better."""
    import matplotlib.pyplot as plt

    from bench.report.figures import STYLE, literal

    shown = trends(judgements)[:PANELS]
    if not shown:
        return None
    alike = len({judgement.setting for judgement in shown}) == 1
    with plt.style.context(STYLE):
        drawn, grid = plt.subplots(
            1, len(shown), figsize=(1.4 + 4.6 * len(shown), 4.4), squeeze=False, sharey=True
        )
        for axes, judgement in zip(grid[0], shown, strict=True):
            distances = np.array([distance for distance, _, _ in judgement.gaps])
            means = np.array([gap.effect for _, _, gap in judgement.gaps])
            axes.axhline(0.0, color="#555555", linewidth=0.8)
            for distance, _, gap in judgement.gaps:
                axes.vlines(distance, gap.low, gap.high, color="#1c1c1c", linewidth=1.2)
                axes.plot([distance] * gap.n, gap.values, ".", color="#8a8a8a", markersize=4)
            axes.plot(distances, means, "o", color="#1c1c1c", markersize=6)
            newest = judgement.later or judgement.effect
            slope = newest.effect if newest is not None else 0.0
            ends = np.array([distances.min(), distances.max()])
            axes.plot(ends, means.mean() + slope * (ends - distances.mean()), "--", color="#0b5394")
            names = [f"{literal(task)}, {distance:g}" for distance, task, _ in judgement.gaps]
            axes.set_xticks(distances, names, rotation=30, ha="right", fontsize=8)
            a, b = judgement.arms
            where = "" if alike else f"{literal(judgement.setting)}\n"
            title = f"{where}{literal(f'{a} against {b}')}\n{_verdict(judgement)}"
            axes.set_title(title, fontsize=9)
        unit = wording.unit(shown[0]) or shown[0].measured
        grid[0][0].set_ylabel(literal(f"{unit}: gap, first better →"))
        if alike:
            drawn.suptitle(literal(shown[0].setting), fontsize=10)
        drawn.supxlabel(
            "each task and its distance; point and bar: mean and interval over seeds\n"
            "dots: the seeds; dashed: the mean of their straight lines", fontsize=8,
        )  # fmt: skip
    return drawn


def _verdict(judgement: Judgement) -> str:
    """The slope that was judged, and what the points are."""
    amount, (_, _, gap) = wording.effect(judgement)[0], judgement.gaps[0]
    points = f"points: {count(gap.n, 'seed')}, {1 - gap.level:.0%}"
    return f"slope {amount}: {judgement.verdict}; {points}"
