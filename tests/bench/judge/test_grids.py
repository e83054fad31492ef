"""Grids of learning rates that are not whole: running, extended, with failed or diverged cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import UserError
from bench.judge import foreign
from bench.judge.cells import Collection, Result, Score
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import read
from bench.judge.judging import judge
from bench.judge.primary import Family, Look
from bench.judge.verdicts import HOLDS, UNDECIDED, Judgement

RATES = (1e-3, 2e-3, 4e-3)
SHAPE = (0.0, 0.05, 0.0)  # the middle one is best
LOOKS = (Look(6, 0.01), Look(12, 0.04))


def a_claim(**changed: Any) -> Claim:
    usual: dict[str, Any] = {
        "id": "c", "stated": "x", "says": "x", "tasks": ("*",), "endpoint": read("final"),
        "a": Arm("mora"), "b": Arm("lora"), "direction": "better", "margin": 0.0,
    }  # fmt: skip
    return Claim(**usual | changed)


def cell(
    method: str, rate: float, seed: int, value: float, status: str = "ok", **changed: Any
) -> Result:
    score = Score(value, 100, True, "fraction", 0.1)
    usual: dict[str, Any] = {
        "method": method, "rank": 8, "seed": seed, "learning_rate": rate, "status": status,
        "settings": {"trainer.max_steps": 100}, "task": "t", "experiment": "e",
        "metrics": {"accuracy": score} if status == "ok" else {},
    }  # fmt: skip
    of = (method, rate, seed, status, changed.get("experiment"))
    return foreign.bare(Path("made.csv"), of, **usual | changed)


def grid(
    seeds: Iterable[int],
    rates: Sequence[float] = RATES,
    shape: Sequence[float] = SHAPE,
    lead: float = 0.05,
    noise: float = 0.01,
    of: int = 1,
    **changed: Any,
) -> list[Result]:
    rng, seeds = np.random.default_rng(of), [*seeds]
    return [
        cell(m, rate, s, 0.5 + lead * (m == "mora") + d + noise * rng.normal(), **changed)
        for m in ("mora", "lora")
        for rate, d in zip(rates, shape, strict=True)
        for s in seeds
    ]


def at_all(seeds: Iterable[int], status: str, rates: Sequence[float] = RATES) -> list[Result]:
    both = ("mora", "lora")
    return [cell(m, rate, s, 0, status) for m in both for rate in rates for s in seeds]


def tuned(cells: Sequence[Result], **changed: Any) -> Judgement:
    made = judge([a_claim(**changed)], Collection("", [*cells]))
    (found,) = [one for one in made if one.protocol == "tuned"]
    return found


def looked_at(cells: Sequence[Result]) -> Judgement:
    (found,) = judge([], Collection("", [*cells]), Family((a_claim(),), LOOKS))
    return found


def numbers(made: Judgement) -> tuple[str, int | None, float | None]:
    known = made.effect
    return made.verdict, known and known.n, known and known.half_width


@pytest.mark.parametrize(
    "more",
    [
        grid(range(6, 12), RATES[:1], SHAPE[:1], of=7),
        grid(range(6, 12), RATES[:2], SHAPE[:2], of=7),
        at_all(range(6, 12), "failed"),
    ],
    ids=["one rate", "two rates", "failed"],
)
def test_seeds_that_lack_rates_come_to_no_second_look(more: list[Result]) -> None:
    first = grid(range(6), lead=0.006, noise=0.02)
    alone, both = looked_at(first), looked_at([*first, *more])
    assert alone.verdict == UNDECIDED and alone.look.startswith("look 1 of 2")
    assert both.look == alone.look and numbers(both) == numbers(alone)
    assert any("seed 6, 7, 8, 9, 10, 11 left out" in flag for flag in both.flags)


@pytest.mark.parametrize(
    "more",
    [
        [*grid(range(6, 12), of=7), *grid(range(6, 12), (8e-3,), (0.0,), of=8)],
        grid(range(6, 19), RATES[:2], SHAPE[:2], of=7),
    ],
    ids=["one rate more", "many seeds at two rates"],
)
def test_later_seeds_on_another_grid_undo_no_look(more: list[Result]) -> None:
    first = grid(range(6))
    alone, both = looked_at(first), looked_at([*first, *more])
    assert alone.verdict == both.verdict == HOLDS and both.look.startswith("look 1 of 2")
    assert numbers(both) == numbers(alone)


@pytest.mark.parametrize("few", [1, 2, 3])
@pytest.mark.parametrize("better", [0.03, 0.09], ids=["worse", "best"])
def test_one_more_rate_on_a_few_seeds_costs_the_others_nothing(few: int, better: float) -> None:
    whole = grid(range(12))
    more = tuned([*whole, *grid(range(few), (8e-3,), (better,), of=5)])
    assert numbers(more) == numbers(tuned(whole))
    assert f"MoRA r=8: lr 8e-3 left out: ended on {few} of 12 seeds" in more.flags


def test_one_more_rate_on_all_seeds_is_one_of_the_grid() -> None:
    more = tuned([*grid(range(12)), *grid(range(12), (8e-3,), (0.09,), of=5)])
    assert "lr 8e-3" in more.arms[0]
    assert "upper edge" in more.reason


def test_a_rate_that_failed_everywhere_is_left_out() -> None:
    whole = grid(range(12))
    made = tuned([*whole, *at_all(range(12), "failed", (8e-3,))])
    assert numbers(made) == numbers(tuned(whole))
    assert "MoRA r=8: lr 8e-3 left out: ended on 0 of 12 seeds" in made.flags


def test_who_diverges_without_a_number_is_the_worst_of_its_rates() -> None:
    """Forgetting says nothing of a rate; what was learned does, and a diverged cell has none."""
    forgot = {"mora": 0.05, "lora": 0.06}
    cells = [
        replace(c, forgetting=forgot[c.method] + 1e-3 * np.random.default_rng(c.seed).normal())
        for c in grid(range(12))
        if not (c.method == "mora" and c.learning_rate == RATES[-1])
    ]
    cells += [c for c in at_all(range(12), "diverged", RATES[-1:]) if c.method == "mora"]
    made = tuned(cells, endpoint=read("forgetting"))
    assert made.verdict == HOLDS and made.effect is not None and made.effect.n == 12


@pytest.mark.parametrize(
    "cells",
    [
        grid(range(1)),
        [*grid(range(12)), *at_all(range(3), "failed", (8e-3,))],
        [c for c in grid(range(3)) if RATES.index(c.learning_rate or 0) == c.seed],
        [*at_all(range(1, 4), "failed"), *grid(range(1))],
        [c for c in grid(range(3)) if (c.method, c.seed, c.learning_rate) != ("mora", 2, 4e-3)],
    ],
    ids=["one seed", "failed extra", "a rate a seed", "all failed but one", "one cell lacks"],
)
def test_a_grid_that_has_begun_is_told_and_not_fatal(cells: list[Result]) -> None:
    for made in judge([a_claim()], Collection("", cells)):
        assert made.reason or made.effect is not None


def test_what_lacks_a_rate_makes_no_interval_narrower() -> None:
    whole = grid(range(3))
    lacking = [c for c in whole if (c.method, c.seed, c.learning_rate) != ("mora", 2, 4e-3)]
    made = tuned(lacking)
    assert made.effect is None and "2 paired seeds" in made.reason


@pytest.mark.parametrize(("rate", "better"), [(5e-4, -0.1), (8e-3, 0.2)], ids=["lower", "higher"])
def test_cells_of_another_experiment_don_t_come_in_by_their_rate(
    rate: float, better: float
) -> None:
    here = {"setting": (("experiment", ("study/steps",)),)}
    own = grid(range(12), experiment="study/steps")
    other = grid(range(12), (rate,), (better,), of=4, experiment="study/other")
    assert numbers(tuned([*own, *other], **here)) == numbers(tuned(own, **here))


def test_a_later_seed_changes_nothing_that_a_look_has_seen() -> None:
    """The worst of all cells, which a diverged one counts as, is the worst of those looked at."""
    seen = [cell("mora", 1e-3, s, 0.60 + 0.002 * s) for s in range(6)]
    seen += [cell("lora", 1e-3, s, 0.50 + 0.003 * s) for s in range(5)]
    seen += [cell("lora", 1e-3, 5, 0, "diverged")]
    later = [cell(m, 1e-3, 6, 0.001) for m in ("mora", "lora")]
    assert numbers(looked_at([*seen, *later])) == numbers(looked_at(seen))


def test_holm_counts_those_that_wait_beside_one_that_is_judged_twice() -> None:
    family = Family((a_claim(id="c1"), a_claim(id="c2", tasks=("elsewhere",))), (Look(),))
    cells = grid(range(6), RATES[:1], SHAPE[:1], lead=0.015)
    twice = [*cells, *(replace(c, device="cuda", cell=c.cell[::-1]) for c in cells)]
    judged = judge([], Collection("", twice), family)
    assert len(judged) == 3
    for made in judged[:2]:
        assert made.p is not None and made.p_holm == pytest.approx(min(1, 3 * made.p))


def test_who_diverged_is_not_left_out_of_what_was_forgotten() -> None:
    """At the one rate that the validation cells chose: four of eight seeds have no value."""
    rng = np.random.default_rng(0)
    forgot = {"mora": 0.05, "lora": 0.16}
    cells = [
        replace(c, forgetting=forgot[c.method] + 1e-3 * rng.normal())
        for c in grid(range(8), RATES[1:2], SHAPE[1:2])
        if not (c.method == "mora" and c.seed < 4)
    ]
    cells += [cell("mora", RATES[1], seed, 0, "diverged") for seed in range(4)]
    (found,) = [
        one
        for one in judge([a_claim(endpoint=read("forgetting"))], Collection("", cells))
        if one.protocol == "as run"
    ]
    assert found.verdict == "cannot tell" and "diverged: 4 cells" in found.reason
    assert not any("counts as the worst" in flag for flag in found.flags)


def test_who_diverged_has_stored_no_bits() -> None:
    """The worst is chance, not the worst of those who came through."""
    cells = [
        replace(c, trainable=100, metrics={"bits": Score(100.0, 1, True, "bits", 0.0)})
        for c in grid(range(9), RATES[1:2], SHAPE[1:2])
        if not (c.method == "mora" and c.seed < 3)
    ]
    cells += [
        replace(cell("mora", RATES[1], seed, 0, "diverged"), trainable=100) for seed in range(3)
    ]
    endpoint = read({"kind": "bits_per_parameter", "metric": "bits"})
    made = judge([a_claim(endpoint=endpoint, margin=0.1)], Collection("", cells))
    (found,) = [one for one in made if one.protocol == "as run"]
    assert [pair.a for pair in found.pairs][:4] == [0.0, 0.0, 0.0, 1.0]


def test_an_arm_is_not_compared_with_itself() -> None:
    operators = {"lora": "rotation", "mora": "sharing"}
    cells = [
        replace(c, method="mora", settings=c.settings | {"operator": operators[c.method]})
        for c in grid(range(4))
    ]
    both = a_claim(a=Arm("mora"), b=Arm("mora", (("operator", "sharing"),)))
    made = judge([both], Collection("", cells))
    assert {one.arms[0].partition(" r=8")[0] for one in made} == {"LoRA (rotation)"}


def test_a_level_run_for_two_numbers_of_steps_is_said() -> None:
    cells = [
        replace(c, task_settings={"pairs": 8}, settings={"trainer.max_steps": steps})
        for steps in (100, 200)
        for c in grid(range(4))
    ]
    with pytest.raises(UserError, match="lies there twice"):
        judge([a_claim(over="pairs")], Collection("", cells))
