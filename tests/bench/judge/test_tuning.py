"""Which learning rate each arm is judged at, and when that is not settled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import records
from bench.judge.endpoints import Endpoint
from bench.report import trials
from tests.bench.judge.hand import HIGH, LOW, Make, fill, verdict


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


def test_the_expected_best_is_in_units_of_what_rates_were_chosen_by(
    tmp_path: Path, make: Make
) -> None:
    """By the endpoint it is steps; where cells were run at the best accuracy, it is accuracies."""
    steps = {"endpoint": Endpoint("to_target", targets=(1.0,), judged=1.0), "ratio": True}
    for rate, middle, final in ((1e-3, 20, 0.5), (2e-3, 30, 0.9), (4e-3, 40, 0.4)):
        for method in ("mora", "lora"):
            known = {"rate": rate, "middle": middle}
            fill(tmp_path, make, method, [final] * 2, first_seed=11, split="validation", **known)
            fill(tmp_path, make, method, [final] * 3, **known)
    own = verdict(tmp_path, "tuned", **steps)
    assert own.best_by == "steps to a value loss of 1 (mean of 8 steps)"
    assert all(15 < value < 60 for _, values in own.best_of for value in values)
    for file in records.find(tmp_path):
        record = records.read(file)
        if record["seed"] < 4 and record["method"]["learning_rate"] == 1e-3:
            file.unlink()
    other = verdict(tmp_path, "tuned", **steps)
    assert other.best_by.startswith("accuracy")
    assert all(0 < value <= 1 for _, values in other.best_of for value in values)
    ((endpoint, _),) = trials.curves([other])
    assert endpoint == other.best_by


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


def test_seeds_run_at_other_rates_than_the_rest_are_left_out(tmp_path: Path, make: Make) -> None:
    """A grid moved after two seeds: the others still choose each other's rates."""
    for method, better in (("mora", 0.1), ("lora", 0.0)):
        for rate, level in ((5e-4, 0.3), (1e-3, 0.5), (2e-3, 0.7)):
            fill(tmp_path, make, method, [level + better] * 2, rate, first_seed=1)
        for rate, level in ((1e-3, 0.5), (2e-3, 0.7), (4e-3, 0.6)):
            levels = [level + better + 0.01 * i for i in range(4)]
            fill(tmp_path, make, method, levels, rate, first_seed=3)
    found = verdict(tmp_path, "tuned")
    assert found.verdict == "holds" and [pair.seed for pair in found.pairs] == [3, 4, 5, 6]
    assert "LoRA r=8: seed 1, 2 left out: run at other rates than the rest" in found.flags


def test_words_of_a_panel_fit_beside_it() -> None:
    """Settings that only set a row apart are left out, long titles and labels broken."""
    endpoint = "steps to a value loss of 3.5 nats on the answer (mean of 8 steps)"
    setting = "Facts on docs-1M, laptop scale, facts 32, forgetting_limit 8, precision fp32, r=1"
    drawn = trials.figure({(endpoint, setting): {"FFT (max_steps=300)": [3.0, 2.0]}})
    assert drawn is not None
    (axes,) = (axes for axes in drawn.axes if axes.get_visible())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["FFT"]
    for words in (axes.get_title(), axes.get_ylabel()):
        assert "\n" in words and all(len(line) <= trials.WIDE for line in words.split("\n"))
