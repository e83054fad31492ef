"""What the cells that one process runs share: base, data and scorers, each made once.

In a grid of small cells making them would take longer than training does. Everything is kept under
what determines it, and what a cell changes (the model, its card) is a fresh copy for each, so that
a cell's record is the one that it has alone. Off but inside `between_cells`.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from bench.run.build import build

if TYPE_CHECKING:
    import torch

    from bench.run.models import LoadedModel
    from tasks import Task

LATEST = 4  # of a kind are kept; a grid's neighbours share them
LARGEST = 256 << 20  # bytes of a base that is kept; a larger one would be counted twice in memory

T = TypeVar("T")
_kept: dict[str, OrderedDict[str, Any]] | None = None


@contextmanager
def between_cells() -> Iterator[None]:
    """Inside, cells of this process share what they have in common."""
    global _kept
    outer, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = outer


def once(kind: str, key: Any, make: Callable[[], T], keep: Callable[[T], bool] | None = None) -> T:
    """What ``make`` gives, from an earlier cell with the same kind and key where there was one.

    key: plain values, all that determines it. keep: whether it is worth its memory.
    """
    if _kept is None:
        return make()
    shelf = _kept.setdefault(kind, OrderedDict())
    name = json.dumps(key, sort_keys=True)
    if name in shelf:
        shelf.move_to_end(name)
        found: T = shelf[name]
        return found
    made = make()
    if keep is None or keep(made):
        shelf[name] = made
        while len(shelf) > LATEST:
            shelf.popitem(last=False)
    return made


def task(config: Mapping[str, Any]) -> Task:
    """The task of a cell's configuration, its data found."""

    def make() -> Task:
        made: Task = build(config["task"])
        made.prepare()
        return made

    # A task may hold what it made for a tokenizer.
    return once("task", [config["task"], config["model"]], make)


def data_key(config: Mapping[str, Any]) -> list[Any]:
    """What determines a cell's tokenised data, its card, and scorers that may hold such."""
    return [config["task"], config["model"], _stamps(config["model"])]


def base_key(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> list[Any]:
    """What determines a cell's base model."""
    perturbed = [config["perturb"], config["perturb_seed"]] if config["perturb"] else None
    seed = config["seed"] if config["model"]["kind"] == "scratch" else None
    return [config["model"], _stamps(config["model"]), str(dtype), str(device), seed, perturbed]


def base(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """The base model of a cell's configuration, to do with as the cell likes. Raises UserError."""
    from bench.run import models

    def make() -> LoadedModel:
        return models.load(
            config["model"],
            dtype=dtype,
            device=device,
            seed=config["seed"],
            perturb=config["perturb"],
            perturb_seed=config["perturb_seed"],
        )

    loaded = once("base", base_key(config, dtype, device), make, keep=_small)
    if _kept is None or not _small(loaded):
        return loaded
    return copy.deepcopy(loaded)


def _small(loaded: LoadedModel) -> bool:
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    return size <= LARGEST


def _stamps(settings: Mapping[str, Any]) -> list[Any]:
    """Of a model in a folder: its files, which may be replaced between two cells."""
    from bench.run import hub

    folder = hub.local(settings["source"]) if settings["kind"] == "hub" else None
    if folder is None:
        return []
    return hub.stamps(folder)
