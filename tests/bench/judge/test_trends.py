"""Claims of a trend: the gap between two arms against the distance of the task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import read
from bench.judge.intervals import paired, with_choice
from bench.judge.judging import judge
from bench.judge.verdicts import Judgement
from tests.bench.judge.test_simulated import tuned

Make = Callable[..., records.Record]
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


def write(
    folder: Path, make: Make, method: str, task: str, rate: float, seed: int, bits: float,
    before: float = 8.0,
) -> None:  # fmt: skip
    """A cell that came from `before` to `bits` a byte of the task's text."""
    metric = {"n": 100, "higher_is_better": False, "unit": "bits", "chance": None}
    made = make(method, rate=rate, seed=seed, examples={},
                metrics={"bits_per_byte": metric | {"value": bits}},
                before={"bits_per_byte": metric | {"value": before}})  # fmt: skip
    made["task"] = made["task"] | {"name": task}
    made["cell"] = hashlib.sha256(repr((method, task, rate, seed)).encode()).hexdigest()[:16]
    records.write(made, folder)


def grid(
    folder: Path, make: Make, lead: Mapping[str, float], noise: float = 0.004,
    shape: Mapping[tuple[str, str], tuple[float, ...]] | None = None,
    before: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Both arms at three rates; MoRA is ahead by so much. shape: what a task's arm does by rate."""
    rng = np.random.default_rng(3)
    for task, ahead in lead.items():
        for method in ("mora", "lora"):
            by_rate = (shape or {}).get((task, method), PEAK)
            for rate, above in zip(RATES, by_rate, strict=True):
                for seed in SEEDS:
                    bits = 4.0 + above - (ahead if method == "mora" else 0.0)
                    bits += noise * float(rng.normal())
                    known = (before or {}).get(task, 8.0)
                    write(folder, make, method, task, rate, seed, bits, known)


def only(folder: Path, of: Claim) -> Judgement:
    (found,) = judge([of], collect(folder))
    return found


GROWING = {task: 0.05 * distance for task, distance in TREND.items()}
RISING, FALLING = (0.4, 0.2, 0.0), (0.0, 0.2, 0.4)  # best at the upper, the lower edge


def test_a_lead_that_grows_with_distance(tmp_path: Path, make: Make) -> None:
    """Fewer bits are better: a growing lead is a positive slope."""
    grid(tmp_path, make, GROWING)
    found = only(tmp_path, claim())
    assert found.verdict == "holds" and found.setting.startswith("3 tasks on SmolLM2")
    assert found.effect is not None and found.effect.effect == pytest.approx(0.05, abs=0.005)
    assert found.arms == ("MoRA r=8", "LoRA r=8")  # no task's rate
    gaps = {distance: gap.effect for distance, _, gap in found.gaps}
    assert gaps == {d: pytest.approx(0.05 * d, abs=0.01) for d in TREND.values()}
    assert all(f"without {task} +0.0" in found.without_one for task in TREND)
    assert any(line.startswith("far: ") for line in found.rates)


def test_a_lead_that_shrinks(tmp_path: Path, make: Make) -> None:
    grid(tmp_path, make, {task: -lead for task, lead in GROWING.items()})
    assert only(tmp_path, claim()).verdict == "reversed"


def test_a_trend_waits_for_all_its_tasks(tmp_path: Path, make: Make) -> None:
    far = {"farther": 6.0}
    grid(tmp_path, make, GROWING)
    found = only(tmp_path, claim(trend=TREND | far))
    assert found.effect is None and found.reason == "no cells of farther, of 4 tasks by distance"
    grid(tmp_path, make, {"far_too": 0.2})
    found = only(tmp_path, claim(trend={NEAR: 1.0, MID: 2.0, "far*": 4.0}))
    assert found.effect is None and "several settings of far*" in found.reason


def test_an_arm_is_the_same_whatever_it_is_called_beside_others(tmp_path: Path, make: Make) -> None:
    """In one task MoRA is there with two operators, and is called by them."""
    grid(tmp_path, make, GROWING)
    for seed in SEEDS:
        made = make("mora", seed=seed, settings={"operator": "sharing"})
        made["task"] = made["task"] | {"name": NEAR}
        records.write(made, tmp_path)
    found = [j for j in judge([claim()], collect(tmp_path)) if j.effect is not None]
    assert [j.verdict for j in found] == ["holds"]


def test_nothing_is_to_be_learned_near_the_base(tmp_path: Path, make: Make) -> None:
    """There training does harm, less at lower rates; farther on an unlearned task is a floor."""
    known = {(NEAR, "mora"): FALLING, (NEAR, "lora"): FALLING}
    grid(tmp_path / "near", make, GROWING, shape=known, before={NEAR: 3.7})
    assert only(tmp_path / "near", claim()).verdict == "holds"
    for task in (MID, FAR):
        grid(tmp_path / task, make, GROWING, before={task: 3.7})
        found = only(tmp_path / task, claim())
        assert found.verdict == "cannot tell" and found.guards[0].word == "floor"
    grid(tmp_path / "none", make, GROWING, before=dict.fromkeys(TREND, 3.7))
    assert only(tmp_path / "none", claim()).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("task", "method", "shape", "told"),
    [
        (FAR, "lora", RISING, False),  # a better rate for it would make the growing lead smaller
        (FAR, "mora", FALLING, True),
        (NEAR, "lora", RISING, True),
        (NEAR, "mora", FALLING, False),
    ],
)
def test_a_best_rate_at_an_edge(
    task: str, method: str, shape: Any, told: bool, tmp_path: Path, make: Make
) -> None:
    there = {(task, method): shape}
    grid(tmp_path / "up", make, GROWING, shape=there)
    found = only(tmp_path / "up", claim())
    assert found.verdict == ("holds" if told else "cannot tell"), found.reason
    if not told:
        assert [guard.word for guard in found.guards] == ["edge"]
        assert found.reason.startswith(f"edge: {task}")
    grid(tmp_path / "down", make, {t: -lead for t, lead in GROWING.items()}, shape=there)
    assert only(tmp_path / "down", claim()).verdict == ("cannot tell" if told else "reversed")


def test_rates_that_were_not_looked_for_alike(tmp_path: Path, make: Make) -> None:
    grid(tmp_path, make, GROWING)
    for seed in SEEDS:
        write(tmp_path, make, "mora", MID, 8e-3, seed, 4.4)
    found = only(tmp_path, claim())
    assert found.verdict == "rates unsettled" and found.reason.startswith("mid: unequal")


def test_the_interval_has_the_chance_of_the_choice_of_rates(tmp_path: Path, make: Make) -> None:
    """Alike rates, each seed at what the others choose: the slope's interval is wider for it."""
    flat = dict.fromkeys([(t, m) for t in TREND for m in ("mora", "lora")], (0.0, 0.0, 0.0))
    grid(tmp_path, make, dict.fromkeys(TREND, 0.0), noise=0.1, shape=flat)
    found = only(tmp_path, claim())
    assert found.effect is not None and "widened" in found.effect.how
    spread = np.std(found.effect.values, ddof=1) / np.sqrt(len(SEEDS))
    assert found.effect.error >= spread
    assert found.effect.n == len(SEEDS)


@pytest.mark.parametrize(("n", "apart"), [(6, 0.0), (6, 3.0), (12, 0.5)])
def test_a_slope_s_interval_covers(n: int, apart: float) -> None:
    """Simulated: five tasks, five rates each, no gap at any distance."""
    distances = np.array([1.7, 2.4, 3.2, 4.4, 9.3])
    weights = distances - distances.mean()
    weights /= (weights**2).sum()
    rng, covered, studies = np.random.default_rng(n), 0, 600
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
