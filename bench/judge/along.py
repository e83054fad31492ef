"""What is read along a run: steps to a target, what was forgotten where so much was learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.judge.cells import Array, Result
from bench.judge.endpoints import Endpoint
from bench.judge.rates import Candidate
from bench.records.curves import first_below

_COUNT = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}


@dataclass(frozen=True)
class Reached:
    """Where a target was reached; censored: not by the end, which is a bound. None: unknown."""

    value: float | None
    censored: bool = False


def loss_of(cell: Result, endpoint: Endpoint) -> str:
    """The endpoint's loss, or the whole loss where the record does not have it."""
    return endpoint.loss if endpoint.loss in cell.train else "loss"


def to_target(cell: Result, endpoint: Endpoint, judged: float | None = None) -> Reached:
    """Steps (tokens, seconds) until the smoothed loss is below the target.

    A table of others' numbers may hold it as the metric steps_to_target (tokens_, seconds_);
    there 'not reached' is a value of infinity, censored at the table's steps.
    """
    stored = cell.metrics.get(f"{endpoint.counted}_to_target")
    if stored is not None and judged in (None, endpoint.judged):
        if math.isfinite(stored.value):
            return Reached(stored.value)
        return Reached(last(cell, endpoint), censored=True)
    key = _COUNT[endpoint.counted]
    losses, counts = cell.train.get(loss_of(cell, endpoint)), cell.train.get(key)
    if losses is None or counts is None or not len(losses):
        return Reached(None)
    target = endpoint.judged if judged is None else judged
    place = first_below(cell.train["step"], losses, endpoint.window, target)
    if place is not None:
        return Reached(float(counts[place]))
    return Reached(last(cell, endpoint), censored=True)


def grain(cell: Result, endpoint: Endpoint, value: float) -> float:
    """How far the logged point nearest to the value lies behind the one before it."""
    counts = cell.train.get(_COUNT[endpoint.counted], np.empty(0))
    if not len(counts):
        return 0.0  # a table of others' numbers
    place = int(np.abs(counts - value).argmin())
    return float(counts[place] - (counts[place - 1] if place else 0))


def last(cell: Result, endpoint: Endpoint) -> float | None:
    """The end of the run; of one that broke off, the steps that were planned, where known."""
    counts = cell.train.get(_COUNT[endpoint.counted], np.empty(0))
    end = float(counts[-1]) if len(counts) else None
    planned = cell.settings.get("trainer.max_steps")
    if isinstance(planned, int) and planned > 0:
        if endpoint.counted == "steps":
            return float(planned)
        steps = cell.train.get("step", np.empty(0))
        if end is not None and len(steps) and steps[-1] > 0:
            return end * planned / float(steps[-1])
    return end


# ---------------------------------------------------------------------------- forgetting


def learned_and_forgotten(cell: Result, metric: str) -> tuple[Array, Array] | None:
    """Learned (more is better) and forgotten (share of before), from the untouched model on.

    The end is the record's final scores, where the run was not scored at its last step anyway.
    """
    learned = cell.scores.get(f"metrics.{metric}")
    found = cell.metrics.get(metric)
    parts = [p for p in cell.forgetting_parts if f"metrics.{p}" in cell.scores and p in cell.before]
    if learned is None or found is None or not parts:
        return None
    sign = 1 if found.higher_is_better else -1
    drops = []
    for part in parts:
        before = cell.before[part]
        if before.value == 0:
            return None
        change = (cell.scores[f"metrics.{part}"] - before.value) / before.value
        drops.append(change * (-1 if before.higher_is_better else 1))
    forgotten = np.mean(drops, axis=0)
    known = np.isfinite(learned) & np.isfinite(forgotten)
    before_ = cell.before.get(metric)
    start = before_.value if before_ is not None else found.chance
    if not known.any() or start is None:
        return None
    xs, ys = [sign * start, *sign * learned[known]], [0.0, *forgotten[known]]
    end = cell.forgetting if len(parts) == len(cell.forgetting_parts) else None
    if end is not None and _scored_until(cell, known) < _last_step(cell):
        xs.append(sign * found.value)
        ys.append(end)
    return np.maximum.accumulate(np.array(xs)), np.array(ys)


def _scored_until(cell: Result, known: Array) -> float:
    return float(cell.scores["step"][known][-1])


def _last_step(cell: Result) -> float:
    steps = cell.train.get("step", np.empty(0))
    return float(steps[-1]) if len(steps) else -math.inf


def forgotten_at(a: Result, b: Result, metric: str, share: float) -> tuple[float, float] | None:
    """What both had forgotten at the same level: a share of what the lesser of them learned."""
    found = [learned_and_forgotten(cell, metric) for cell in (a, b)]
    if found[0] is None or found[1] is None:
        return None
    start = max(xs[0] for xs, _ in found)  # type: ignore[misc]
    end = min(xs[-1] for xs, _ in found)  # type: ignore[misc]
    if end <= start:
        return None
    level = start + share * (end - start)
    left, right = (float(np.interp(level, xs, ys)) for xs, ys in found)  # type: ignore[misc]
    return left, right


def at(points: Sequence[tuple[float, float, Any]], level: float) -> float:
    """What is forgotten where so much is learned, at rates that one would take for it.

    A rate at which less was learned and no less forgotten than at another is none of these.
    """
    worth = [p for p in points if not any(_beats(other, p) for other in points)]
    learned = sorted({point[0] for point in worth})
    forgotten = [float(np.mean([f for x, f, _ in worth if x == at])) for at in learned]
    return float(np.interp(level, learned, forgotten))


def _beats(one: tuple[float, float, Any], other: tuple[float, float, Any]) -> bool:
    return one[0] > other[0] and one[1] <= other[1]


# ---------------------------------------------------------------------------- rates


def good_range(
    candidate: Candidate,
    learned: Callable[[Result], float | None],
    start: Callable[[Result], float],
    within: float,
) -> dict[int, tuple[float, bool]]:
    """For each seed the octaves of good rates, and whether they reach an end of the grid.

    Good: at least `within` of the best, from what was known before; straight lines between rates.
    """
    found: dict[int, tuple[float, bool]] = {}
    by_seed: dict[int, dict[float, Result]] = {}
    for (rate, _), cells in candidate.reported.items():
        for cell in cells:
            if rate:
                by_seed.setdefault(cell.seed, {})[rate] = cell
    for seed, by_rate in by_seed.items():
        values = {
            r: v for r, c in sorted(by_rate.items()) if c.ok and (v := learned(c)) is not None
        }
        if len(values) < 3:
            continue
        base = min(start(by_rate[r]) for r in values)
        found[seed] = _octaves(np.log2(list(values)), np.array([*values.values()]), base, within)
    return found


def _octaves(rates: Array, values: Array, base: float, within: float) -> tuple[float, bool]:
    best = int(values.argmax())
    level = base + within * (values[best] - base)
    ends, reaches = [], False
    for step in (-1, 1):
        i = best
        while 0 <= i + step < len(rates) and values[i + step] >= level:
            i += step
        if not 0 <= i + step < len(rates):
            reaches = True
            ends.append(float(rates[i]))
        else:
            part = (values[i] - level) / (values[i] - values[i + step])
            ends.append(float(rates[i] + part * (rates[i + step] - rates[i])))
    return ends[1] - ends[0], reaches
