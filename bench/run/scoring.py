"""Runs a task's scorers on the model in hand: before, along and after the training.

What the untouched model scores depends on model and scorer alone: see base_scores.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench import records
from bench.run import base_scores
from bench.run.base_scores import Metrics
from bench.run.device import Placement
from tasks.base import Metric, Scorer


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
        self.base_scores: list[str] = []  # ids of the records that `before` is from
        self._headlines: list[str] = []
        self._along: dict[Scorer, Metrics] = {}  # of the latest `along`

    def before(
        self, model: Any, base: Mapping[str, Any] | None, *, learned: bool = True
    ) -> Metrics:
        """Scores of the untouched model; what may be forgotten in any case, as it needs a before.

        base: LoadedModel.identity, under which they are shared; None: they are not.
        """
        metrics: Metrics = {}
        self.base_scores = []
        for scorer in [*(self.learned if learned else []), *self.forgotten]:
            what = base_scores.identity(base, scorer, self.placement, model.dtype, self.batch_size)
            metrics |= base_scores.once(what, partial(self._score, scorer, model))
            if what is not None:
                self.base_scores.append(records.cell_id(what))
        return metrics

    def along(self, model: Any) -> dict[str, float]:
        """The cheap scores during training, of what is learned and of what may be forgotten."""
        cheap = [s for s in [*self.learned, *self.forgotten] if s.when == "along"]
        self._along = {scorer: self._score(scorer, model) for scorer in cheap}
        return {
            name: metric.value
            for metrics in self._along.values()
            for name, metric in metrics.items()
        }

    def final(self, model: Any, *, unchanged: bool = False) -> Metrics:
        """All scores of the trained model.

        unchanged: since the latest `along`, whose scores are taken over.
        """
        done = self._along if unchanged else {}
        metrics: Metrics = {}
        self._headlines = []
        for scorer in [*self.learned, *self.forgotten]:
            found = done[scorer] if scorer in done else self._score(scorer, model)
            metrics |= found
            if scorer in self.forgotten:
                self._headlines.append(headline(found))
        return metrics

    def fields(self, before: Metrics, final: Metrics) -> dict[str, Any]:
        """The record's fields that hold scores.

        metrics, before, base_scores, examples, example_ids, and forgetting (None where nothing was
        measured).
        """
        return {
            "metrics": {name: _plain(metric) for name, metric in final.items()},
            "before": {name: _plain(metric) for name, metric in before.items()},
            "base_scores": self.base_scores,
            "examples": {n: m.examples for n, m in final.items() if m.examples is not None},
            "example_ids": {
                n: m.example_ids for n, m in final.items() if m.example_ids is not None
            },
            "forgetting": forgetting(before, final, self._headlines) if final else None,
        }

    def _score(self, scorer: Scorer, model: Any) -> Metrics:
        with self.placement.autocast():
            return scorer.score(model, self.tokenizer, self.batch_size)


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
