"""What a planned grid could decide, before it is run."""

from __future__ import annotations

import math
from typing import Any

from bench.judge.claims import Claim, parse
from bench.judge.foresight import foresee
from bench.judge.primary import Family


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
        first, *_ = foresee([], design(seeds, (1e-3, 2e-3)), family=family)
        assert first.possible and "2 rates an arm" in first.words
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
    assert not found.possible and "trials differ: MoRA r=8 3, LoRA r=8 2" in found.words
