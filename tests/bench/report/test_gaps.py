"""The figure of a trend: every task's gap is there, and each comparison has a panel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.judge.intervals import paired
from bench.judge.verdicts import Judgement
from bench.report import gaps, wording
from tests.bench.report.test_forest import judged


def trend(slope: float = 0.1) -> Judgement:
    at = {"Near text": 1.0, "Middle text": 2.0, "Far text": 4.0}
    each = tuple((d, task, paired([slope * d - 0.01, slope * d + 0.01])) for task, d in at.items())
    return replace(judged(slope), unit="bits", gaps=each)


def test_a_figure_of_gaps_and_their_line() -> None:
    drawn = gaps.figure([judged(0.1), trend(), trend(-0.2)])
    assert drawn is not None and len(drawn.axes) == 2
    axes = drawn.axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["Near text, 1", "Middle text, 2", "Far text, 4"]
    dashed = next(line for line in axes.lines if line.get_linestyle() == "--")
    (x1, x2), (y1, y2) = np.asarray(dashed.get_data())
    assert (y2 - y1) / (x2 - x1) == pytest.approx(0.1)
    assert gaps.figure([judged(0.1)]) is None


def test_panels_of_several_models_say_of_which() -> None:
    other = replace(trend(), setting="3 tasks on another model, by distance")
    drawn = gaps.figure([trend(), other])
    assert drawn is not None and drawn.get_suptitle() == ""
    assert [axes.get_title().split("\n")[0] for axes in drawn.axes] == [
        trend().setting, "3 tasks on another model, by distance"
    ]  # fmt: skip
    alone = gaps.figure([other])
    assert alone is not None and alone.get_suptitle() == "3 tasks on another model, by distance"


def test_each_gap_is_told_in_words() -> None:
    said = wording.remarks(trend())
    assert any(line.startswith("Middle text (distance 2): +0.2") for line in said), said
