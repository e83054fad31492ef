"""Seeds of the data that were fixed for all cells, where one cell has that very seed itself.

With task.seed=0 and seed=0,1,2 the first cell can't be told by itself from one whose task follows
its seed. The cells beside it tell: where all of them have one number there, it is fixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bench.judge.result import Result
from bench.records import identity

Place = tuple[str, ...]  # of a seed in a cell's identity, as ("trainer", "data_seed")


def told(cells: Iterable[Result], others: Iterable[Result]) -> dict[int, Result]:
    """By id() of the cells and of the others (repeats of them): those that have a fixed seed."""
    alike: dict[str, list[Result]] = {}
    for cell in cells:
        alike.setdefault(_key(cell), []).append(cell)
    fixed = {key: found for key, beside in alike.items() if (found := _fixed(beside))}
    changed = {}
    for cell in [*(c for key in fixed for c in alike[key]), *others]:
        if places := _places_of(cell, fixed.get(_key(cell), {})):
            changed[id(cell)] = replace(cell, fixed=places)
    return changed


def _fixed(beside: Iterable[Result]) -> dict[Place, int]:
    """Of cells that differ in their seeds alone: places where several seeds have one number."""
    values: dict[Place, dict[int, set[Any]]] = {}
    for cell in beside:
        for place, value in identity.seeds(cell.what).items():
            values.setdefault(place, {}).setdefault(cell.seed, set()).add(value)
    found = {}
    for place, by_seed in values.items():
        every = set().union(*by_seed.values())
        if len(by_seed) > 1 and len(every) == 1:
            found[place] = every.pop()
    return found


def _places_of(cell: Result, fixed: Mapping[Place, int]) -> frozenset[Place]:
    own = identity.seeds(cell.what)
    return frozenset(p for p, value in fixed.items() if own.get(p) == value == cell.seed)


def _key(cell: Result) -> str:
    """Equal for cells that differ in seeds alone, whosever they are, and in a perturbation."""
    what = identity.without_seeds(cell.what)
    what = {k: v for k, v in what.items() if not k.startswith("perturb")}
    parts = [cell.task, cell.model, cell.scale, cell.device, cell.split, cell.method, what]
    return json.dumps(parts, sort_keys=True, default=repr)
