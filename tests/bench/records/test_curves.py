"""The loss along a run: its running mean, and the steps to a target."""

from __future__ import annotations

import numpy as np

from bench.records.curves import first_below, smoothed, steps_to_target


def test_a_point_is_of_all_steps_since_the_one_before() -> None:
    """Logged every fourth step, the mean over eight steps is known at the eighth."""
    steps = np.array([4.0, 8.0, 12.0, 16.0])
    means = smoothed(steps, np.array([4.0, 2.0, 1.0, 1.0]), 8)
    assert np.isnan(means[0]) and means[1:].tolist() == [3.0, 1.5, 1.0]
    every = np.arange(1.0, 10.0)
    assert np.flatnonzero(np.isfinite(smoothed(every, every, 8))).tolist() == [7, 8]


def test_a_loss_that_is_missing_is_missing_for_all() -> None:
    """Here and in what the judge reads: the mean over a gap is not known."""
    losses: list[float | None] = [2.0] * 12 + [None] + [0.5] * 20
    points = [{"step": i + 1, "value_loss": loss} for i, loss in enumerate(losses)]
    record = {"curves": {"train": points}, "config": {"analysis": {"target_loss": 1.0}}}
    steps = np.array([p["step"] for p in points], dtype=float)
    values = np.array([np.nan if x is None else x for x in losses])
    place = first_below(steps, values, 8, 1.0)
    assert place is not None and steps_to_target(record) == steps[place] == 21.0
