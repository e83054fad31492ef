"""Verdicts on hand-made records with known answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm
from bench.judge.judging import judge
from bench.report import wording
from tests.bench.judge.hand import HIGH, LOW, Make, claim, fill, verdict


def test_a_clear_win(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    found = verdict(tmp_path)
    assert found.verdict == "holds"
    assert found.effect is not None
    assert found.effect.effect == pytest.approx(0.3067, abs=1e-3)
    assert found.effect.n == 3 and len(found.cells) == 6
    assert found.reason == "" and found.without_one == ""  # no fewer than three can be judged


def test_a_clear_loss(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", LOW)
    fill(tmp_path, make, "lora", HIGH)
    assert verdict(tmp_path).verdict == "reversed"
    assert verdict(tmp_path, direction="no_worse").verdict == "reversed"
    assert verdict(tmp_path, direction="equal").verdict == "reversed"


def test_a_tie(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.800, 0.811, 0.820))
    fill(tmp_path, make, "lora", (0.801, 0.810, 0.819))
    assert verdict(tmp_path).verdict == "equivalent"  # within two points either way
    assert verdict(tmp_path, margin=0.0).verdict == "undecided"  # but perhaps better by less
    assert verdict(tmp_path, margin=0.0).reason == "the interval reaches across the margin"
    assert verdict(tmp_path, direction="no_worse").verdict == "holds"
    assert verdict(tmp_path, direction="equal").verdict == "equivalent"


def test_a_certain_gain_below_the_margin(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.810, 0.821, 0.830))
    fill(tmp_path, make, "lora", (0.800, 0.810, 0.819))
    found = verdict(tmp_path, margin=0.05)
    assert found.verdict == "smaller than the margin"
    assert found.reason == "a is better, but by less than the margin"
    assert verdict(tmp_path, margin=0.0).verdict == "holds"
    assert verdict(tmp_path, direction="equal", margin=0.05).verdict == "equivalent"


def test_noise(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.9, 0.5, 0.7))
    fill(tmp_path, make, "lora", (0.6, 0.7, 0.5))
    found = verdict(tmp_path)
    assert found.verdict == "undecided"
    assert found.effect is not None and found.effect.detectable() > 0.5


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds(tmp_path: Path, make: Make, seeds: int) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW[:seeds])
    found = verdict(tmp_path)
    assert found.verdict == "undecided" and found.effect is None
    words = "1 paired seed" if seeds == 1 else "2 paired seeds"
    assert found.reason == f"{words}; at least 3 are needed"


def test_seeds_without_a_partner_are_named(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", [*HIGH, 0.8])
    fill(tmp_path, make, "lora", LOW)
    found = verdict(tmp_path)
    assert found.verdict == "holds" and len(found.cells) == 6
    assert found.flags == ("left out for want of a partner: seed 4",)


def test_missing_cells(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    (found,) = judge([claim()], collect(tmp_path))
    assert found.verdict == "undecided"
    assert found.reason == "no cells of lora on task uuid"
    (other,) = judge([claim(tasks=("math*",))], collect(tmp_path))
    assert other.reason == "no cells of mora and of lora on task math*"
    (unmeasured,) = judge([claim(measure="forgetting", b=Arm("mora"))], collect(tmp_path))
    assert "the endpoint measured" in unmeasured.reason


def test_diverged_cells_count_as_the_worst(tmp_path: Path, make: Make) -> None:
    """Dropping the pair would reward a method for diverging."""
    fill(tmp_path, make, "mora", [*HIGH, 0.82])
    fill(tmp_path, make, "lora", [*LOW, 0.51])
    plain = verdict(tmp_path)
    for file in records.find(tmp_path):
        record = records.read(file)
        if record["method"]["name"] == "mora" and record["seed"] == 4:
            bad = {"status": "diverged", "reason": "not finite", "metrics": {}, "examples": {}}
            records.write(record | bad, tmp_path)
    found = verdict(tmp_path)
    assert plain.verdict == "holds" and found.verdict == "undecided"
    assert plain.effect is not None and found.effect is not None and found.effect.n == 4
    assert found.effect.values[3] == pytest.approx(0.09765625 - 0.51)  # chance is the worst
    assert found.flags == ("seed 4 of MoRA r=8 diverged: it counts as the worst",)
    assert found.diverged == ((1, 4), (0, 4))
    assert any(
        "1 of 4 of MoRA r=8, lr 1e-3 diverged (1% to 81%)" in r for r in wording.remarks(found)
    )


def test_failed_cells_are_left_out_aloud(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", [*HIGH, 0.82])
    fill(tmp_path, make, "lora", LOW)
    bad = make("lora", seed=4, status="failed", reason="no disk", metrics={}, examples={})
    records.write(bad, tmp_path)
    found = verdict(tmp_path)
    assert found.verdict == "holds" and found.effect is not None and found.effect.n == 3
    assert found.flags == ("seed 4 of LoRA r=8 failed: left out with its pair",)


def test_unequal_budgets_are_no_comparison(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH, trainable=1_100_000)
    fill(tmp_path, make, "lora", LOW, trainable=1_000_000)
    found = verdict(tmp_path)
    assert found.verdict == "cannot tell"
    assert found.reason == (
        "budgets: unequal budgets, trainable parameters: "
        "MoRA r=8 1,100,000, LoRA r=8 1,000,000 (-9.1 %)"
    )
    assert verdict(tmp_path, equal_budget=False).verdict == "holds"


def test_a_side_rounded_down_is_flagged(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH, trainable=2_392_560)  # as on SmolLM2-135M
    fill(tmp_path, make, "lora", LOW, trainable=2_442_240)
    found = verdict(tmp_path)
    assert found.verdict == "holds"
    (flag,) = found.flags
    assert flag.startswith("budgets differ a little, trainable parameters: ")
    assert flag.endswith("MoRA r=8 2,392,560 (-2.0 %), LoRA r=8 2,442,240")


def test_full_fine_tuning_is_exempt_and_pairs_with_any_rank(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "fft", HIGH)
    fill(tmp_path, make, "lora", LOW)
    fill(tmp_path, make, "lora", LOW, rank=64)
    found = judge([claim(a=Arm("fft"))], collect(tmp_path))
    assert [j.verdict for j in found if j.protocol == "as run"] == ["holds", "holds"]
    low = judge([claim(a=Arm("fft"), rank="high")], collect(tmp_path))
    assert {j.arms[1].split(",")[0] for j in low} == {"LoRA r=64"}


def test_only_like_is_compared(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW, rank=64)  # another rank
    fill(tmp_path, make, "lora", LOW, steps=30, scored=(30,))  # fewer steps
    fill(tmp_path, make, "lora", LOW, pairs=64)  # another task
    fill(tmp_path, make, "lora", LOW, scale="paper")
    (found,) = judge([claim()], collect(tmp_path))
    assert found.verdict == "undecided" and "no comparable cells" in found.reason


def test_each_setting_has_a_verdict_of_its_own(tmp_path: Path, make: Make) -> None:
    for pairs, a, b in ((32, HIGH, LOW), (64, LOW, HIGH)):
        fill(tmp_path, make, "mora", a, pairs=pairs)
        fill(tmp_path, make, "lora", b, pairs=pairs)
    found = [j.verdict for j in judge([claim()], collect(tmp_path)) if j.effect]
    assert sorted(found) == ["holds", "reversed"]


def test_operators_are_arms(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH, settings={"operator": "rotation"})
    fill(tmp_path, make, "mora", LOW, settings={"operator": "sharing"})
    arms = {
        "a": Arm("mora", (("operator", "rotation"),)),
        "b": Arm("mora", (("operator", "sharing"),)),
    }
    found = verdict(tmp_path, **arms)
    assert found.verdict == "holds"
    assert found.arms[0] == "MoRA (rotation) r=8, lr 1e-3"
