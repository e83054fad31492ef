"""A thousand simulated studies: intervals and families are right as often as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.judge import foreign
from bench.judge.cells import Result, Score
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.intervals import estimate, paired, pool, with_choice
from bench.judge.judging import through_looks
from bench.judge.primary import Family, Look
from bench.judge.rates import Candidate, choose
from bench.judge.rows import Row
from bench.judge.verdicts import DECIDED, Judgement, decide, p_value

pytestmark = pytest.mark.slow
STUDIES = 1_000
CLAIM = Claim("c", "here", "A beats B.", ("*",), Endpoint("final"), Arm("mora"), Arm("lora"),
              "better", 0.0)  # fmt: skip


@pytest.mark.parametrize("n", [3, 5, 12])
def test_intervals_cover(n: int) -> None:
    """Of pairs, and with the residual pooled over five arms where variances agree."""
    rng = np.random.default_rng(n)
    alone, together = 0, 0
    for _ in range(STUDIES):
        table = rng.normal(0, 1, (5, n)) + rng.normal(0, 2, (1, n))
        table[0] += 0.7
        differences = list(table[0] - table[1])
        own, pooled = paired(differences), estimate(differences, pool(table))
        alone += own.low <= 0.7 <= own.high
        together += pooled.low <= 0.7 <= pooled.high
    print(f"{n} seeds: paired {alone / STUDIES}, pooled {together / STUDIES}")
    assert 0.93 <= alone / STUDIES <= 0.97
    assert 0.93 <= together / STUDIES <= 0.97


@pytest.mark.parametrize("n", [3, 5, 6, 12])
@pytest.mark.parametrize("louder", [1, 2])
def test_arms_that_spread_more_than_the_others(n: int, louder: int) -> None:
    """One or both of the compared arms, twice as much: rarely told apart where they are alike."""
    rng = np.random.default_rng(n)
    spreads = np.array([2.0] * louder + [1.0] * (5 - louder))[:, None]
    wrong = 0
    for _ in range(STUDIES):
        table = spreads * rng.normal(0, 1, (5, n)) + rng.normal(0, 0.5, (1, n))
        found = estimate(list(table[0] - table[1]), pool(table))
        wrong += not found.low <= 0 <= found.high
    print(f"{n} seeds, {louder} arms: {wrong / STUDIES}")
    assert wrong / STUDIES <= (0.1 if n < 6 else 0.07)


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("apart", [0.0, 0.5, 3.0])
def test_intervals_cover_with_a_tuned_rate_among_five(n: int, apart: float) -> None:
    """The choice of the rate is part of the estimate, and of the interval.

    apart: of the rates' true values, in standard deviations between seeds; the arms' are alike.
    """
    rng = np.random.default_rng(n)
    levels = -apart * np.abs(np.arange(5) - 2)
    covered, studies = 0, 4 * STUDIES
    for _ in range(studies):
        arms = [levels[:, None] + rng.normal(0, 1, (5, n)) for _ in range(2)]
        own = paired(list(tuned(arms[0]) - tuned(arms[1])))
        kept = [np.arange(n) != i for i in range(n)]
        without = [(tuned(arms[0][:, k]) - tuned(arms[1][:, k])).mean() for k in kept]
        found = with_choice(own, without)
        covered += found.low <= 0 <= found.high
    print(f"{n} seeds, rates {apart} apart: {covered / studies:.4f}")
    assert 0.93 <= covered / studies <= 0.97


def tuned(values: np.ndarray) -> np.ndarray:
    """From (rates, seeds): each seed's value at the rate that is best on the others."""
    others = (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)
    return values[others.argmax(0), np.arange(values.shape[1])]


def test_the_choice_is_the_one_that_is_simulated() -> None:
    values = np.random.default_rng(3).normal(0, 1, (5, 6))
    cells = {
        (1e-3 * 2**i, None): [cell(i, seed, float(v)) for seed, v in enumerate(row)]
        for i, row in enumerate(values)
    }
    row = Row("mora", "MoRA", 8, None, {}, [])
    choice = choose(Candidate(row, cells), "tuned", "task", lambda c: c.metrics["m"].value)
    found = [choice.cells[seed].metrics["m"].value for seed in sorted(choice.cells)]
    assert found == pytest.approx(list(tuned(values)))


def cell(rate: int, seed: int, value: float) -> Result:
    metric = Score(value, 1, True, "", None)
    return foreign.bare(Path("simulated"), (rate, seed), method="mora", rank=8, seed=seed,
                        learning_rate=1e-3 * 2**rate, settings={}, task="task",
                        metrics={"m": metric})  # fmt: skip


@pytest.mark.parametrize(
    "looks",
    [(Look(),), (Look(6, 0.01), Look(12, 0.04)), (Look(6, 0.025), Look(12, 0.025))],
    ids=["one look", "1 and 4 %", "twice 2.5 %"],
)
def test_a_family_is_wrong_in_a_twentieth_at_most(looks: tuple[Look, ...]) -> None:
    """Eight comparisons without any difference: none is to be decided."""
    rng = np.random.default_rng(1)
    family = Family((CLAIM,) * 8, looks)
    wrong = 0
    for _ in range(STUDIES):
        values = rng.normal(0, 1, (8, 12))
        judged = [(range(12), look_at(list(row))) for row in values]
        wrong += any(j.verdict in DECIDED for j in through_looks(judged, family, 8))
    print(f"{len(looks)} looks: {wrong / STUDIES}")
    assert wrong / STUDIES <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)


def test_a_family_finds_what_is_there() -> None:
    rng = np.random.default_rng(1)
    family = Family((CLAIM,) * 8, (Look(6, 0.01), Look(12, 0.04)))
    found = []
    for _ in range(100):
        judged = [(range(12), look_at(list(row))) for row in rng.normal(2.0, 1, (8, 12))]
        found += [j.verdict == "holds" for j in through_looks(judged, family, 8)]
    assert np.mean(found) > 0.95


def look_at(values: list[float]):
    def at(seeds: Sequence[int], level: float) -> Judgement:
        effect = paired([values[s] for s in seeds]).at(level)
        return Judgement(CLAIM, verdict=decide(CLAIM, effect), effect=effect,
                         p=p_value(CLAIM, effect))  # fmt: skip

    return at
