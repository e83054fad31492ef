"""Claims of a trend: the gap between two arms against the distance of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judge import foreign
from bench.judge.cells import Collection, Result, Score
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import read
from bench.judge.intervals import paired, with_choice
from bench.judge.judging import judge
from bench.judge.verdicts import Judgement
from tests.bench.judge.test_simulated import tuned

NEAR, MID, FAR = "near", "mid", "far"
TREND = {NEAR: 1.0, MID: 2.0, FAR: 4.0}
RATES = (1e-3, 2e-3, 4e-3)
PEAK = (0.2, 0.0, 0.2)  # bits a byte above the best, by rate
SEEDS = (1, 2, 3, 4)


def claim(**known: Any) -> Claim:
    usual: dict[str, Any] = {
        "id": "grows", "stated": "here", "says": "A's lead grows.", "tasks": ("*",),
        "endpoint": read({"kind": "final", "metric": "bits_per_byte"}), "a": Arm("mora"),
        "b": Arm("lora"), "direction": "better", "margin": 0.0, "trend": TREND,
    }  # fmt: skip
    return Claim(**usual | known)


def cell(
    method: str, task: str, rate: float, seed: int, bits: float, before: float = 8.0,
    settings: Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """One that came from `before` to `bits` a byte of the task's text."""
    metric = {name: Score(value, 100, False, "bits", None)
              for name, value in (("before", before), ("after", bits))}  # fmt: skip
    return foreign.bare(
        Path("made"), (method, task, rate, seed, settings), method=method, rank=8, seed=seed,
        learning_rate=rate, settings=dict(settings or {}), task=task,
        metrics={"bits_per_byte": metric["after"]}, before={"bits_per_byte": metric["before"]},
    )  # fmt: skip


def grid(
    lead: Mapping[str, float], noise: float = 0.004,
    shape: Mapping[tuple[str, str], tuple[float, ...]] | None = None,
    before: Mapping[str, float] | None = None,
) -> list[Result]:  # fmt: skip
    """Both arms at three rates; MoRA is ahead by so much. shape: what a task's arm does by rate."""
    rng, made = np.random.default_rng(3), []
    for task, ahead in lead.items():
        for method in ("mora", "lora"):
            by_rate = (shape or {}).get((task, method), PEAK)
            for rate, above in zip(RATES, by_rate, strict=True):
                for seed in SEEDS:
                    bits = 4.0 + above - (ahead if method == "mora" else 0.0)
                    bits += noise * float(rng.normal())
                    made.append(cell(method, task, rate, seed, bits, (before or {}).get(task, 8.0)))
    return made


def only(cells: Sequence[Result], of: Claim) -> Judgement:
    (found,) = judge([of], Collection("", list(cells)))
    return found


GROWING = {task: 0.05 * distance for task, distance in TREND.items()}
RISING, FALLING = (0.4, 0.2, 0.0), (0.0, 0.2, 0.4)  # best at the upper, the lower edge


def test_a_lead_that_grows_with_distance() -> None:
    """Fewer bits are better: a growing lead is a positive slope."""
    found = only(grid(GROWING), claim())
    assert found.verdict == "holds" and found.setting.startswith("3 tasks on ")
    assert found.effect is not None and found.effect.effect == pytest.approx(0.05, abs=0.005)
    assert found.arms == ("MoRA r=8", "LoRA r=8")  # no task's rate
    gaps = {distance: gap.effect for distance, _, gap in found.gaps}
    assert gaps == {d: pytest.approx(0.05 * d, abs=0.01) for d in TREND.values()}
    assert all(f"without {task} +0.0" in found.without_one for task in TREND)
    assert any(line.startswith("far: ") for line in found.rates)


def test_a_lead_that_shrinks() -> None:
    shrinking = grid({task: -lead for task, lead in GROWING.items()})
    assert only(shrinking, claim()).verdict == "reversed"


def test_a_trend_waits_for_all_its_tasks() -> None:
    cells = grid(GROWING)
    found = only(cells, claim(trend=TREND | {"farther": 6.0}))
    assert found.effect is None and found.reason == "no cells of farther, of 4 tasks by distance"
    cells += grid({"far_too": 0.2})
    found = only(cells, claim(trend={NEAR: 1.0, MID: 2.0, "far*": 4.0}))
    assert found.effect is None and "several settings of far*" in found.reason


def test_an_arm_is_the_same_whatever_it_is_called_beside_others() -> None:
    """In one task MoRA is there with two operators, and is called by them."""
    other = [cell("mora", NEAR, 1e-3, s, 4.0, settings={"operator": "sharing"}) for s in SEEDS]
    found = judge([claim()], Collection("", [*grid(GROWING), *other]))
    assert [j.verdict for j in found if j.effect is not None] == ["holds"]


def test_nothing_is_to_be_learned_near_the_base() -> None:
    """There training does harm, less at lower rates; farther on an unlearned task is a floor."""
    known = {(NEAR, "mora"): FALLING, (NEAR, "lora"): FALLING}
    assert only(grid(GROWING, shape=known, before={NEAR: 3.7}), claim()).verdict == "holds"
    for task in (MID, FAR):
        found = only(grid(GROWING, before={task: 3.7}), claim())
        assert found.verdict == "cannot tell" and found.guards[0].word == "floor"
    nowhere = grid(GROWING, before=dict.fromkeys(TREND, 3.7))
    assert only(nowhere, claim()).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("task", "method", "shape", "told"),
    [
        (FAR, "lora", RISING, False),  # a better rate for it would make the growing lead smaller
        (FAR, "mora", FALLING, True),
        (NEAR, "lora", RISING, True),
        (NEAR, "mora", FALLING, False),
    ],
)
def test_a_best_rate_at_an_edge(task: str, method: str, shape: Any, told: bool) -> None:
    there = {(task, method): shape}
    found = only(grid(GROWING, shape=there), claim())
    assert found.verdict == ("holds" if told else "cannot tell"), found.reason
    if not told:
        assert [guard.word for guard in found.guards] == ["edge"]
        assert found.reason.startswith(f"edge: {task}")
    shrinking = grid({t: -lead for t, lead in GROWING.items()}, shape=there)
    assert only(shrinking, claim()).verdict == ("cannot tell" if told else "reversed")


def test_rates_that_were_not_looked_for_alike() -> None:
    more = [cell("mora", MID, 8e-3, seed, 4.4) for seed in SEEDS]
    found = only([*grid(GROWING), *more], claim())
    assert found.verdict == "rates unsettled" and found.reason.startswith("mid: unequal")


def test_an_edge_that_does_not_matter_hides_no_unlike_search() -> None:
    """On the near task LoRA was tried at one rate more, below: its best lies at that edge."""
    near = min(TREND, key=lambda task: TREND[task])
    more = [cell("lora", near, RATES[0] / 2, seed, 3.5) for seed in SEEDS]
    found = only([*grid(GROWING), *more], claim())
    assert found.verdict == "rates unsettled" and found.reason.startswith(f"{near}: unequal")


def test_the_interval_has_the_chance_of_the_choice_of_rates() -> None:
    """Alike rates, each seed at what the others choose: the slope's interval is wider for it."""
    flat = dict.fromkeys([(t, m) for t in TREND for m in ("mora", "lora")], (0.0, 0.0, 0.0))
    found = only(grid(dict.fromkeys(TREND, 0.0), noise=0.1, shape=flat), claim())
    assert found.effect is not None and "widened" in found.effect.how
    spread = np.std(found.effect.values, ddof=1) / np.sqrt(len(SEEDS))
    assert found.effect.error >= spread
    assert found.effect.n == len(SEEDS)


@pytest.mark.parametrize(("n", "apart"), [(6, 0.0), (12, 0.5)])
def test_a_slope_s_interval_covers(n: int, apart: float) -> None:
    """Simulated: five tasks, five rates each, no gap at any distance."""
    distances = np.array([1.7, 2.4, 3.2, 4.4, 9.3])
    weights = distances - distances.mean()
    weights /= (weights**2).sum()
    rng, covered, studies = np.random.default_rng(n), 0, 400
    levels = -apart * np.abs(np.arange(5) - 2)

    def slopes(tasks: list[list[Any]], kept: Any) -> Any:
        gaps = [tuned(a[:, kept]) - tuned(b[:, kept]) for a, b in tasks]
        return sum(w * gap for w, gap in zip(weights, gaps, strict=True))

    for _ in range(studies):
        tasks = [[levels[:, None] + rng.normal(0, 1, (5, n)) for _ in range(2)] for _ in distances]
        without = [slopes(tasks, np.arange(n) != i).mean() for i in range(n)]
        found = with_choice(paired(list(slopes(tasks, slice(None)))), without)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / studies <= 0.98
