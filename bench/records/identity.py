"""Which cell is this? The one definition, for sweeps that run cells and tables that compare them.

A cell is what determines its numbers, resolved: the method's own settings, task, model, trainer,
seed, precision (after ``auto``), processes and perturbation. Labels, notes, paths, the tracker, and
how often a run was scored or saved determine nothing, and make no other cell. What is null is
unset, so that a new key that may be null leaves the cells of before as they were.

A row of a table is a set of cells that differ in the seed alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Mapping
from typing import Any

from bench.errors import UserError
from bench.records.checks import unwritable
from bench.records.fields import Record

# Keys that name, describe or place something, or say how a run is watched.
INCIDENTAL = frozenset({
    "name", "label", "note", "data_dir", "cache_dir", "output_dir", "results_dir", "wheel_path",
    "score_steps", "score_at_learned", "score_batch_size", "log_every", "checkpoint_every",
    "checkpoint_minutes", "torch_compile", "expects",
})  # fmt: skip
SEEDS = ("seed", "data_seed")


def identity(
    config: Mapping[str, Any], settings: Mapping[str, Any], precision: str | None
) -> dict[str, Any]:
    """What determines a cell's numbers.

    config: the whole configuration, resolved. settings: the method's own, which leave out what it
    ignores (FFT: the rank). precision: bf16 or fp32, after auto.
    """
    parts = {part: determining(config.get(part) or {}) for part in ("task", "model", "trainer")}
    what: dict[str, Any] = {
        "method": {"_target_": (config.get("method") or {}).get("_target_")}
        | determining(settings),
        **parts,
        "seed": config.get("seed"),
        "precision": precision,
    }
    processes = (config.get("distributed") or {}).get("processes", 1)
    if processes != 1:  # the batch grows with them
        what["processes"] = processes
    if config.get("perturb"):
        what |= {"perturb": config["perturb"], "perturb_seed": config.get("perturb_seed", 0)}
    return what


def of_record(record: Record) -> dict[str, Any]:
    """The identity of a record's cell, whatever version wrote it."""
    method = record["method"]
    stated = {key: method[key] for key in ("rank", "learning_rate")}  # settings have them as well
    precision = record["environment"].get("precision")
    return identity(record["config"], stated | method["settings"], precision)


def row(what: Mapping[str, Any], fixed: Container[tuple[str, ...]] = frozenset()) -> dict[str, Any]:
    """An identity without the seed, and without what follows the seed.

    In the form that is hashed, so that cells of one id are cells of one row. fixed: places of seeds
    that follow none, though they are equal to the cell's.
    """
    seed = what.get("seed")
    return _dropped(what, lambda place, value: value == seed and place not in fixed)


def without_seeds(what: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without any seed, followed or not."""
    return _dropped(what, lambda place, value: True)


def seeds(what: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The seeds inside an identity's parts, by where they are: ("task", "seed")."""
    found: dict[tuple[str, ...], Any] = {}

    def noted(place: tuple[str, ...], value: Any) -> bool:
        if len(place) > 1:
            found[place] = value
        return True

    _dropped(what, noted)
    return found


def _dropped(
    what: Mapping[str, Any], drop: Callable[[tuple[str, ...], Any], bool]
) -> dict[str, Any]:
    """Without the seeds, in any depth, of which `drop` says so by their place and value."""

    def kept(value: Any, at: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: kept(item, (*at, key))
            for key, item in value.items()
            if not (key in SEEDS and drop((*at, key), item))
        }

    return dict(kept(canonical(what), ()))


def determining(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what is incidental or unset, in any depth."""
    return {
        key: determining(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in INCIDENTAL and value is not None
    }


def cell_id(what: Mapping[str, Any]) -> str:
    """16 hex digits that name a cell: a hash of `what` determines its result.

    The order of keys does not matter, nor whether a number is written 1 or 1.0.
    Raises UserError for values JSON has no form for, NaN and infinities among them.
    """
    if wrong := unwritable(what):
        raise UserError(f"configuration: {wrong}")
    text = json.dumps(canonical(what), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical(value: Any) -> Any:
    """With whole numbers as such: 1 and 1.0 are one setting."""
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
