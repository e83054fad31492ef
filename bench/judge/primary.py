"""The primary comparisons: conf/claims/primary.yaml, written and committed before their cells.

Six to eight comparisons that the study is run for. They are one family, whatever folder they are
reported from: their verdicts stand after Holm's correction over all of them. Every other claim is
exploratory and labelled so.

    level        of the family: the chance that any of it is decided wrongly (0.05)
    looks        when the family is looked at, as a list of {seeds, level}: at 6 seeds and again at
                 12, say. The levels add up to the family's at most, which keeps the chance of a
                 wrong verdict over all looks below it. Without `looks`, it is looked at once, with
                 the seeds that are there
    comparisons  a list; each has the keys of a claim (bench.judge.claims) and its own id, stated
                 and says. `setting` names the one setting that it is about

A comparison is judged at the last look whose number of seeds is there, with these seeds: the
lowest, in the order of their numbers. What an earlier look has decided stays decided: the seeds of
the first look say what the grid of rates is, and later ones on another grid are left out. So are
seeds beyond the last look, and it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from bench.judge.claims import PRIMARY, Claim, folder_of, parse

LEVEL = 0.05


@dataclass(frozen=True)
class Look:
    """The family is looked at when each comparison has so many seeds, at this level."""

    seeds: int | None = None  # all that are there
    level: float = LEVEL


@dataclass(frozen=True)
class Family:
    """The primary comparisons and when they are looked at."""

    claims: tuple[Claim, ...] = ()
    looks: tuple[Look, ...] = (Look(),)

    @property
    def level(self) -> float:
        return sum(look.level for look in self.looks)


def load(folder: Path | None = None) -> Family:
    """The family of the folder of claims (conf/claims unless given); empty where it has none.

    Raises UserError naming the comparison and the key.
    """
    file = folder_of(folder) / PRIMARY
    if not file.is_file():
        return Family()
    try:
        data = yaml.safe_load(file.read_text())
        if not isinstance(data, dict) or not isinstance(data.get("comparisons"), list):
            raise ValueError("it must have a list of comparisons")
        if unknown := sorted(map(str, data.keys() - {"level", "looks", "comparisons"})):
            raise ValueError(f"unknown key {unknown[0]}; there are: comparisons, level, looks")
        looks = _looks(data)
        claims = tuple(map(_comparison, data["comparisons"]))
        ids = [claim.id for claim in claims]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"comparison {twice[0]} is there twice")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{PRIMARY}: {error}") from None
    return Family(claims, looks)


def _comparison(data: Any) -> Claim:
    if not isinstance(data, dict):
        raise ValueError("a comparison is a mapping of keys")
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"comparison {data.get('id', 'without an id')}: {error}") from None


def _looks(data: Mapping[str, Any]) -> tuple[Look, ...]:
    level = data.get("level", LEVEL)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 0.5:
        raise ValueError(f"level is {level!r}; it must be a probability, such as 0.05")
    looks = data.get("looks")
    if looks is None:
        return (Look(level=float(level)),)
    try:
        made = tuple(Look(int(look["seeds"]), float(look["level"])) for look in looks)
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"looks is {looks!r}; each is {{seeds: number, level: number}}") from None
    if not made or any(look.level <= 0 or look.seeds is None for look in made):
        raise ValueError("looks: each needs a number of seeds and a level above 0")
    if [look.seeds for look in made] != sorted({look.seeds for look in made if look.seeds}):
        raise ValueError("looks: each must have more seeds than the one before")
    if sum(look.level for look in made) > level + 1e-12:
        raise ValueError(f"looks: their levels add up to more than the family's {level:g}")
    return made
