"""Seeds that somebody had seen when a claim was written do not count for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.judging import judge
from bench.judge.primary import Family

Make = Callable[..., records.Record]


def claim(first_seed: int) -> Claim:
    return Claim(
        "mine", "here", "A beats B.", ("uuid",), Endpoint("final", ("accuracy",)),
        Arm("mora"), Arm("lora"), "better", 0.0, first_seed=first_seed,
    )  # fmt: skip


def test_cells_of_lower_seeds_are_left_out(tmp_path: Path, make: Make) -> None:
    """Two seeds at which a wins by far, four at which it loses a little."""
    for seed, (a, b) in enumerate([(0.9, 0.2), (0.9, 0.2), *[(0.50, 0.52)] * 2, (0.51, 0.54),
                                   (0.49, 0.52)]):  # fmt: skip
        records.write(make("mora", seed=seed, final=a), tmp_path)
        records.write(make("lora", seed=seed, final=b), tmp_path)
    found = collect(tmp_path)
    (every, *_) = [j for j in judge([claim(0)], found) if j.effect]
    assert every.effect is not None and every.effect.n == 6 and every.effect.effect > 0.2
    for family, claims in ((Family((claim(2),)), []), (None, [claim(2)])):
        (unseen, *_) = [j for j in judge(claims, found, family) if j.effect]
        assert unseen.effect is not None and unseen.effect.n == 4
        assert -0.035 < unseen.effect.effect < -0.02
        assert unseen.verdict == "reversed"


def test_where_all_were_seen_nothing_is_judged(tmp_path: Path, make: Make) -> None:
    for seed in range(3):
        for method in ("mora", "lora"):
            records.write(make(method, seed=seed, final=0.5), tmp_path)
    (found,) = judge([claim(3)], collect(tmp_path))
    assert found.effect is None
