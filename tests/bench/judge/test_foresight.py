"""What a planned grid could decide, before it is run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import records
from bench.dryrun import main
from bench.judge.cells import collect
from bench.judge.claims import Claim, parse
from bench.judge.foresight import _spreads, foresee
from bench.judge.primary import Family, Look
from tests.bench.judge.hand import Make


def claim(**changed: Any) -> Claim:
    usual = {
        "id": "mine", "stated": "here", "says": "A beats B.", "task": "uuid",
        "endpoint": {"kind": "to_target", "targets": [1.0]}, "a": {"method": "mora"},
        "b": {"method": "lora"}, "direction": "better", "margin": 1.05,
    }  # fmt: skip
    return parse(usual | changed)


def design(seeds: int, rates: tuple[float, ...] = (1e-3,), **steps: int) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "method": {"name": method, "rank": 8, "learning_rate": rate},
            "task": {"name": "uuid", "pairs": 32},
            "model": {"name": "tiny", "label": "Tiny"},
            "trainer": {"max_steps": steps.get(method, 100), "batch_size": 4},
            "scale_name": "laptop",
        }
        for method in ("mora", "lora")
        for rate in rates
        for seed in range(seeds)
    ]


def test_too_few_seeds_can_never_decide() -> None:
    (found,) = foresee([claim()], design(2))
    assert not found.possible and "2 shared seeds; at least 3 are needed" in str(found)


def test_perturbed_cells_are_no_seeds() -> None:
    twins = [c | {"perturb": 1e-6, "perturb_seed": n} for n in (1, 2) for c in design(1)]
    (found,) = foresee([claim()], [*design(5), *twins])
    assert found.possible and "5 seeds" in str(found)


def test_a_margin_finer_than_the_design() -> None:
    near = claim(direction="equal", margin=1.02)
    (few,) = foresee([near], design(3))
    (many,) = foresee([near], design(60))
    assert not few.possible and "can never be decided" in str(few) and "× 1.020" in few.words
    assert many.possible
    (never,) = foresee([claim(direction="equal", margin=1.0)], design(60))
    assert not never.possible and "a margin of 0" in never.words


def test_what_it_would_find_grows_with_seeds_and_the_family() -> None:
    def found(seeds: int, size: int) -> float:
        family = Family(tuple(claim(id=f"c{i}") for i in range(size)))
        first, *_ = foresee([], design(seeds, (1e-3, 2e-3, 4e-3)), family=family)
        assert first.possible and first.primary and "3 rates an arm" in first.words
        return math.log(float(first.words.rsplit("× ", 1)[1]))

    assert found(12, 1) < found(6, 1) < found(6, 8)


def test_arms_that_may_not_be_compared() -> None:
    (found,) = foresee([claim()], design(6, lora=200))
    assert not found.possible and "no two arms that may be compared" in found.words
    assert foresee([claim(task="math*")], design(6)) == []


def test_unequal_searches() -> None:
    cells = design(4, (1e-3, 2e-3, 4e-3))
    cells = [
        c for c in cells if c["method"]["learning_rate"] < 3e-3 or c["method"]["name"] == "mora"
    ]
    (found,) = foresee([claim()], cells)
    assert not found.possible and "MoRA r=8 3 trials over 2.0 octaves, LoRA r=8 2" in found.words


def test_the_best_of_two_rates_is_always_at_an_edge() -> None:
    (two,) = foresee([claim()], design(6, (1e-3, 2e-3)))
    assert not two.possible and "always lies at an edge" in two.words
    assert foresee([claim()], design(6, (1e-3, 2e-3, 4e-3)))[0].possible
    (one,) = foresee([claim()], design(6))
    assert one.possible and "as run, not tuned" in one.words


def test_a_missing_arm_is_named() -> None:
    alone = [c for c in design(6) if c["method"]["name"] == "mora"]
    (found,) = foresee([claim()], alone)
    assert not found.possible and "no cells of lora on task uuid" in found.words


def test_validation_cells_count_as_none() -> None:
    cells = [c | {"validation_seeds": [0, 1, 2]} for c in design(5, (1e-3, 2e-3, 4e-3))]
    (found,) = foresee([claim()], cells)
    assert not found.possible and "2 shared seeds" in found.words


def test_the_first_look_must_be_reached() -> None:
    family = Family((claim(),), (Look(6, 0.01), Look(12, 0.04)))
    rates = (1e-3, 2e-3, 4e-3)
    (few,) = foresee([], design(5, rates), family=family)
    assert not few.possible and "5 of the 6 seeds of the first look" in few.words
    (first,) = foresee([], design(11, rates), family=family)
    (second,) = foresee([], design(14, rates), family=family)
    assert "judged with 6 at level 0.01" in first.words
    assert "judged with 12 at level 0.04" in second.words


def test_what_no_cell_would_measure() -> None:
    cut = claim(endpoint={"kind": "lost_by_cut"}, b={"value": 0.1}, margin=0.0)
    cells = design(6, (1e-3, 2e-3, 4e-3))
    (found,) = foresee([cut], cells)
    assert not found.possible and "8 is not among analysis.rank_cuts" in found.words
    (found,) = foresee([cut], [c | {"analysis": {"rank_cuts": [8]}} for c in cells])
    assert found.possible
    forgets = claim(endpoint="forgetting", direction="no_worse", margin=0.02)
    assert "task.forgetting is not set" in foresee([forgets], cells)[0].words


def test_unequal_budgets() -> None:
    cells = design(6, (1e-3, 2e-3, 4e-3))
    numbers = [1000 if c["method"]["name"] == "mora" else 1100 for c in cells]
    (found,) = foresee([claim()], cells, trainable=numbers)
    assert not found.possible and "unequal budgets" in found.words
    assert foresee([claim(equal_budget=False)], cells, trainable=numbers)[0].possible


def test_a_trend_needs_all_its_tasks() -> None:
    trend = {"near": 1.0, "middle": 2.0, "far": 3.0}
    grows = claim(task="*", trend=trend, endpoint="final", margin=0.0)
    cells = [c | {"task": {"name": task}} for c in design(6, (1e-3, 2e-3, 4e-3)) for task in trend]
    (found,) = foresee([grows], cells)
    assert found.possible and found.setting == "3 tasks on Tiny, by distance"
    (found,) = foresee([grows], [c for c in cells if c["task"]["name"] != "far"])
    assert not found.possible and "no cells of far, of 3 tasks by distance" in found.words


def test_an_arm_of_a_trend_is_the_same_whatever_it_is_called_beside_others() -> None:
    """On the nearest task MoRA is planned with a second operator, and is called by it there."""
    trend = {"near": 1.0, "middle": 2.0, "far": 3.0}
    rotation = {"method": "mora", "operator": "rotation"}
    grows = claim(task="*", trend=trend, endpoint="final", margin=0.0, a=rotation)
    cells = [c | {"task": {"name": t}} for c in design(6, (1e-3, 2e-3, 4e-3)) for t in trend]
    mora = [c for c in cells if c["method"]["name"] == "mora"]
    own = [c | {"method": c["method"] | {"operator": "rotation"}} for c in mora]
    more = [c | {"method": c["method"] | {"operator": "sharing"}} for c in mora]
    cells = [c for c in cells if c not in mora] + own
    alone = foresee([grows], cells)
    assert [found.possible for found in alone] == [True]
    beside = [c for c in more if c["task"]["name"] == "near"]
    assert [str(found) for found in foresee([grows], [*cells, *beside])] == [*map(str, alone)]


def test_a_slope_is_not_foreseen_from_the_spread_of_steps() -> None:
    trend = {"near": 1.0, "middle": 2.0, "far": 3.0}
    cells = [c | {"task": {"name": t}} for c in design(6, (1e-3, 2e-3, 4e-3)) for t in trend]
    (found,) = foresee([claim(task="*", trend=trend)], cells)
    assert found.words.endswith("(not known)")


def test_one_arm_spreads_less_than_two(tmp_path: Path, make: Make) -> None:
    for seed, value in enumerate((0.50, 0.52, 0.54, 0.56, 0.58, 0.60)):
        records.write(make("mora", seed=seed, final=value), tmp_path)
    apart = float(np.std((0.50, 0.52, 0.54, 0.56, 0.58, 0.60), ddof=1))
    above = claim(endpoint="final", b={"value": 0.1}, margin=0.0)
    assert _spreads([above], collect(tmp_path))["mine"] == pytest.approx(apart)


def test_earlier_records_tell_the_spread(study: Path) -> None:
    curve = claim(endpoint="curve", margin=0.0)
    cells = design(12, (1e-3, 2e-3, 4e-3))
    assert "which are not known" in foresee([curve], cells)[0].words
    (found,) = foresee([curve], cells, collect(study))
    size = float(found.words.rsplit(" ", 1)[1])
    assert 0 < size < 0.1


MINE = """
id: {name}
stated: here
says: Of the test's arms A beats B.
task: facts
endpoint: {{kind: to_target, targets: [1.0]}}
a: {{method: mora}}
b: {{method: {b}}}
direction: better
margin: 1.05
"""


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, b in (("fine", "lora"), ("lacking", "fft")):
        (tmp_path / f"{name}.yaml").write_text(MINE.format(name=name, b=b))
    grid = ["experiment=study/capacity", "method=lora,mora", "trial=0", "seed=0,1,2"]
    assert main([*grid, "--claims-from", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("What 6 cells could decide\n")
    assert "fine: can be decided\n      Of the test's arms A beats B." in printed
    said = "3 seeds, 1 rate an arm, so as run, not tuned; 8 of 10 studies would"
    assert said in " ".join(printed.split())
    assert "lacking: can never be decided" in printed and "no cells of fft" in printed
    assert printed.endswith("2 comparisons, of which 1 can never be decided\n")
    assert main([*grid, "--claims-from", str(tmp_path / "none")]) == 2
    assert "no claims here" in capsys.readouterr().err
