"""Paired bootstrap over seeds, and over examples where a scorer gives them.

The bootstrap gives the standard error of the mean difference: seeds are drawn with replacement,
and examples are. Three seeds are few: a plain percentile interval of three covers the truth in
some three quarters of all studies. So the error is multiplied by sqrt(n / (n - 1)), which undoes
the bootstrap's narrowness, and by Student's t (Hesterberg 2015, The American Statistician 69(4)).

Examples that are the same for every seed (a test set) are a second source of chance, and its
variance adds. Examples that each seed draws anew (UUID pairs) already speak through the spread
between seeds; their interval is then only a floor, for seeds that agree by luck.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.judge.cells import Array

LEVEL = 0.95
POWER = 0.8
DRAWS = 2_000
MANY = 30  # seeds that agree no more by luck
EXHAUSTIVE = 4_000  # below this many, all resamples of the seeds are taken instead of drawn


@dataclass(frozen=True)
class Estimate:
    """A mean difference over `n` paired seeds and what chance does to it."""

    effect: float
    error: float  # standard error
    freedom: float  # degrees of freedom of Student's t
    n: int

    @property
    def half_width(self) -> float:
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error

    @property
    def low(self) -> float:
        return self.effect - self.half_width

    @property
    def high(self) -> float:
        return self.effect + self.half_width

    @property
    def detectable(self) -> float:
        """The smallest true difference that a study like this would find in 8 of 10 cases."""
        return self.half_width + float(stats.t.ppf(POWER, self.freedom)) * self.error

    def p_beyond(self, bound: float, side: int) -> float:
        """Two-sided p of "the true difference is not beyond the bound on that side" (+1 or -1).

        Below 1 - LEVEL exactly if the interval lies beyond the bound.
        """
        distance = side * (self.effect - bound)
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return min(1.0, 2 * float(stats.t.sf(distance / self.error, self.freedom)))


def estimate(
    differences: Sequence[float], examples: Sequence[Array] | None = None, *, shared: bool = False
) -> Estimate:
    """From one difference a seed, two at least; `examples`: the same by example, an array a seed.

    shared: the arrays are of the same examples in the same order. Deterministic.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    effect = math.fsum(values) / n
    seeds = _bootstrap_error(values) * math.sqrt(n / (n - 1))
    freedom = float(n - 1)
    if examples is None or (n > MANY and not shared):
        return Estimate(effect, seeds, freedom, n)
    if shared:
        by_example = np.mean(np.stack(list(examples)), axis=0)
        chance = _bootstrap_error(by_example)
        error = math.hypot(seeds, chance)
        if error > 0:  # Welch and Satterthwaite
            parts = seeds**4 / freedom + chance**4 / max(1, len(by_example) - 1)
            freedom = error**4 / parts
        return Estimate(effect, error, freedom, n)
    chance = math.sqrt(sum(_bootstrap_error(e) ** 2 for e in examples)) / n
    by_seeds = Estimate(effect, seeds, freedom, n)
    floor = Estimate(effect, chance, float(max(1, sum(len(e) - 1 for e in examples))), n)
    return max(by_seeds, floor, key=lambda found: found.half_width)


def _bootstrap_error(values: Array) -> float:
    """Standard deviation of the mean over resamples of the values."""
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return 0.0
    if n**n <= EXHAUSTIVE:
        chosen = np.array(list(itertools.product(range(n), repeat=n)))
        return float(values[chosen].mean(axis=1).std())
    rng = np.random.default_rng(0)
    at_once = max(1, 1_000_000 // n)
    means = [
        values[rng.integers(0, n, (min(at_once, DRAWS - start), n))].mean(axis=1)
        for start in range(0, DRAWS, at_once)
    ]
    return float(np.concatenate(means).std())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
