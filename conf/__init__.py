"""The Hydra configuration, a package so that it is found wherever the program runs from.

Hydra imports this package before it reads a file of it, and so knows the two interpolations that
the files of conf/experiment/ use:

    ${arm:KEY}           what ``arms.KEY`` of the experiment says for the cell at hand
    ${accumulation:N}    forward passes an optimiser step, so that a step takes N examples

``arms`` is a table for each key: one value for all, or a value by the task's name, the method's
name or the rank, nested in any order; ``others`` stands for all that are not named. A list holds
several to try: of ``rates`` the cell takes number ``trial``, of any other key number ``variant``,
counted from 0.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

KEYS = {"rates": "learning_rate"}  # keys of the method that an arm's key gives, where names differ
NAMES = {"rates": "learning rate"}


class ArmError(LookupError):
    """An experiment says nothing, or nothing usable, for a cell; the message names file and key."""


def arm(key: str, *, _root_: DictConfig) -> Any:
    """The value of ``arms.KEY`` for the method, rank and task of this configuration.

    Raises ArmError where there is none. It reaches the caller inside OmegaConf's
    InterpolationResolutionError.
    """
    method, task = _root_.method.name, (_root_.get("task") or {}).get("name")
    rank = _root_.method.get("rank")
    value: Any = (_root_.get("arms") or {}).get(key)
    while isinstance(value, DictConfig):
        named = [k for k in (task, method, rank, "others") if k is not None and k in value]
        value = value[named[0]] if named else None
    if isinstance(value, ListConfig):
        index = "trial" if key == "rates" else "variant"
        number = _root_.get(index)
        if not isinstance(number, int) or not 0 <= number < len(value):
            raise ArmError(
                f"{index}={number}: {_where(_root_)}, lists {len(value)} under arms.{key} for "
                f"method {method}: {index} is 0 to {len(value) - 1}."
            )
        value = value[number]
    if value is None:
        at_rank = "" if rank is None else f" at rank {rank}"
        raise ArmError(
            f"{_where(_root_)}, gives no {NAMES.get(key, key)} for method {method}{at_rank} on "
            f"task {task}: add it under arms.{key}, or say method.{KEYS.get(key, key)}=..."
        )
    return value


def accumulation(examples: int, *, _root_: DictConfig) -> int:
    """Forward passes an optimiser step that make ``examples`` of it, over all processes.

    Raises ArmError where they do not divide.
    """
    at_once = _root_.trainer.batch_size * _root_.distributed.processes
    if examples % at_once:
        raise ArmError(
            f"{_where(_root_)}, takes {examples} examples a step, which {at_once} at once "
            f"(trainer.batch_size={_root_.trainer.batch_size} in each of "
            f"{_root_.distributed.processes} processes) do not divide: choose others, or say "
            "trainer.accumulation=..."
        )
    return int(examples // at_once)


def _where(root: DictConfig) -> str:
    name = root.experiment_name
    return f"experiment {name}, conf/experiment/{name}/{root.scale_name}.yaml"


OmegaConf.register_new_resolver("arm", arm, replace=True)
OmegaConf.register_new_resolver("accumulation", accumulation, replace=True)
