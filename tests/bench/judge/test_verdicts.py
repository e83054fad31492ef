"""Verdicts on hand-made records with known answers."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import records, report
from bench.judge import claims
from bench.judge.cells import collect
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.judging import judge
from bench.judge.primary import Family, Look
from bench.judge.verdicts import Judgement
from bench.report import render, trials, verdict_sheet, wording
from bench.report.__main__ import main

Make = Callable[..., records.Record]


def claim(**known: Any) -> Claim:
    usual: dict[str, Any] = {
        "id": "mine",
        "stated": "here",
        "says": "A beats B.",
        "tasks": ("uuid",),
        "a": Arm("mora"),
        "b": Arm("lora"),
        "direction": "better",
        "margin": 0.02,
    }
    kind, metrics = known.pop("measure", "final"), known.pop("metrics", ("accuracy",))
    return Claim(**usual | {"endpoint": Endpoint(kind, metrics)} | known)


def fill(
    folder: Path, make: Make, method: str, values: Sequence[float], rate: float = 1e-3, **known: Any
) -> None:
    """A cell a seed, with these final accuracies."""
    first = known.pop("first_seed", 1)
    for seed, value in enumerate(values, first):
        records.write(make(method, rate=rate, seed=seed, final=value, **known), folder)


def verdict(folder: Path, protocol: str = "as run", **known: Any) -> Judgement:
    found = [j for j in judge([claim(**known)], collect(folder)) if j.protocol == protocol]
    assert len(found) == 1, [(j.protocol, j.setting, j.reason) for j in found]
    return found[0]


HIGH, LOW = (0.81, 0.83, 0.82), (0.50, 0.53, 0.51)


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


# ---------------------------------------------------------------------------- measures


def test_the_mean_of_a_curve_tells_who_is_faster(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3):  # all end at 100 %
        records.write(make("mora", seed=seed, middle=20), tmp_path)
        records.write(make("lora", seed=seed, middle=35), tmp_path)
    assert verdict(tmp_path).guards[0].word == "ceiling"
    found = verdict(tmp_path, measure="curve")
    assert found.verdict == "holds"
    values = [
        [p["metrics"]["accuracy"] for p in records.read(f)["curves"]["scores"]]
        for f in records.find(tmp_path)
        if "lora" in f.read_text()
    ]
    assert found.effect is not None
    assert found.measured == "accuracy, mean over the scored steps"
    assert len(values) == 3 and 0.1 < found.effect.effect < 0.5


def test_lower_is_better_where_it_is(tmp_path: Path, make: Make) -> None:
    metric = {"n": 9, "higher_is_better": False, "unit": "perplexity", "chance": None}
    for method, base in (("mora", 20.0), ("lora", 25.0)):
        for seed in (1, 2, 3):
            metrics = {"perplexity": {"value": base + 0.1 * seed} | metric}
            made = make(method, seed=seed, metrics=metrics, examples={})
            records.write(made, tmp_path)
    found = verdict(tmp_path, metrics=("main",), margin=1.0)
    assert found.verdict == "holds"
    assert found.effect is not None and found.effect.effect == pytest.approx(5.0)
    assert wording.effect(found) == ("+5 perplexity", "+5 to +5")


def test_ratio_of_times(tmp_path: Path, make: Make) -> None:
    for method, speed in (("mora", 1000.0), ("lora", 1170.0)):
        for seed in (1, 2, 3):
            made = make(method, seed=seed)
            made["cost"] = made["cost"] | {"tokens_per_second": speed + seed}
            records.write(made, tmp_path)
    times = {"measure": "seconds_per_token", "ratio": True, "direction": "no_worse"}
    found = verdict(tmp_path, margin=math.log(1.05), **times)
    assert found.verdict == "reversed"
    assert wording.effect(found)[0] == "1.170 a / b"
    low, high = map(float, wording.effect(found)[1].split(" to "))
    assert 1.168 < low <= 1.17 <= high < 1.172
    assert verdict(tmp_path, margin=math.log(1.2), **times).verdict == "holds"


def test_a_number_instead_of_a_method(tmp_path: Path, make: Make) -> None:
    for seed, error in enumerate((1.0e-5, 1.1e-5, 1.2e-5), 1):
        audit = {"max_abs": error, "mean_abs": 1e-6, "dtype": "float32", "same_argmax": True}
        records.write(make("mora", seed=seed, merge_audit=audit), tmp_path)
    exact = {"measure": "merge_error", "margin": 0.0}
    assert verdict(tmp_path, b=Arm(value=1e-3), **exact).verdict == "holds"
    found = verdict(tmp_path, b=Arm(value=1e-6), **exact)
    assert found.verdict == "reversed" and found.arms[1] == "1e-06"


def test_the_rounding_of_bf16_is_no_error_of_merging(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3):
        audit = {"max_abs": 0.5, "mean_abs": 0.1, "dtype": "bfloat16", "same_argmax": 1.0}
        records.write(make("mora", seed=seed, merge_audit=audit), tmp_path)
    exact = claim(b=Arm(value=1e-3), measure="merge_error", margin=0.0)
    (found,) = judge([exact], collect(tmp_path))
    assert found.verdict == "undecided" and "the endpoint measured" in str(found.reason)


def spectrum(count: int) -> dict[str, Any]:
    layer = {"kind": "q_proj", "singular_values": [0.2] * count, "above_0.1": count,
             "effective_rank": float(count), "frobenius": 1.0}  # fmt: skip
    return {"layers": {"0.q_proj": layer, "1.q_proj": layer}}


def test_singular_values(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3):
        records.write(make("mora", seed=seed, spectrum=spectrum(40 + seed)), tmp_path)
        records.write(make("lora", seed=seed, spectrum=spectrum(8)), tmp_path)
    found = verdict(tmp_path, measure="singular_values_above_0.1", margin=0.0)
    assert found.verdict == "holds"
    assert found.effect is not None and found.effect.effect == pytest.approx(34.0)


def test_examples_of_a_shared_test_set_widen_the_interval(tmp_path: Path, make: Make) -> None:
    def add(folder: Path, *, named: bool) -> Judgement:
        for method, right in (("mora", 30), ("lora", 20)):
            for seed in (1, 2, 3):
                examples = [1.0] * (right + seed) + [0.0] * (40 - right - seed)
                made = make(method, seed=seed, final=sum(examples) / 40)
                made["examples"] = {"accuracy": examples}
                if named:
                    made["example_ids"] = {"accuracy": [f"q{i}" for i in range(40)]}
                records.write(made, folder)
        return verdict(folder)

    named, unnamed = add(tmp_path / "a", named=True), add(tmp_path / "b", named=False)
    assert named.effect is not None and unnamed.effect is not None
    assert named.effect.effect == unnamed.effect.effect == pytest.approx(0.25)
    assert named.effect.half_width > unnamed.effect.half_width > 0.05


def test_forgetting_at_equal_learning(tmp_path: Path, make: Make) -> None:
    """b forgets all that it learns, a half of it, but a learns more, and so forgets as much."""
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
    before = {"accuracy": {"value": 0.1, "n": 4, "higher_is_better": True, "unit": "fraction",
                           "chance": None}}  # fmt: skip
    for method, share, levels in (("mora", 0.5, (0.4, 0.9)), ("lora", 1.0, (0.2, 0.5))):
        for seed in (1, 2, 3):
            for i, level in enumerate(levels):
                drop = share * (level - 0.1) + 0.001 * seed * i
                forgetting = {"mean_drop": drop, "parts": {"topics": part}}
                made = make(method, rate=1e-3 * (i + 1), seed=seed, final=level)
                records.write(made | {"forgetting": forgetting, "before": before}, tmp_path)
    (found,) = judge([claim(measure="forgetting_at_equal_learning")], collect(tmp_path))
    assert found.verdict == "holds" and found.protocol == "all rates"
    # at 0.5 learned: b has lost 0.4, a 0.2 (between 0.15 at 0.4 and 0.4 at 0.9)
    assert found.effect is not None and found.effect.effect == pytest.approx(0.2, abs=0.005)
    unequal = [records.read(f) for f in records.find(tmp_path)]
    for record in unequal:
        share = 1.1 if record["method"]["name"] == "mora" else 1.0
        record["parameters"]["trainable"] = int(1e6 * share)
        records.write(record, tmp_path)
    (found,) = judge([claim(measure="forgetting_at_equal_learning")], collect(tmp_path))
    assert found.verdict == "cannot tell" and "unequal budgets, " in found.reason


# ---------------------------------------------------------------------------- learning rates


def tuned_study(folder: Path, make: Make, skip: Sequence[tuple[str, float]] = ()) -> None:
    """Validation seeds 11 and 12 favour 2e-3; the reported seeds favour 1e-3 and 4e-3."""
    validation = {1e-3: 0.3, 2e-3: 0.6, 4e-3: 0.4}
    reported = {1e-3: 0.9, 2e-3: 0.5, 4e-3: 0.95}
    for method, better in (("mora", 0.2), ("lora", 0.0)):
        for rate in validation:
            if (method, rate) in skip:
                continue
            bonus = better if rate == 2e-3 else -better
            fill(
                folder,
                make,
                method,
                [validation[rate]] * 2,
                rate,
                first_seed=11,
                split="validation",
            )
            levels = [min(1.0, reported[rate] + bonus + 0.01 * i) for i in range(3)]
            fill(folder, make, method, levels, rate)


def test_rates_are_tuned_on_validation_seeds_alone(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    found = verdict(tmp_path, "tuned")
    assert found.verdict == "holds"
    assert found.arms == ("MoRA r=8, lr 2e-3", "LoRA r=8, lr 2e-3")
    assert found.effect is not None and found.effect.effect == pytest.approx(0.2)
    assert found.flags == ()
    reported = {records.read(f)["seed"] for f in records.find(tmp_path) if f.stem in found.cells}
    assert reported == {1, 2, 3}


def test_the_expected_best_after_k_trials(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    found = trials.curves([verdict(tmp_path, "tuned")])
    (arms,) = found.values()
    assert arms["LoRA r=8"] == pytest.approx([1.3 / 3, (0.4 + 2 * 0.6) / 3, 0.6])
    assert trials.as_csv(found).count("\n") == 1 + 6


def test_unequal_trials_are_no_fair_tuning(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    for rate in (5e-4, 8e-3):  # nothing better there, but looked for
        for split, seed in (("validation", 11), (None, 1)):
            fill(tmp_path, make, "mora", [0.2] * (2 if split else 3), rate, first_seed=seed,
                 split=split)  # fmt: skip
    found = verdict(tmp_path, "tuned")
    assert found.verdict == "rates unsettled" and found.effect is not None
    assert found.reason == (
        "unequal numbers of learning-rate trials, widths of the grids of rates: "
        "MoRA r=8 5 trials in 4.0 octaves, 2 validation seeds, "
        "LoRA r=8 3 trials in 2.0 octaves, 2 validation seeds"
    )


def test_rates_that_validation_would_rather_not_choose_are_unsettled(
    tmp_path: Path, make: Make
) -> None:
    tuned_study(tmp_path, make)
    values = {1e-3: (0.9, 0.2, 0.5), 2e-3: (0.56, 0.56, 0.56), 4e-3: (0.2, 0.9, 0.5)}
    for rate, levels in values.items():
        for method in ("lora", "mora"):
            some = levels if method == "lora" else (0.6 if rate == 2e-3 else 0.4,) * 3
            fill(tmp_path, make, method, some, rate, first_seed=11, split="validation")
    found = verdict(tmp_path, "tuned")
    assert found.verdict == "rates unsettled"
    assert "another rate more often than not: LoRA r=8" in found.reason
    assert any("another rate would have been chosen in" in line for line in found.rates)


def test_a_best_rate_at_the_edge_is_flagged(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make, skip=[("lora", 1e-3), ("mora", 1e-3)])
    found = verdict(tmp_path, "tuned")
    assert found.verdict == "cannot tell"  # the losing arm might do better beyond its grid
    assert found.reason == (
        "edge: LoRA r=8: the best rate, 2e-3, lies at the lower edge of its grid"
    )
    assert found.flags == ("MoRA r=8: the best rate, 2e-3, lies at the lower edge of its grid",)


def test_a_rate_that_diverged_on_validation_is_not_chosen(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    for file in records.find(tmp_path):
        record = records.read(file)
        if record["seed"] == 12 and record["method"]["learning_rate"] == 2e-3:
            bad = {"status": "diverged", "reason": "not finite", "metrics": {}, "examples": {}}
            records.write(record | bad, tmp_path)
    assert verdict(tmp_path, "tuned").arms == ("MoRA r=8, lr 4e-3", "LoRA r=8, lr 4e-3")


def test_the_best_rate_needs_reported_cells(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    for file in records.find(tmp_path):
        record = records.read(file)
        if record["seed"] < 4 and record["method"]["learning_rate"] == 2e-3:
            file.unlink()
    reason = verdict(tmp_path, "tuned").reason
    assert "no reported cells of MoRA r=8 at its best rate, 2e-3" in reason


def test_a_seed_is_not_for_both(tmp_path: Path, make: Make) -> None:
    tuned_study(tmp_path, make)
    fill(tmp_path, make, "mora", [0.9], 2e-3, first_seed=11)
    assert "MoRA r=8: seed 11 is both validation and reported" in verdict(tmp_path, "tuned").reason


def test_without_validation_nothing_is_tuned(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    assert "no validation cells of MoRA r=8" in verdict(tmp_path, "tuned").reason


def test_the_papers_grid(tmp_path: Path, make: Make) -> None:
    for rate, values in ((1e-4, LOW), (2e-4, HIGH)):
        fill(tmp_path, make, "mora", values, rate)
    for rate, values in ((1e-4, (0.6, 0.61, 0.62)), (2e-4, LOW), (3e-4, LOW), (5e-3, HIGH)):
        fill(tmp_path, make, "lora", values, rate)
    found = verdict(tmp_path, "paper")
    assert found.arms == ("MoRA r=8, lr 2e-4", "LoRA r=8, lr 1e-4")  # 5e-3 is not in the grid
    assert found.verdict == "cannot tell" and "LoRA r=8: the best rate, 1e-4" in found.reason
    assert found.flags == (
        "MoRA r=8: rate chosen on the reported cells themselves, as in the paper",
        "LoRA r=8: rate chosen on the reported cells themselves, as in the paper",
        "MoRA r=8: the best rate, 2e-4, lies at the upper edge of its grid",
    )


def test_rates_outside_the_papers_grid_are_said(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    assert verdict(tmp_path, "paper").reason == (
        "no cells of MoRA r=8 at the paper's rates (5e-5, 1e-4, 2e-4); "
        "no cells of LoRA r=8 at the paper's rates (1e-4, 2e-4, 3e-4)"
    )


# ---------------------------------------------------------------------------- many claims, changes


def test_all_but_the_primary_ones_are_exploratory(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.70, 0.72, 0.74, 0.71))
    fill(tmp_path, make, "lora", (0.66, 0.65, 0.70, 0.69))
    one = claim(margin=0.0)
    (alone,) = [j for j in judge([one], collect(tmp_path)) if j.effect]
    assert alone.p is not None and 0.005 < alone.p < 0.05 and alone.verdict == "holds"
    assert wording.standing(alone) == "exploratory" and alone.p_holm is None

    def family(size: int) -> list[Judgement]:
        claims_ = tuple(claim(id=f"c{i}", margin=0.0) for i in range(size))
        return judge([one], collect(tmp_path), Family(claims_))

    first, *_ = family(1)
    assert first.primary and first.verdict == "holds" and first.p_holm == pytest.approx(first.p)
    many = family(20)
    assert [j.verdict for j in many if j.primary] == ["undecided"] * 20
    assert many[0].reason == "holds by itself, not after Holm's correction over 20"
    assert many[0].p_holm == pytest.approx(min(1.0, 20 * alone.p))
    assert [j.verdict for j in many if not j.primary and j.effect] == ["holds"]
    text = verdict_sheet.text(many)
    assert "20 primary, judged together (Holm); 1 exploratory" in text


def test_a_planned_second_look(tmp_path: Path, make: Make) -> None:
    looks = (Look(3, 0.01), Look(5, 0.04))
    family = Family((claim(margin=0.0),), looks)
    fill(tmp_path, make, "mora", (0.71, 0.72))
    fill(tmp_path, make, "lora", (0.66, 0.65))
    fill(tmp_path, make, "mora", (0.74, 0.71, 0.73, 0.90), first_seed=3)
    for seeds, said in ((2, "2 of the 3 seeds of the first look"), (3, "look 1 of 2, level 0.01")):
        fill(tmp_path, make, "lora", [0.70] * (seeds - 2), first_seed=3)
        (found, *_) = judge([], collect(tmp_path), family)
        assert found.verdict == "undecided" and said in f"{found.reason} {found.look}"
    fill(tmp_path, make, "lora", (0.70, 0.66, 0.67, 0.10), first_seed=3)
    (found, *_) = judge([], collect(tmp_path), family)
    assert found.verdict == "holds" and found.look == "look 2 of 2, level 0.04"
    assert found.effect is not None and found.effect.n == 5 and found.effect.level == 0.04
    assert "1 seed beyond the last look left out" in found.flags


def test_what_a_seed_fewer_would_say(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.80, 0.82, 0.84, 0.81))
    fill(tmp_path, make, "lora", (0.50, 0.52, 0.53, 0.52))
    assert verdict(tmp_path).without_one == "the same without any one seed"
    fill(tmp_path, make, "lora", (0.755, 0.765, 0.77, 0.78))
    found = verdict(tmp_path)
    assert found.verdict == "holds"
    said = re.fullmatch(r"without seed ([\d or]+) it would be: undecided", found.without_one)
    assert said is not None
    arms = {"mora": (0.80, 0.82, 0.84, 0.81), "lora": (0.755, 0.765, 0.77, 0.78)}
    for seed in (1, 2, 3, 4):  # word for word: take the seed away and ask again
        fewer = tmp_path / f"without-{seed}"
        for name, values in arms.items():
            for other, value in enumerate(values, 1):
                if other != seed:
                    records.write(make(name, seed=other, final=value), fewer)
        expected = "undecided" if str(seed) in said[1].split(" or ") else "holds"
        assert verdict(fewer).verdict == expected


def test_cells_of_version_1_run_twice_tell_a_noise_floor(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.805, 0.815, 0.825))
    fill(tmp_path, make, "lora", (0.800, 0.810, 0.820))
    again = make("lora", seed=1, final=0.83) | {"schema_version": 1}
    records.write(again, tmp_path / "again")
    small = verdict(tmp_path, margin=0.0)
    assert small.flags == ("no larger than the noise floor",)
    assert "noise floor: sd 2.1 points, at most 3.0 points" in wording.remarks(small)
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", (0.5, 0.51, 0.52))
    again = make("lora", seed=1, final=0.53) | {"schema_version": 1}
    records.write(again, tmp_path / "again")
    large = verdict(tmp_path)
    assert large.flags == ()


def test_perturbed_cells_are_never_seeds(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    plain = verdict(tmp_path)
    for i, value in enumerate((0.79, 0.84, 0.85)):
        record = make("mora", seed=1, final=value)
        record["config"] = record["config"] | {"perturb": 1e-6, "perturb_seed": i}
        record["cell"] = f"{i:016x}"
        records.write(record, tmp_path)
    found = verdict(tmp_path)
    assert plain.noise is None and found.noise is not None and found.effect == plain.effect
    assert found.noise.largest == pytest.approx(0.06) and found.noise.freedom == 3


def test_a_copy_of_a_record_is_no_second_run(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    shutil.copytree(tmp_path, tmp_path / "copy")
    found = verdict(tmp_path)
    assert found.noise is None and found.flags == () and len(found.cells) == 6


def test_a_changed_verdict_is_said(tmp_path: Path, make: Make, capsys, no_figures) -> None:
    fill(tmp_path / "runs", make, "mora", HIGH)
    fill(tmp_path / "runs", make, "lora", LOW)
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "id: mine\nstated: here\nsays: A beats B.\ntask: uuid\nmeasure: final\n"
        "a: {method: mora}\nb: {method: lora}\ndirection: better\n"
    )
    command = [str(tmp_path / "runs"), "--claims-from", str(folder)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert (
        "HOLDS (exploratory): a = MoRA r=8, lr 1e-3; b = LoRA r=8, lr 1e-3" in out
        and "CHANGED" not in out
    )
    folder = tmp_path / "runs" / "report"
    lines = list(csv.DictReader(io.StringIO((folder / "claims.csv").read_text())))
    assert [line["verdict"] for line in lines] == ["undecided", "undecided", "holds"]
    assert len(lines[2]["cells"].split()) == 6
    assert lines[2]["command"].endswith(f" --claims-from {command[2]}")
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(command) == 0 and "CHANGED" not in capsys.readouterr().out
    assert first == {p.name: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "runs" / f"{lines[2]['cells'].split()[0]}.json").unlink()
    main(command)
    assert (
        "CHANGED since the last report: mine, UUID pairs on SmolLM2-135M-Instruct, laptop scale, "
        "r=8, as run: holds (3 seeds) before, now undecided (no seeds)"
    ) in capsys.readouterr().out


def test_claims_are_tables_too(study: Path) -> None:
    made = report.make(collect(study), claims=claims.load())
    table = verdict_sheet.table(made.judgements)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    for rendered in (render.markdown(table), render.latex(table)):
        assert "lora" in rendered and "cannot tell" in rendered
    ids = {j.claim.id for j in made.judgements}
    assert ids == {claim.id for claim in claims.load()}  # none is passed over in silence
    said = "\n".join(
        [*(row[0].text for row in table.rows), *table.notes,
         *verdict_sheet.waiting(made.judgements)]
    )  # fmt: skip
    assert [i for i in ids if i not in said] == []


def test_many_folders_are_judged_together(tmp_path: Path, make: Make, capsys) -> None:
    """One sheet over a study, whose experiments have folders of their own."""
    fill(tmp_path / "study" / "one" / "records", make, "mora", HIGH)
    fill(tmp_path / "study" / "two" / "records", make, "lora", LOW)
    out = tmp_path / "out"
    assert main([str(tmp_path / "study"), "--claims-only", "--out", str(out)]) == 0
    assert "UUID pairs on" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "claims.csv", "claims.md", "claims.tex", "forest.svg",
    ]  # fmt: skip
    sheet = (out / "claims.md").read_text()
    assert "| uuid\\_mora\\_learns\\_faster |" not in sheet  # rotation, which these are not
    assert "### Without numbers, for want of cells" in sheet and "forest.svg" in sheet
    assert "--claims --claims-only`" in sheet and len(sheet.splitlines()) <= 60


def test_a_verdict_that_goes_missing_is_said(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    before = verdict_sheet.as_csv([verdict(tmp_path)], "a command")
    assert verdict_sheet.changes(before, [verdict(tmp_path)]) == []
    (said,) = verdict_sheet.changes(before, [])
    assert said.endswith(", r=8, as run: holds before, no longer compared")
