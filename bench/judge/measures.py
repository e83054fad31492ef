"""What a claim measures of cells, and the difference between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import records
from bench.judge.cells import Array, Cell, Section
from bench.judge.claims import Claim
from bench.judge.endpoints import KINDS
from bench.judge.intervals import Estimate, estimate
from bench.judge.rates import Candidate

Examples = tuple[Array, list[str] | None]  # values, and the examples' names where known


@dataclass
class Measuring:
    """What a claim measures in one setting. `metric` is None for measures that need none."""

    claim: Claim
    section: Section
    metric: str | None
    _read: dict[Path, Examples | None] = field(default_factory=dict)

    @cached_property
    def higher_is_better(self) -> bool:
        known = KINDS[self.claim.endpoint.kind].higher_is_better
        if known is not None:
            return known
        return self.metric is None or self.section.metrics[self.metric].higher_is_better

    @cached_property
    def unit(self) -> str:
        if self.claim.ratio:
            return "ratio"
        known = KINDS[self.claim.endpoint.kind].unit
        if known is not None:
            return known
        return "" if self.metric is None else self.section.metrics[self.metric].unit

    @property
    def words(self) -> str:
        metric = (self.metric or "").replace("_", " ")
        return self.claim.endpoint.words(metric)

    def value(self, cell: Cell) -> float | None:
        """The claim's measure of one cell; None where the record does not have it."""
        match self.claim.endpoint.kind:
            case "final":
                found = cell.metrics.get(self.metric or "")
                return None if found is None else found.value
            case "curve":
                return self._curve(cell, cell.scores.get("step", np.empty(0)))
            case "forgetting" | "forgetting_at_equal_learning":
                return cell.forgetting
            case "singular_values_above_0.1":
                return None if cell.spectrum is None else cell.spectrum.above_per_layer
            case "seconds_per_token":
                speed = cell.cost["tokens_per_second"]
                return 1 / speed if speed else None
            case "merge_error":
                return cell.merge_error
        return None

    def _curve(self, cell: Cell, steps: Array) -> float | None:
        values = cell.scores.get(f"metrics.{self.metric}")
        if values is None or not len(steps):
            return None
        chosen = values[np.isin(cell.scores["step"], steps)]
        return float(chosen.mean()) if np.isfinite(chosen).all() else None

    def at_ceiling(self, cell: Cell) -> bool:
        """Whether a cell could not have done better: all right, where right is counted."""
        of_metric = KINDS[self.claim.endpoint.kind].of_metric
        full = of_metric and self.unit == "fraction" and self.higher_is_better
        return full and self.value(cell) == 1.0

    def anywhere(self, candidate: Candidate) -> bool:
        """Whether the measure was taken on any cell that ran to its end, or may yet be."""
        cells = [cell for group in candidate.reported.values() for cell in group if cell.ok]
        return not cells or any(self.value(cell) is not None for cell in cells)

    def difference(self, a: Cell, b: Cell) -> float | None:
        """Between two cells, or a cell and the claim's number; positive where a is better."""
        if self.claim.endpoint.kind == "curve":
            steps = np.intersect1d(
                a.scores.get("step", np.empty(0)), b.scores.get("step", np.empty(0))
            )
            left, right = self._curve(a, steps), self._curve(b, steps)
        else:
            left, right = self.value(a), self.value(b)
        if self.claim.b.value is not None:
            right = self.claim.b.value
        if left is None or right is None:
            return None
        if self.claim.ratio:
            if left <= 0 or right <= 0:
                return None
            left, right = math.log(left), math.log(right)
        return (left - right) * (1 if self.higher_is_better else -1)

    def learned(self, cell: Cell) -> float | None:
        """How good a learning rate is: the claim's own measure if it is one of learning."""
        if KINDS[self.claim.endpoint.kind].of_metric:
            value, higher = self.value(cell), self.higher_is_better
        else:
            main = self.section.main_metric()
            found = cell.metrics.get(main or "")
            if found is None:
                return None
            value, higher = found.value, found.higher_is_better
        return None if value is None else value * (1 if higher else -1)

    def learned_and_forgotten(
        self, candidate: Candidate
    ) -> dict[int, list[tuple[float, float, str]]]:
        """For each seed (learned, forgotten, cell), the untouched model first where known."""
        metric = self.section.main_metric() or ""
        points: dict[int, list[tuple[float, float, str]]] = {}
        for cell in (cell for group in candidate.reported.values() for cell in group):
            learned = self.learned(cell)
            if not cell.ok or cell.forgetting is None or learned is None:
                continue
            known = points.setdefault(cell.seed, [])
            if not known and metric in cell.before:
                before = cell.before[metric]
                known.append((before.value * (1 if before.higher_is_better else -1), 0.0, ""))
            known.append((learned, cell.forgetting, cell.cell))
        return points

    def noise_floor(self, repeats: Sequence[tuple[Cell, Cell]]) -> float | None:
        """How far apart one cell run twice ends, at the most; None where none was."""
        if self.claim.b.value is not None:
            return None
        apart = [self.difference(first, second) for first, second in repeats]
        return max((abs(value) for value in apart if value is not None), default=None)

    def estimate(self, pairs: Sequence[tuple[Cell, Cell]]) -> Estimate:
        """The mean difference over the pairs, per example where the records hold examples."""
        differences = [v for a, b in pairs if (v := self.difference(a, b)) is not None]
        if (
            self.claim.endpoint.kind != "final"
            or self.claim.ratio
            or self.claim.b.value is not None
        ):
            return estimate(differences)
        examples, names = [], []
        for (a, b), difference in zip(pairs, differences, strict=True):
            found = self._examples(a, b)
            # A metric that is no mean of its examples (perplexity) is judged by seeds alone.
            if found is None or not math.isclose(
                found[0].mean(), difference, rel_tol=1e-6, abs_tol=1e-9
            ):
                return estimate(differences)
            examples.append(found[0])
            names.append(found[1])
        shared = names[0] is not None and all(other == names[0] for other in names)
        return estimate(differences, examples, shared=shared)

    def _examples(self, a: Cell, b: Cell) -> Examples | None:
        """Differences by example; None where the records' examples can't be paired."""
        left, right = self._examples_of(a), self._examples_of(b)
        if left is None or right is None or left[1] != right[1] or len(left[0]) != len(right[0]):
            return None
        return (left[0] - right[0]) * (1 if self.higher_is_better else -1), left[1]

    def _examples_of(self, cell: Cell) -> Examples | None:
        """Read from the record when first asked for: most cells are never judged."""
        if cell.file not in self._read:
            record = records.read(cell.file)
            values = record["examples"].get(self.metric)
            names = record.get("example_ids", {}).get(self.metric)
            found = (np.array(values, dtype=np.float64), names) if values else None
            self._read[cell.file] = found
        return self._read[cell.file]
