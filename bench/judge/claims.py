"""Claims of the paper and of the field, as data: conf/claims/*.yaml, one file a claim.

    id            the file's name
    stated        where it is stated
    says          the claim, in our words
    task          patterns of task names ("uuid", "math*")
    setting       further conditions, all of which must be met: experiment, model, scale, device,
                  precision, rank (of the adapters), a key of the task (facts) or trainer.KEY; a
                  value or a list
    endpoint      what is compared; see bench.judge.endpoints
    a, b          the arms: method, and settings of it such as operator; b may be {value: number}.
                  With learning_rate the arm is judged at that rate alone, as run
    rank          low (about the paper's 8), high (about its 256) or any (the default)
    direction     better: a beats b by more than the margin. no_worse: a is not worse than b by
                  more than the margin. equal: they differ by no more than the margin either way
    margin        in units of the endpoint (0.02 of a fraction is two points)
    scale         difference (the default), or ratio: a / b, and the margin is a ratio as well;
                  to_target is always a ratio
    equal_budget  false where the arms may train unequal numbers of parameters
    over          a key of the task (facts): the level of it at which an arm does best is part of
                  what is tuned. Capacity is bits stored `over: facts`
    first_seed    cells of lower seeds are left out, whole: somebody had seen them when the claim
                  was written (0)
    trend         a table of task patterns and their distances: what is judged is how fast the
                  difference between the arms grows with the distance

Whether more or less of an endpoint is better is known of each, so `better` always means better.
conf/claims/primary.yaml is no claim but the list of the primary ones; see bench.judge.primary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from bench.judge import endpoints
from bench.judge.cells import Result
from bench.judge.endpoints import Endpoint

DIRECTIONS = ("better", "no_worse", "equal")
RANKS = ("low", "high", "any")
PRIMARY = "primary.yaml"


@dataclass(frozen=True)
class Arm:
    """Which cells: a method and some of its settings; or, without cells, a number."""

    method: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    value: float | None = None
    rate: float | None = None  # the one learning rate that it is about; None: rates are tuned

    def takes(self, cell: Result) -> bool:
        """Whether the cell is of the arm, whatever its learning rate."""
        return cell.method == self.method and all(
            cell.settings.get(key) == value for key, value in self.settings
        )

    @property
    def words(self) -> str:
        if self.value is not None:
            return f"{self.value:g}"
        rate = [] if self.rate is None else [str(self.rate)]
        return " ".join([self.method, *(str(value) for _, value in self.settings), *rate])


@dataclass(frozen=True)
class Claim:
    id: str
    stated: str
    says: str
    tasks: tuple[str, ...]
    endpoint: Endpoint
    a: Arm
    b: Arm
    direction: str
    margin: float  # of a ratio: its logarithm
    ratio: bool = False
    rank: str = "any"
    equal_budget: bool = True
    setting: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    over: str | None = None
    first_seed: int = 0
    trend: Mapping[str, float] = field(default_factory=dict, hash=False)

    def of_task(self, task: str) -> bool:
        return any(fnmatchcase(task, pattern) for pattern in self.tasks)

    def about(self, cell: Result) -> bool:
        """Whether the cell's task and setting are what the claim is about."""
        return self.of_task(cell.task) and all(
            _value(cell, key) in (*allowed, _ANY) for key, allowed in self.setting
        )

    def distance(self, task: str) -> float | None:
        """Of a trend: how far the task lies from what the model knew."""
        pattern = self.pattern(task)
        return None if pattern is None else self.trend[pattern]

    def pattern(self, task: str) -> str | None:
        """Of a trend: by which of its patterns the task is among its tasks."""
        return next((pattern for pattern in self.trend if fnmatchcase(task, pattern)), None)


_ANY = object()  # FFT has no rank and fits any


def _value(cell: Result, key: str) -> Any:
    if key == "rank":
        return _ANY if cell.rank is None else cell.rank
    if key in ("experiment", "model", "scale", "device", "precision"):
        return getattr(cell, key)
    if key.startswith("trainer."):
        return cell.settings.get(key)
    return cell.task_settings.get(key)


def folder_of(folder: Path | None) -> Traversable:
    """conf/claims unless given."""
    return files("conf") / "claims" if folder is None else folder


def load(folder: Path | None = None) -> list[Claim]:
    """The claims of the folder (conf/claims unless given), by file name; primary.yaml is left out.

    Raises UserError naming the file and the key.
    """
    source = folder_of(folder)
    found = [f for f in source.iterdir() if f.name.endswith(".yaml")] if source.is_dir() else []
    if not found:
        raise UserError(f"{source}: no claims here (*.yaml)")
    claims = sorted((f for f in found if f.name != PRIMARY), key=lambda f: f.name)
    return [_read(f.name, f.read_text()) for f in claims]


def _read(name: str, content: str) -> Claim:
    try:
        data = yaml.safe_load(content)
        if not isinstance(data, dict):
            raise ValueError("a claim is a mapping of keys")
        claim = parse(data)
        if claim.id != name.removesuffix(".yaml"):
            raise ValueError(f"id is {claim.id!r}; it must be the file's name, {name[:-5]}")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"claim {name}: {error}") from None
    return claim


_KEYS = {
    "id", "stated", "says", "task", "setting", "endpoint", "a", "b", "rank", "direction", "margin",
    "scale", "equal_budget", "over", "first_seed", "trend",
}  # fmt: skip


def parse(data: Mapping[str, Any]) -> Claim:
    """A claim from its keys. Raises ValueError naming the key.

    `measure` and `metric`, as claims had them before endpoints were tables, are still read.
    """
    if "measure" in data and "endpoint" not in data:
        named = {"kind": data["measure"]} | {k: data[k] for k in ("metric",) if k in data}
        data = {k: v for k, v in data.items() if k not in ("measure", "metric")}
        data = data | {"endpoint": named}
    if unknown := sorted(map(str, data.keys() - _KEYS)):
        raise ValueError(f"unknown key {unknown[0]}; there are: {', '.join(sorted(_KEYS))}")
    for key in ("id", "stated", "says"):
        if not isinstance(data.get(key), str) or not data[key].strip():
            raise ValueError(f"{key} is missing")
    margin = data.get("margin")
    endpoint = endpoints.read(data.get("endpoint"))
    always = endpoint.kind == "to_target"
    scale = _one_of(data, "scale", ("difference", "ratio"), "ratio" if always else "difference")
    b = _arm(data, "b")
    if scale == "ratio" and b.value is not None and not b.value > 0:
        raise ValueError(f"b: value is {b.value:g}; with scale: ratio it must be above 0")
    if always and scale != "ratio":
        raise ValueError("scale is 'difference'; to_target is compared by ratios")
    if scale == "ratio" and not endpoint.of.ratios:
        raise ValueError(f"scale is 'ratio'; {endpoint.kind} is compared by differences")
    margin = (1.0 if scale == "ratio" else 0.0) if margin is None else margin
    number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not number or not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin!r}; it must be a number, 0 or more")
    over = data.get("over")
    if over is not None and (not isinstance(over, str) or not endpoint.of.learning):
        raise ValueError(f"over is {over!r}; it must name a key of the task, and what is tuned")
    first_seed = data.get("first_seed", 0)
    if isinstance(first_seed, bool) or not isinstance(first_seed, int) or first_seed < 0:
        raise ValueError(f"first_seed is {first_seed!r}; it must be a seed, 0 or more")
    return Claim(
        id=data["id"],
        stated=data["stated"].strip(),
        says=" ".join(data["says"].split()),
        tasks=endpoints.names(data.get("task"), "task"),
        endpoint=endpoint,
        a=_arm(data, "a"),
        b=b,
        direction=_one_of(data, "direction", DIRECTIONS),
        margin=_ratio(float(margin)) if scale == "ratio" else float(margin),
        ratio=scale == "ratio",
        rank=_one_of(data, "rank", RANKS, "any"),
        equal_budget=_one_of(data, "equal_budget", (True, False), True),
        setting=_setting(data.get("setting", {})),
        over=over,
        first_seed=first_seed,
        trend=_trend(data.get("trend", {})),
    )


def _one_of(
    data: Mapping[str, Any], key: str, allowed: tuple[Any, ...], default: Any = None
) -> Any:
    value = data.get(key, default)
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(map(repr, allowed))}")
    return value


def _setting(value: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"setting is {value!r}; it must be a table of conditions")
    return tuple(
        (str(key), tuple(wanted) if isinstance(wanted, list) else (wanted,))
        for key, wanted in sorted(value.items(), key=lambda item: str(item[0]))
    )


def _trend(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(
        isinstance(d, (int, float)) and not isinstance(d, bool) for d in value.values()
    ):
        raise ValueError(f"trend is {value!r}; it must be a table of task patterns and distances")
    if value and len(set(value.values())) < 3:
        raise ValueError("trend needs three distances or more")
    return {str(pattern): float(distance) for pattern, distance in value.items()}


def _ratio(margin: float) -> float:
    """Ratios are compared by their logarithms."""
    if margin < 1:
        raise ValueError(f"margin is {margin:g}; with scale: ratio it must be 1 or more")
    return math.log(margin)


def _arm(data: Mapping[str, Any], key: str) -> Arm:
    arm = data.get(key)
    if isinstance(arm, dict) and isinstance(arm.get("method"), str):
        settings = {str(k): v for k, v in arm.items() if k not in ("method", "learning_rate")}
        rate = arm.get("learning_rate")
        if isinstance(rate, bool) or not isinstance(rate, (int, float, type(None))):
            raise ValueError(f"{key}: learning_rate is {rate!r}; it must be a number")
        return Arm(arm["method"], tuple(sorted(settings.items())), rate=rate)
    if key == "b" and isinstance(arm, dict) and isinstance(arm.get("value"), (int, float)):
        return Arm(value=float(arm["value"]))
    raise ValueError(f"{key} is {arm!r}; it must name a method" + (", or a value" * (key == "b")))
