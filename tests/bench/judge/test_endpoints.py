"""Endpoints and guards on hand-made records with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint, read
from bench.judge.intervals import Effect
from bench.judge.judging import judge
from bench.judge.verdicts import Judgement, decide, p_value

Make = Callable[..., records.Record]
STEPS = read({"kind": "to_target", "targets": [1.0, 0.5], "loss": "loss"})


def claim(endpoint: Endpoint | str, **known: Any) -> Claim:
    made = read(endpoint) if isinstance(endpoint, str) else endpoint
    usual: dict[str, Any] = {
        "id": "mine", "stated": "here", "says": "A beats B.", "tasks": ("*",), "endpoint": made,
        "a": Arm("mora"), "b": Arm("lora"), "direction": "better", "margin": 0.0,
        "ratio": made.kind == "to_target",
    }  # fmt: skip
    return Claim(**usual | known)


def only(folder: Path, of: Claim) -> Judgement:
    found = [j for j in judge([of], collect(folder)) if j.effect is not None]
    assert len(found) == 1, [(j.protocol, j.reason) for j in found]
    return found[0]


def falling(steps_to_one: float, steps: int = 100) -> list[dict[str, Any]]:
    """A loss of 4 that falls along a straight line, its mean of 8 steps below 1 at that step."""
    slope = 3 / (steps_to_one - 3.5 - 0.5)
    return [
        {"step": s, "loss": max(0.01, 4 - slope * s), "tokens": 10 * s, "seconds": 0.5 * s}
        for s in range(1, steps + 1)
    ]


def run(folder: Path, make: Make, method: str, steps_to_one: list[float], **known: Any) -> None:
    for seed, target in enumerate(steps_to_one, 1):
        curves = {"train": falling(target), "scores": []}
        records.write(make(method, seed=seed, steps=100, curves=curves, **known), folder)


def test_steps_to_a_target(tmp_path: Path, make: Make) -> None:
    run(tmp_path, make, "mora", [40, 42, 44])
    run(tmp_path, make, "lora", [50, 52.5, 55])
    found = only(tmp_path, claim(STEPS, margin=math.log(1.05)))
    assert found.verdict == "holds"
    assert found.effect is not None and found.effect.effect == pytest.approx(
        math.log(1.25), rel=0.1
    )
    assert [round(math.exp(pair.a)) for pair in found.pairs] == [40, 42, 44]
    assert [label for label, _ in found.others] == ["0.5"]
    tokens = Endpoint("to_target", targets=(1.0,), judged=1.0, loss="loss", counted="tokens")
    other = only(tmp_path, claim(tokens)).effect
    assert other is not None and other.effect == pytest.approx(found.effect.effect)


@pytest.mark.parametrize("every", [1, 10])
def test_seeds_that_agree_to_the_logged_step_are_no_certainty(
    tmp_path: Path, make: Make, every: int
) -> None:
    """A target is reached anywhere between two points: a twelfth of the gap squared each."""
    for method, steps in (("mora", 40), ("lora", 50)):
        for seed in (1, 2, 3):
            points = [p for p in falling(steps) if p["step"] % every == 0]
            curves = {"train": points, "scores": []}
            records.write(make(method, seed=seed, steps=100, curves=curves), tmp_path)
    found = only(tmp_path, claim(STEPS, margin=math.log(1.05)))
    assert found.effect is not None and len({*found.effect.values}) == 1
    gaps = [every / math.exp(side) for side in (found.pairs[0].a, found.pairs[0].b)]
    assert found.effect.error == pytest.approx(math.sqrt(sum(g**2 for g in gaps) / 12 / 3))
    assert found.verdict == ("holds" if every == 1 else "undecided")


def test_who_never_gets_there_counts_as_slower(tmp_path: Path, make: Make) -> None:
    run(tmp_path, make, "mora", [40, 42, 44, 41])
    run(tmp_path, make, "lora", [80, 85, 200, 82])  # the third is cut off at step 100
    found = only(tmp_path, claim(STEPS))
    assert found.verdict == "holds" and found.effect is not None and found.effect.n == 4
    assert [pair.censored for pair in found.pairs] == [(False, False)] * 2 + [(False, True)] + [
        (False, False)
    ]
    assert math.exp(found.pairs[2].b) == pytest.approx(100)
    alike = only(tmp_path, claim(STEPS, direction="no_worse", margin=math.log(1.1)))
    assert alike.verdict == "cannot tell" and "shows no likeness" in alike.reason


def test_a_censored_majority_tells_nothing(tmp_path: Path, make: Make) -> None:
    run(tmp_path, make, "mora", [40, 42, 44])
    run(tmp_path, make, "lora", [200, 210, 90])
    found = only(tmp_path, claim(STEPS))
    assert found.verdict == "cannot tell" and found.guards[0].word == "censored"
    assert "2 of 3 cells of b are bounds only" in found.reason


def test_a_diverged_run_is_censored_at_its_planned_end(tmp_path: Path, make: Make) -> None:
    run(tmp_path, make, "mora", [40, 42, 44])
    run(tmp_path, make, "lora", [80, 85, 82])
    record = next(r for f in records.find(tmp_path) if (r := records.read(f))["seed"] == 3)
    curves = {"train": falling(80)[:20], "scores": []}
    bad = {"status": "diverged", "reason": "not finite", "metrics": {}, "examples": {}}
    records.write(record | bad | {"curves": curves}, tmp_path)
    pair = only(tmp_path, claim(STEPS)).pairs[2]
    assert sorted(pair.censored) == [False, True]
    assert max(math.exp(pair.a), math.exp(pair.b)) == pytest.approx(100)


def test_cells_at_chance_tell_nothing(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3):
        records.write(make("mora", seed=seed, final=0.14 + 0.001 * seed), tmp_path)
        records.write(make("lora", seed=seed, final=0.10), tmp_path)
    found = only(tmp_path, claim("final", margin=0.02))
    assert found.verdict == "cannot tell" and found.guards[0].word == "floor"
    for seed in (1, 2, 3):  # one that learned makes a difference from one that did not
        records.write(make("mora", seed=seed, final=0.8 + 0.001 * seed), tmp_path)
    assert only(tmp_path, claim("final", margin=0.02)).verdict == "holds"


def forgetting(drop: float) -> dict[str, Any]:
    part = {"before": 1.0, "after": 1 + drop, "drop": drop, "n": 5, "unit": "nats"}
    return {"mean_drop": drop, "parts": {"text": part}}


def test_where_nothing_is_forgotten_nothing_can_be_told(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3):
        records.write(make("mora", seed=seed, forgetting=forgetting(0.004)), tmp_path)
        records.write(make("lora", seed=seed, forgetting=forgetting(0.008)), tmp_path)
    found = only(tmp_path, claim("forgetting"))
    assert found.verdict == "cannot tell" and found.guards[0].word == "nothing forgotten"
    for seed in (1, 2, 3):
        records.write(make("lora", seed=seed, forgetting=forgetting(0.3)), tmp_path)
    assert only(tmp_path, claim("forgetting")).verdict == "holds"
    wide = only(tmp_path, claim("forgetting", direction="no_worse", margin=0.5))
    assert wide.verdict == "cannot tell"  # the margin is more than all that was forgotten


@pytest.mark.parametrize("scored_until", [50, 20])
def test_forgetting_is_read_where_both_learned_as_much(
    scored_until: int, tmp_path: Path, make: Make
) -> None:
    """Over the whole run: its end counts, whether or not it was scored along the run."""
    before = {
        "accuracy": {"value": 0.0, "n": 4, "higher_is_better": True, "unit": "fraction",
                     "chance": None},
        "text": {"value": 2.0, "n": 4, "higher_is_better": False, "unit": "nats", "chance": None},
    }  # fmt: skip
    for method, share, end in (("mora", 0.2, 0.8), ("lora", 0.5, 1.0)):
        for seed in (1, 2, 3):
            scores = [
                {"step": s, "tokens": s, "seconds": 1.0, "metrics": {
                    "accuracy": end * s / 50, "text": 2 * (1 + share * end * s / 50)}}
                for s in range(10, scored_until + 1, 10)
            ]  # fmt: skip
            made = make(method, seed=seed, final=end, before=before,
                        forgetting=forgetting(share * end))  # fmt: skip
            train = [{"step": s, "loss": 1.0, "tokens": s, "seconds": 1.0} for s in (1, 50)]
            made["curves"] = {"train": train, "scores": scores}
            records.write(made, tmp_path)
    endpoint = read({"kind": "forgetting_at_learned", "metric": "accuracy"})
    found = only(tmp_path, claim(endpoint))
    assert found.effect is not None
    assert found.effect.effect == pytest.approx((0.5 - 0.2) * 0.5 * 0.8)  # at half of the lesser
    shares = {label: other.effect for label, other in found.others}
    assert shares == {"0.25": pytest.approx(0.06), "0.75": pytest.approx(0.18)}


def test_bits_for_each_parameter_and_what_a_cut_loses(tmp_path: Path, make: Make) -> None:
    for method, bits, kept in (("mora", 4000.0, 1000.0), ("lora", 3000.0, 2900.0)):
        for seed in (1, 2, 3):
            metric = {"n": 500, "higher_is_better": True, "unit": "bits", "chance": 0.0}
            made = make(method, seed=seed, trainable=1000, examples={},
                        metrics={"bits": {"value": bits + seed} | metric})  # fmt: skip
            made["rank_cuts"] = {"8": {"bits": {"value": kept} | metric}, "2": {"bits": 10.0}}
            records.write(made, tmp_path)
    each = read({"kind": "bits_per_parameter", "metric": "bits"})
    found = only(tmp_path, claim(each, ratio=True, margin=math.log(1.05)))
    assert found.verdict == "holds" and found.unit == "ratio"
    assert found.effect is not None and math.exp(found.effect.effect) == pytest.approx(
        4 / 3, rel=0.01
    )
    lost = read({"kind": "lost_by_cut", "metric": "bits"})
    found = only(tmp_path, claim(lost, b=Arm(value=0.1)))
    assert found.verdict == "holds"
    assert found.effect is not None and found.effect.effect == pytest.approx(0.65, abs=0.01)


def grid(folder: Path, make: Make, values: dict[str, dict[float, float]], seeds: int = 4) -> None:
    rng = np.random.default_rng(0)
    for method, by_rate in values.items():
        for rate, value in by_rate.items():
            for seed in range(1, seeds + 1):
                final = value + 0.004 * float(rng.normal())
                records.write(make(method, rate=rate, seed=seed, final=final), folder)


RATES = (1e-3, 2e-3, 4e-3, 8e-3)


def test_each_seed_is_judged_at_the_rate_that_the_others_choose(tmp_path: Path, make: Make) -> None:
    flat = dict(zip(RATES, (0.5, 0.6, 0.6, 0.5), strict=True))
    grid(tmp_path, make, {"mora": flat, "lora": {r: v - 0.1 for r, v in flat.items()}})
    found = only(tmp_path, claim("final", margin=0.02))
    assert found.protocol == "tuned" and found.verdict == "holds"
    assert any("each seed at the rate that the others choose" in line for line in found.rates)
    cells = {c.cell: c for c in collect(tmp_path).cells}
    for seed in (1, 2, 3, 4):
        for method in ("mora", "lora"):
            others = {
                rate: np.mean([c.metrics["accuracy"].value for c in cells.values()
                               if (c.method, c.learning_rate) == (method, rate) and c.seed != seed])
                for rate in RATES
            }  # fmt: skip
            (judged,) = [cells[c] for c in found.cells
                         if cells[c].seed == seed and cells[c].method == method]  # fmt: skip
            assert judged.learning_rate == max(others, key=lambda r: others[r])


def test_a_best_rate_at_the_edge_of_the_losing_arm(tmp_path: Path, make: Make) -> None:
    rising = dict(zip(RATES, (0.3, 0.4, 0.5, 0.6), strict=True))
    peak = dict(zip(RATES, (0.6, 0.8, 0.7, 0.5), strict=True))
    grid(tmp_path, make, {"mora": peak, "lora": rising})
    found = only(tmp_path, claim("final"))
    assert found.verdict == "cannot tell" and found.guards[0].word == "edge"
    winner = only(tmp_path, claim("final", a=Arm("lora"), b=Arm("mora"), direction="better"))
    assert winner.guards[0].word == "edge"  # it loses whichever way it is asked


def test_the_width_of_the_good_rates(tmp_path: Path, make: Make) -> None:
    wide = dict(zip(RATES, (0.2, 0.8, 0.8, 0.2), strict=True))
    narrow = dict(zip(RATES, (0.2, 0.8, 0.2, 0.2), strict=True))
    grid(tmp_path, make, {"mora": wide, "lora": narrow})
    found = only(tmp_path, claim("good_range"))
    assert found.verdict == "holds" and found.unit == "octaves"
    assert found.effect is not None and found.effect.effect == pytest.approx(1.0, abs=0.1)


def test_capacity_is_the_most_over_numbers_of_pairs(tmp_path: Path, make: Make) -> None:
    """Each seed at the number that is best for the others; the largest number is an edge."""
    bits = {"mora": (50.0, 90.0, 80.0), "lora": (50.0, 70.0, 60.0)}
    for method, by_pairs in bits.items():
        for pairs, value in zip((16, 32, 64), by_pairs, strict=True):
            for seed in (1, 2, 3):
                metric = {"n": pairs, "higher_is_better": True, "unit": "bits", "chance": 0.0}
                metrics = {"bits": {"value": value + 0.1 * seed} | metric}
                made = make(method, seed=seed, pairs=pairs, metrics=metrics, examples={})
                records.write(made, tmp_path)
    over = claim(read({"kind": "final", "metric": "bits"}), over="pairs")
    found = only(tmp_path, over)
    assert found.verdict == "holds" and found.setting.endswith(", over pairs")
    assert found.arms == ("MoRA r=8, lr 1e-3, at 32", "LoRA r=8, lr 1e-3, at 32")
    assert found.effect is not None and found.effect.effect == pytest.approx(20.0)


def test_seeds_of_a_later_commit_are_flagged(tmp_path: Path, make: Make) -> None:
    for seed in (1, 2, 3, 4):
        for method, value in (("mora", 0.8), ("lora", 0.5)):
            made = make(method, seed=seed, final=value + 0.01 * seed)
            if seed == 4:
                made["environment"] = made["environment"] | {"git_commit": "f" * 40}
                made |= {"started": "2026-02-01T00:00:00+00:00",
                         "finished": "2026-02-01T00:02:00+00:00"}  # fmt: skip
            records.write(made, tmp_path)
    (flag,) = only(tmp_path, claim("final")).flags
    assert flag.startswith("seed 4 came after the others were there (commit fffffff)")


@pytest.mark.parametrize(
    ("direction", "margin", "effect", "expected"),
    [
        ("better", 0.1, 0.3, "holds"),
        ("better", 0.1, -0.3, "reversed"),
        ("better", 0.1, 0.06, "smaller than the margin"),
        ("better", 0.1, 0.0, "equivalent"),
        ("better", 0.1, 0.1, "undecided"),
        ("better", 0.0, -0.06, "reversed"),
        ("no_worse", 0.1, -0.02, "holds"),
        ("no_worse", 0.1, -0.3, "reversed"),
        ("no_worse", 0.1, -0.1, "undecided"),
        ("equal", 0.1, 0.02, "equivalent"),
        ("equal", 0.1, 0.3, "reversed"),
        ("equal", 0.1, 0.1, "undecided"),
    ],
)
def test_the_verdict_is_read_off_the_interval(
    direction: str, margin: float, effect: float, expected: str
) -> None:
    found = Effect(effect, 0.01, 10.0, 11)  # the interval reaches 0.022 to either side
    of = claim("final", direction=direction, margin=margin)
    assert decide(of, found) == expected
    assert (p_value(of, found) < 0.05) == (expected != "undecided")
