"""What a method says of itself, without building it: a cell's id needs that, and torch is slow.

The constructor of a method is the one place that knows its settings, and importing it brings torch.
So what it said is kept in a folder of the cache, under a hash of the configuration and of all that
could change the answer: the source of `methods`, and of `peft` the version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import records
from bench.errors import UserError
from bench.run import installed
from bench.run.build import build
from bench.run.folders import kept_folder


@dataclass(frozen=True)
class MethodCard:
    """A method by its own words. settings: all that determines its result, plain values."""

    name: str
    label: str
    learning_rate: float
    settings: dict[str, Any]


@lru_cache(maxsize=256)
def card(config: str) -> MethodCard:
    """The card of a method's configuration, given as JSON with its keys sorted.

    Raises UserError or MethodError where the method refuses it.
    """
    what = {"config": json.loads(config), "code": installed.code("methods")}
    what["peft"] = installed.version("peft")
    file = kept_folder("method_cards") / f"{records.cell_id(what)}.json"
    if (kept := _read(file, what)) is not None:
        return kept
    method = build(what["config"])
    found = MethodCard(method.name, method.label, method.learning_rate, method.settings())
    with suppress(UserError):  # a cache that cannot be written to is done without
        content = {"what": what, "card": asdict(found)}
        records.atomic_write(file, json.dumps(content).encode())
    return found


def _read(file: Path, what: Mapping[str, Any]) -> MethodCard | None:
    """The kept card; None where there is none, or the file is torn or of another method."""
    try:
        kept = json.loads(file.read_bytes())
        return MethodCard(**kept["card"]) if kept["what"] == what else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
