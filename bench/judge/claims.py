"""Claims of the paper and of the field, as data: conf/claims/*.yaml, one file a claim.

    id            the file's name
    stated        where it is stated
    says          the claim, in our words
    task          patterns of task names ("uuid", "math*")
    measure       what is compared, see MEASURES
    metric        for measures of a metric: its name, or the beginning of it, or alternatives;
                  main (the default) is the one that the report's tables turn on
    a, b          the arms: method, and settings of it such as operator; b may be {value: number}
    rank          low (about the paper's 8), high (about its 256) or any (the default)
    direction     better: a beats b by more than the margin. no_worse: a is not worse than b by
                  more than the margin. equal: they differ by no more than the margin either way
    margin        in units of the measure (0.02 of a fraction is two points)
    scale         difference (the default), or ratio: a / b, and the margin is a ratio as well
    equal_budget  false where the arms may train unequal numbers of parameters

Whether more or less of a measure is better is known of each, so `better` always means better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from bench.judge.cells import Cell

DIRECTIONS = ("better", "no_worse", "equal")
RANKS = ("low", "high", "any")


@dataclass(frozen=True)
class Measure:
    """A number of a cell. `higher_is_better` and `unit` are None where the metric says."""

    words: str
    higher_is_better: bool | None = None
    unit: str | None = None

    @property
    def of_metric(self) -> bool:
        return self.higher_is_better is None


MEASURES = {
    "final": Measure("{metric} at the end"),
    "curve": Measure("{metric}, mean over the scored steps"),
    "forgetting": Measure("mean drop of general ability", False, "fraction"),
    "forgetting_at_equal_learning": Measure("mean drop, at equal learning", False, "fraction"),
    "singular_values_above_0.1": Measure("singular values of delta W above 0.1, a layer", True, ""),
    "seconds_per_token": Measure("training time of a token", False, "s"),
    "merge_error": Measure("largest change of a logit by merging", False, ""),
}


@dataclass(frozen=True)
class Arm:
    """Which cells: a method and some of its settings; or, without cells, a number."""

    method: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    value: float | None = None

    def takes(self, cell: Cell) -> bool:
        return cell.method == self.method and all(
            cell.settings.get(key) == value for key, value in self.settings
        )

    @property
    def words(self) -> str:
        if self.value is not None:
            return f"{self.value:g}"
        return " ".join([self.method, *(str(value) for _, value in self.settings)])


@dataclass(frozen=True)
class Claim:
    id: str
    stated: str
    says: str
    tasks: tuple[str, ...]
    measure: str
    metrics: tuple[str, ...]
    a: Arm
    b: Arm
    direction: str
    margin: float
    ratio: bool = False
    rank: str = "any"
    equal_budget: bool = True

    def about(self, task: str) -> bool:
        return any(fnmatchcase(task, pattern) for pattern in self.tasks)


def load(folder: Path | None = None) -> list[Claim]:
    """The claims of the folder (conf/claims unless given), by file name.

    Raises UserError naming the file and the key.
    """
    source = files("conf") / "claims" if folder is None else folder
    found = [f for f in source.iterdir() if f.name.endswith(".yaml")] if source.is_dir() else []
    if not found:
        raise UserError(f"{source}: no claims here (*.yaml)")
    return [_read(f.name, f.read_text()) for f in sorted(found, key=lambda f: f.name)]


def _read(name: str, content: str) -> Claim:
    try:
        data = yaml.safe_load(content)
        if not isinstance(data, dict):
            raise ValueError("a claim is a mapping of keys")
        return _claim(data, name.removesuffix(".yaml"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"claim {name}: {error}") from None


_KEYS = {
    "id", "stated", "says", "task", "measure", "metric", "a", "b", "rank", "direction", "margin",
    "scale", "equal_budget",
}  # fmt: skip


def _claim(data: Mapping[str, Any], name: str) -> Claim:
    if unknown := sorted(map(str, data.keys() - _KEYS)):
        raise ValueError(f"unknown key {unknown[0]}; there are: {', '.join(sorted(_KEYS))}")
    if data.get("id") != name:
        raise ValueError(f"id is {data.get('id')!r}; it must be the file's name, {name}")
    for key in ("stated", "says"):
        if not isinstance(data.get(key), str) or not data[key].strip():
            raise ValueError(f"{key} is missing")
    margin = data.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or margin < 0:
        raise ValueError(f"margin is {margin!r}; it must be a number, 0 or more")
    measure = _one_of(data, "measure", tuple(MEASURES))
    return Claim(
        id=name,
        stated=data["stated"].strip(),
        says=" ".join(data["says"].split()),
        tasks=_words(data, "task", None),
        measure=measure,
        metrics=_words(data, "metric", "main"),
        a=_arm(data, "a"),
        b=_arm(data, "b"),
        direction=_one_of(data, "direction", DIRECTIONS),
        margin=float(margin) if data.get("scale") != "ratio" else _ratio(float(margin)),
        ratio=_one_of(data, "scale", ("difference", "ratio"), "difference") == "ratio",
        rank=_one_of(data, "rank", RANKS, "any"),
        equal_budget=_one_of(data, "equal_budget", (True, False), True),
    )


def _one_of(
    data: Mapping[str, Any], key: str, allowed: tuple[Any, ...], default: Any = None
) -> Any:
    value = data.get(key, default)
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(map(repr, allowed))}")
    return value


def _words(data: Mapping[str, Any], key: str, default: str | None) -> tuple[str, ...]:
    value = data.get(key, default)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{key} is {value!r}; it must be a name or a list of names")
    return tuple(words)


def _ratio(margin: float) -> float:
    """Ratios are compared by their logarithms."""
    if margin < 1:
        raise ValueError(f"margin is {margin:g}; with scale: ratio it must be 1 or more")
    return math.log(margin)


def _arm(data: Mapping[str, Any], key: str) -> Arm:
    arm = data.get(key)
    if isinstance(arm, dict) and isinstance(arm.get("method"), str):
        settings = {k: v for k, v in arm.items() if k != "method"}
        return Arm(arm["method"], tuple(sorted(settings.items())))
    if key == "b" and isinstance(arm, dict) and isinstance(arm.get("value"), (int, float)):
        return Arm(value=float(arm["value"]))
    raise ValueError(f"{key} is {arm!r}; it must name a method" + (", or a value" * (key == "b")))
