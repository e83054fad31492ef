"""Hand-made studies: cells with the final accuracies that a test wants, and the verdict on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import records
from bench.judge.cells import collect
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.judging import judge
from bench.judge.verdicts import Judgement

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
