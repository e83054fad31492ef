"""A cell as it ended, as the judge knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records import identity

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One number of a record."""

    value: float
    n: int
    higher_is_better: bool
    unit: str
    chance: float | None


@dataclass(frozen=True)
class Spectrum:
    """Singular values of delta W, averaged over layers; counts and effective ranks by kind."""

    singular_values: Array  # (k,), descending
    above: dict[str, float]  # layer kind -> mean number above 0.1
    effective_rank: dict[str, float]
    above_per_layer: float


@dataclass(frozen=True)
class Result:
    """A cell as it ended: its record without what only a look at the single one needs."""

    file: Path
    cell: str
    status: str
    reason: str | None
    experiment: str
    scale: str
    method: str
    label: str
    rank: int | None
    learning_rate: float | None
    settings: dict[str, Any]  # of method ("operator") and trainer ("trainer.max_steps"), flat
    model: str
    model_label: str
    model_settings: dict[str, Any]
    task: str
    task_label: str
    task_settings: dict[str, Any]
    data: tuple[str, ...]  # sets and their revisions
    seed: int
    split: str  # "reported", or "validation": used to choose learning rates and nothing else
    trainable: int | None
    total: int | None
    metrics: dict[str, Score]
    before: dict[str, Score]
    forgetting: float | None
    forgetting_parts: tuple[str, ...]  # the metrics that tell of it
    averaged: tuple[str, ...]  # the metrics behind "average", where there is one
    cost: dict[str, float | None]
    train: dict[str, Array]  # step, loss, ...: one array each, NaN where not measured
    scores: dict[str, Array]  # step, tokens, seconds and "metrics.<name>"
    merge_error: float | None
    spectrum: Spectrum | None
    device: str
    precision: str
    threads: int | None
    git: str
    versions: str = ""  # of the packages that matter
    command: str = ""  # that makes the record again
    started: str = ""  # UTC, ISO 8601
    finished: str = ""
    cuts: dict[str, dict[str, float]] = field(default_factory=dict)  # by rank: metrics, see records
    what: Mapping[str, Any] = field(default_factory=dict)  # its identity
    fixed: frozenset[tuple[str, ...]] = frozenset()  # seeds in it that do not follow its own
    processor: str = ""  # its instructions, where the record says
    perturbed: bool = False  # a repeat whose change means nothing: never a seed of its own
    examples: dict[str, dict[str, float]] = field(default_factory=dict)  # of others' tables
    untimed: str = ""  # why its seconds are left out
    target_loss: float | None = None  # whose steps the tables show, where the record says
    revisions: Mapping[str, str] = field(default_factory=dict)  # of sets and model: commits

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def ended(self) -> bool:
        """Whether it ran until it was through, or its loss was not finite."""
        return self.status in ("ok", "diverged")

    @cached_property
    def same(self) -> dict[str, Any]:
        """Its identity without the seed: equal for cells of one row."""
        return identity.row(self.what, self.fixed)

    @cached_property
    def row_key(self) -> str:
        """Equal for cells that differ in the seed alone, by the definition that names cells.

        A perturbed cell has the key of the cell that it repeats.
        """
        what = {k: v for k, v in self.same.items() if not k.startswith("perturb")}
        parts = [self.method, self.rank, self.learning_rate, what or self.settings]
        return json.dumps(parts, sort_keys=True)

    @cached_property
    def _section_keys(self) -> dict[tuple[bool, str | None], str]:
        return {}

    def section_key(self, *, split: bool = True, over: str | None = None) -> str:
        """Equal for cells that may be compared. split=False: validation cells count as reported.

        over: a key of the task in which they may differ.
        """
        if (split, over) not in self._section_keys:
            task = self.same.get("task", self.task_settings)
            task = {key: value for key, value in task.items() if key != over}
            model = self.same.get("model", self.model_settings)
            parts = [self.task, task, self.model, model, self.scale]
            parts += [self.device, self.precision, self.split if split else ""]
            self._section_keys[split, over] = json.dumps(parts, sort_keys=True)
        return self._section_keys[split, over]
