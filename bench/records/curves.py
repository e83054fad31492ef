"""The loss along a run: its running mean, and the steps to a target. Defined here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOSS = "value_loss"  # on the tokens of the answer
WINDOW = 8  # steps that the loss is averaged over
TARGET = 1.0  # nats a token, where a record names none


def smoothed(steps: Array, losses: Array, window: int) -> Array:
    """At each point the mean over the last `window` steps; NaN before so many have passed."""
    known = np.where(np.isfinite(losses), losses, np.inf)
    sums = np.concatenate([[0.0], np.cumsum(np.where(np.isinf(known), 0.0, known))])
    lost = np.concatenate([[0], np.cumsum(np.isinf(known))])
    end = np.arange(1, len(steps) + 1)
    start = np.searchsorted(steps, steps - window, side="right")
    means = (sums[end] - sums[start]) / (end - start)
    full = steps >= window  # the first point is of all steps up to it
    return np.where(full & (lost[end] == lost[start]), means, np.nan)


def first_below(steps: Array, losses: Array, window: int, target: float) -> int | None:
    """The place of the first point whose running mean is below the target; None: there is none."""
    below = np.flatnonzero(smoothed(steps, losses, window) < target)
    return int(below[0]) if len(below) else None


def steps_to_target(record: Mapping[str, Any]) -> float | None:
    """Steps until the loss on the answer's tokens is below the record's analysis.target_loss.

    None where it never is, or where the record does not have that loss.
    """
    points = [p for p in record["curves"]["train"] if LOSS in p]
    if not points:
        return None
    target = (record["config"].get("analysis") or {}).get("target_loss")
    steps, losses = (np.array([p[key] for p in points], dtype=float) for key in ("step", LOSS))
    place = first_below(steps, losses, WINDOW, TARGET if target is None else target)
    return None if place is None else float(steps[place])
