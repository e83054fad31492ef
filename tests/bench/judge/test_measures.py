"""What is compared: curves, ratios, spectra, examples, forgetting at equal learning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm
from bench.judge.judging import judge
from bench.judge.verdicts import Judgement
from bench.report import wording
from tests.bench.judge.hand import Make, claim, verdict


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


def test_a_best_rate_at_the_edge_is_nothing_to_times(tmp_path: Path, make: Make) -> None:
    """What does not depend on the learning rate can be told wherever the best one lies."""
    for method, speed in (("mora", 1000.0), ("lora", 1170.0)):
        for rate, final in ((1e-3, 0.5), (2e-3, 0.7), (4e-3, 0.9)):
            for seed, split in ((1, None), (2, None), (3, None), (9, "validation")):
                made = make(method, rate=rate, seed=seed, final=final, split=split)
                made["cost"] = made["cost"] | {"tokens_per_second": speed + seed}
                records.write(made, tmp_path)
    times = {"measure": "seconds_per_token", "ratio": True, "direction": "no_worse"}
    found = verdict(tmp_path, "tuned", margin=math.log(1.2), **times)
    assert found.verdict == "holds" and found.flags == ()
    assert verdict(tmp_path, "tuned").verdict == "cannot tell"  # how well they learn, can't


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


def test_a_rate_that_learns_less_and_forgets_more_is_none_that_one_would_take(
    tmp_path: Path, make: Make
) -> None:
    """Of a's three rates the highest learned less than the middle one and forgot more than all."""
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
    ends = {"mora": ((0.4, 0.1), (0.8, 0.3), (0.6, 3.0)), "lora": ((0.3, 0.2), (0.6, 0.4))}
    for method, rates in ends.items():
        for seed in (1, 2, 3):
            for i, (level, drop) in enumerate(rates):
                forgetting = {"mean_drop": drop + 0.001 * seed, "parts": {"topics": part}}
                made = make(method, rate=1e-3 * 2**i, seed=seed, final=level)
                records.write(made | {"forgetting": forgetting}, tmp_path)
    (found,) = judge([claim(measure="forgetting_at_equal_learning")], collect(tmp_path))
    # at 0.6 learned: b has lost 0.4, a 0.2, half-way between 0.1 at 0.4 and 0.3 at 0.8
    assert found.effect is not None and found.effect.effect == pytest.approx(0.2, abs=0.005)
