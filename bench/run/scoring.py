"""Runs a task's scorers on the model in hand: before, along and after the training.

What the untouched model scores depends on model and scorer alone, so it is kept in the cache and
not computed for every cell again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import records
from bench.errors import UserError
from bench.run.device import Placement
from bench.run.wheel import cache_folder
from tasks.base import Metric, Scorer

Metrics = dict[str, Metric]

# Another version of one of these may score another way.
PACKAGES = ("lm_eval", "torch", "transformers")


class Scoring:
    """The scorers of one cell, in the precision that it trains in.

    ``learned`` comes from a task's ``scorers()``, ``forgotten`` from its ``forgetting_scorers()``;
    both leave the model as they found it.
    """

    def __init__(
        self,
        learned: Sequence[Scorer],
        forgotten: Sequence[Scorer],
        tokenizer: Any,
        placement: Placement,
        batch_size: int,
    ) -> None:
        self.learned, self.forgotten = learned, forgotten
        self.tokenizer, self.placement, self.batch_size = tokenizer, placement, batch_size
        self._headlines: list[str] = []

    def before(self, model: Any, card: Mapping[str, Any], *, learned: bool = True) -> Metrics:
        """Scores of the untouched model; what may be forgotten in any case, as it needs a before.

        card: of the model; its checksum lets the scores be kept.
        """
        metrics: Metrics = {}
        for scorer in [*(self.learned if learned else []), *self.forgotten]:
            file = self._cache_file(scorer, model, card)
            found = None if file is None else _read(file)
            if found is None:
                found = self._score(scorer, model)
                if file is not None:
                    _write(file, found)
            metrics |= found
        return metrics

    def along(self, model: Any) -> dict[str, float]:
        """The cheap scores during training, of what is learned and of what may be forgotten."""
        cheap = [s for s in [*self.learned, *self.forgotten] if s.when == "along"]
        return {
            name: metric.value
            for scorer in cheap
            for name, metric in self._score(scorer, model).items()
        }

    def final(self, model: Any) -> Metrics:
        """All scores of the trained model."""
        metrics: Metrics = {}
        for scorer in self.learned:
            metrics |= self._score(scorer, model)
        self._headlines = []
        for scorer in self.forgotten:
            found = self._score(scorer, model)
            self._headlines.append(headline(found))
            metrics |= found
        return metrics

    def fields(self, before: Metrics, final: Metrics) -> dict[str, Any]:
        """The record's fields that hold scores.

        metrics, before, examples, example_ids, and forgetting (None where nothing was measured).
        """
        return {
            "metrics": {name: _plain(metric) for name, metric in final.items()},
            "before": {name: _plain(metric) for name, metric in before.items()},
            "examples": {n: m.examples for n, m in final.items() if m.examples is not None},
            "example_ids": {
                n: m.example_ids for n, m in final.items() if m.example_ids is not None
            },
            "forgetting": forgetting(before, final, self._headlines) if final else None,
        }

    def _score(self, scorer: Scorer, model: Any) -> Metrics:
        with self.placement.autocast():
            return scorer.score(model, self.tokenizer, self.batch_size)

    def _cache_file(self, scorer: Scorer, model: Any, card: Mapping[str, Any]) -> Path | None:
        """Where the base score lies, named by all that determines it; None: not to be kept."""
        key = scorer.cache_key()
        if key is None or card.get("checksum") is None:
            return None
        what = {
            "model": [card["checksum"], card.get("revision"), str(model.dtype)],
            "placement": [self.placement.device.type, self.placement.precision],
            "scorer": [type(scorer).__name__, scorer.name, key, self.batch_size],
            "versions": [version(package) for package in PACKAGES],
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "base_scores" / f"{digest[:32]}.json"


def headline(metrics: Mapping[str, Metric]) -> str:
    """The metric that stands for a scorer: length-normalised accuracy, else the first."""
    return next((name for name in metrics if name.endswith("_acc_norm")), next(iter(metrics)))


def forgetting(before: Metrics, final: Metrics, names: Sequence[str]) -> dict[str, Any] | None:
    """How much of each ability is gone, relative to what there was, and the mean over them.

    A drop of 0.1: a tenth of the accuracy lost, or a tenth more bits a byte. Below 0: improved.
    None where a part was not measured both before and after.
    """
    if not names or not all(name in before and name in final for name in names):
        return None
    parts: dict[str, dict[str, Any]] = {}
    for name in names:
        old, new = before[name].value, final[name].value
        lost = old - new if final[name].higher_is_better else new - old
        parts[name] = {
            "before": old,
            "after": new,
            "drop": lost / old if old else lost,
            "n": final[name].n,
            "unit": final[name].unit,
        }
    return {"mean_drop": math.fsum(p["drop"] for p in parts.values()) / len(parts), "parts": parts}


def _plain(metric: Metric) -> dict[str, Any]:
    return {
        "value": metric.value,
        "n": metric.n,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "chance": metric.chance,
    }


def _read(file: Path) -> Metrics | None:
    """Kept scores; None where there are none, or the file is not whole."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {name: Metric(**fields) for name, fields in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write(file: Path, metrics: Metrics) -> None:
    """Keep scores, whole or not at all; a cache that can't be written is done without."""
    text = json.dumps({name: asdict(metric) for name, metric in metrics.items()})
    with suppress(UserError):
        records.atomic_write(file, text.encode())
