"""What a claim's endpoint is of a cell, of two, or of an arm."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import records
from bench.judge import along
from bench.judge.cells import Array, Result
from bench.judge.claims import Claim
from bench.judge.rates import Candidate
from bench.judge.rows import Section

Examples = tuple[Array, list[str] | None]  # values, and the examples' names where known


@dataclass(frozen=True)
class Pair:
    """Both arms of one seed, in units of the endpoint (logs where the claim is of a ratio)."""

    seed: int
    a: float
    b: float
    cells: tuple[Result, ...] = ()
    censored: tuple[bool, bool] = (False, False)  # a bound of what it would have been


@dataclass
class Measuring:
    """A claim's endpoint in one setting. `metric` is None for endpoints that need none."""

    claim: Claim
    section: Section
    metric: str | None
    cells: Sequence[Result] = ()  # all of the setting: what diverged counts as the worst of them
    _read: dict[Path, Examples | None] = field(default_factory=dict)
    # By the cell's id: the section holds the cells as long as this lives.
    _numbers: dict[tuple[int, float | None], tuple[float | None, bool]] = field(
        default_factory=dict
    )
    _learned: dict[int, float | None] = field(default_factory=dict)

    def among(self, seeds: Container[int]) -> Measuring:
        """As if other seeds had never been run: they don't say what the worst is."""
        if all(cell.ok for cell in self.cells):
            return self  # nobody counts as the worst
        some = [cell for cell in self.cells if cell.seed in seeds]
        return replace(self, cells=some, _numbers={}, _learned={})

    @cached_property
    def higher_is_better(self) -> bool:
        known = self.claim.endpoint.of.higher_is_better
        if known is not None:
            return known
        return self.metric is None or self.section.metrics[self.metric].higher_is_better

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1

    @cached_property
    def unit(self) -> str:
        if self.claim.ratio:
            return "ratio"
        known = self.claim.endpoint.of.unit
        if known is not None:
            return known
        return "" if self.metric is None else self.section.metrics[self.metric].unit

    @property
    def words(self) -> str:
        return self.claim.endpoint.words(self.metric)

    @property
    def by_cell(self) -> bool:
        """Whether a cell has a value by itself, and not only beside its partner."""
        return self.claim.endpoint.kind != "forgetting_at_learned"

    # ------------------------------------------------------------------ one cell

    def value(self, cell: Result, judged: float | None = None) -> float | None:
        """The endpoint of one cell that ran to its end; None where the record does not have it.

        judged: another target than the one that is judged.
        """
        endpoint = self.claim.endpoint
        final = cell.metrics.get(self.metric or "")
        match endpoint.kind:
            case "final":
                return None if final is None else final.value
            case "curve":
                return self._curve(cell, cell.scores.get("step", np.empty(0)))
            case "to_target":
                return along.to_target(cell, endpoint, judged).value
            case "bits_per_parameter":
                return final.value / cell.trainable if final and cell.trainable else None
            case "forgetting" | "forgetting_at_equal_learning":
                return cell.forgetting
            case "lost_by_cut":
                rank = endpoint.rank or cell.rank
                cut = cell.cuts.get(str(rank), {}).get(self.metric or "")
                if final is None or final.value == 0 or cut is None:
                    return None
                return 1 - cut / final.value
            case "singular_values_above_0.1":
                return None if cell.spectrum is None else cell.spectrum.above_per_layer
            case "seconds_per_token":
                speed = cell.cost["tokens_per_second"]
                return 1 / speed if speed else None
            case "merge_error":
                return cell.merge_error
        return None

    def number(self, cell: Result, judged: float | None = None) -> tuple[float | None, bool]:
        """What the cell counts as, and whether that is a bound; logs where the claim is a ratio.

        Who diverged is censored where steps are counted, and the worst of all where they aren't.
        """
        key = (id(cell), judged)
        if key not in self._numbers:
            self._numbers[key] = self._number(cell, judged)
        return self._numbers[key]

    def _number(self, cell: Result, judged: float | None) -> tuple[float | None, bool]:
        censored = False
        if cell.status == "diverged":
            value, censored = self._of_diverged(cell)
        elif self.claim.endpoint.kind == "to_target":
            reached = along.to_target(cell, self.claim.endpoint, judged)
            value, censored = reached.value, reached.censored
        else:
            value = self.value(cell, judged) if cell.ok else None
        if value is None or not self.claim.ratio:
            return value, censored
        return (math.log(value) if value > 0 else math.nan), censored

    def _of_diverged(self, cell: Result) -> tuple[float | None, bool]:
        if self.claim.endpoint.kind == "to_target":
            return along.last(cell, self.claim.endpoint), True
        return (self.worst if self.claim.endpoint.of.learning else None), False

    @cached_property
    def worst(self) -> float | None:
        """The worst of all cells in the setting; no better than chance or the untouched model."""
        known = [v for cell in self.cells if cell.ok and (v := self.value(cell)) is not None]
        kind = self.claim.endpoint.kind
        if kind in ("final", "curve", "bits_per_parameter") and self.metric is not None:
            for cell in self.cells:
                chance = cell.metrics[self.metric].chance if self.metric in cell.metrics else None
                before = cell.before.get(self.metric)
                nothing = [v for v in (chance, before.value if before else None) if v is not None]
                if kind == "bits_per_parameter":
                    nothing = [v / cell.trainable for v in nothing if cell.trainable]
                known += nothing
        return min(known, key=lambda v: self.sign * v, default=None)

    def learned(self, cell: Result) -> float | None:
        """How good a learning rate is: the claim's own endpoint if it is one of learning."""
        if id(cell) not in self._learned:
            self._learned[id(cell)] = self._own_learned(cell)
        return self._learned[id(cell)]

    def _own_learned(self, cell: Result) -> float | None:
        if self.claim.endpoint.of.learning and self.claim.endpoint.kind != "good_range":
            value = self.number(cell)[0]
            return None if value is None or math.isnan(value) else self.sign * value
        return self.learned_end(cell)

    def learned_end(self, cell: Result) -> float | None:
        """The main metric at the end; more is better."""
        found = cell.metrics.get(self.learned_metric)
        return None if found is None else found.value * (1 if found.higher_is_better else -1)

    def learned_along(self, cell: Result) -> float | None:
        """The same, mean over the scored steps."""
        found = cell.metrics.get(self.learned_metric)
        values = cell.scores.get(f"metrics.{self.learned_metric}", np.empty(0))
        if found is None or not len(values) or not np.isfinite(values).all():
            return None
        return float(values.mean()) * (1 if found.higher_is_better else -1)

    @property
    def learned_metric(self) -> str:
        """The metric that tells what was learned."""
        return self.metric or self.section.main_metric() or ""

    def anywhere(self, candidate: Candidate) -> bool:
        """Whether the endpoint was measured on any cell that ran to its end, or may yet be."""
        cells = [cell for cell in candidate.cells if cell.ok]
        kind = self.claim.endpoint.kind
        if not cells or kind == "good_range":
            return True
        if kind == "forgetting_at_learned":
            return any(along.learned_and_forgotten(c, self.learned_metric) for c in cells)
        return any(self.value(cell) is not None for cell in cells)

    # ------------------------------------------------------------------ two arms

    def pair(self, seed: int, a: Result, b: Result, judged: float | None = None) -> Pair | None:
        """Both cells of a seed; None where one of them was not measured."""
        if self.claim.endpoint.kind == "curve" and a.ok and b.ok:
            steps = np.intersect1d(
                a.scores.get("step", np.empty(0)), b.scores.get("step", np.empty(0))
            )
            values = [(self._curve(c, steps), False) for c in (a, b)]
        elif self.claim.endpoint.kind == "forgetting_at_learned":
            share = self.claim.endpoint.judged if judged is None else judged
            found = along.forgotten_at(a, b, self.learned_metric, share)
            values = [(v, False) for v in found or (None, None)]
        else:
            values = [self.number(cell, judged) for cell in (a, b)]
        if self.claim.b.value is not None:
            bound = self.claim.b.value
            values[1] = (math.log(bound) if self.claim.ratio else bound, False)
        (left, cut_a), (right, cut_b) = values
        if left is None or right is None:
            return None
        return Pair(seed, left, right, (a,) if a is b else (a, b), (cut_a, cut_b))

    def difference(self, pair: Pair) -> float:
        """Positive where a is better."""
        return (pair.a - pair.b) * self.sign

    def grain(self, pairs: Sequence[Pair]) -> float:
        """The standard error of the mean difference that is owed to where losses are logged.

        A target is reached anywhere between two logged points, evenly for want of better.
        """
        if self.claim.endpoint.kind != "to_target":
            return 0.0
        variance = 0.0
        for pair in pairs:
            for cell, value in zip(pair.cells, (pair.a, pair.b), strict=False):
                count = math.exp(value) if self.claim.ratio else value
                gap = along.grain(cell, self.claim.endpoint, count)
                variance += (gap / count if self.claim.ratio else gap) ** 2 / 12
        return math.sqrt(variance) / len(pairs)

    def of_arms(self, a: Candidate, b: Candidate) -> list[Pair]:
        """Endpoints that take an arm's rates together: one pair a seed."""
        if self.claim.endpoint.kind == "good_range":
            return self._ranges(a, b)
        return self._at_equal_learning(a, b)

    def _ranges(self, a: Candidate, b: Candidate) -> list[Pair]:
        found = [along.good_range(c, self.learned, self._start, self.claim.endpoint.within)
                 for c in (a, b)]  # fmt: skip
        return [
            Pair(seed, found[0][seed][0], found[1][seed][0], a.of_seed(seed) + b.of_seed(seed),
                 (found[0][seed][1], found[1][seed][1]))
            for seed in sorted(found[0].keys() & found[1].keys())
        ]  # fmt: skip

    def _start(self, cell: Result) -> float:
        """What was known before: from there the share of the best counts."""
        before, found = cell.before.get(self.learned_metric), cell.metrics[self.learned_metric]
        value = before.value if before is not None else (found.chance or 0.0)
        return value * (1 if found.higher_is_better else -1)

    def _at_equal_learning(self, a: Candidate, b: Candidate) -> list[Pair]:
        """Forgetting of both arms read off where both have learned as much, seed by seed.

        Every learning rate of an arm is a point (learned, forgotten), the untouched model is
        another; between points the line is straight.
        """
        by_seed = [self._points(c) for c in (a, b)]
        pairs = []
        for seed in sorted(by_seed[0].keys() & by_seed[1].keys()):
            points = [found[seed] for found in by_seed]
            level = min(max(learned for learned, _, _ in p) for p in points)
            if level < max(min(learned for learned, _, _ in p) for p in points):
                continue  # one arm has learned more at its least than the other at its most
            forgotten = [along.at(p, level) for p in points]
            cells = tuple(cell for p in points for _, _, cell in p if cell is not None)
            pairs.append(Pair(seed, forgotten[0], forgotten[1], cells))
        return pairs

    def _points(self, candidate: Candidate) -> dict[int, list[tuple[float, float, Result | None]]]:
        """For each seed (learned, forgotten, cell), the untouched model first where known."""
        metric = self.learned_metric
        points: dict[int, list[tuple[float, float, Result | None]]] = {}
        for cell in candidate.cells:
            learned = self.learned(cell)
            if not cell.ok or cell.forgetting is None or learned is None:
                continue
            known = points.setdefault(cell.seed, [])
            if not known and metric in cell.before:
                before = cell.before[metric]
                known.append((before.value * (1 if before.higher_is_better else -1), 0.0, None))
            known.append((learned, cell.forgetting, cell))
        return points

    def _curve(self, cell: Result, steps: Array) -> float | None:
        values = cell.scores.get(f"metrics.{self.metric}")
        if values is None or not len(steps):
            return None
        chosen = values[np.isin(cell.scores["step"], steps)]
        return float(chosen.mean()) if np.isfinite(chosen).all() else None

    # ------------------------------------------------------------------ examples, noise

    def examples(self, pairs: Sequence[Pair]) -> tuple[list[Array], bool] | None:
        """Differences by example, a seed each, and whether all seeds share the examples.

        None where records hold none, or the metric is no mean of them (perplexity).
        """
        plain = self.claim.endpoint.kind == "final" and not self.claim.ratio
        if not plain or self.claim.b.value is not None:
            return None
        found, names = [], []
        for pair in pairs:
            a, b = (self._examples_of(cell) for cell in pair.cells)
            if a is None or b is None or a[1] != b[1] or len(a[0]) != len(b[0]):
                return None
            apart = (a[0] - b[0]) * self.sign
            if not math.isclose(apart.mean(), self.difference(pair), rel_tol=1e-6, abs_tol=1e-9):
                return None
            found.append(apart)
            names.append(a[1])
        shared = names[0] is not None and all(other == names[0] for other in names)
        return found, shared

    def _examples_of(self, cell: Result) -> Examples | None:
        """Read from the record when first asked for: most cells are never judged."""
        if by_name := cell.examples.get(self.metric or ""):
            names = sorted(by_name)
            return np.array([by_name[name] for name in names]), names
        if cell.file not in self._read:
            self._read[cell.file] = None
            if cell.ok and cell.file.suffix == ".json":
                record = records.read(cell.file)
                values = record["examples"].get(self.metric)
                names = record.get("example_ids", {}).get(self.metric)
                if values:
                    self._read[cell.file] = (np.array(values, dtype=np.float64), names)
        return self._read[cell.file]

    def noise(self, groups: Iterable[Sequence[Result]]) -> Noise | None:
        """From cells that are one but for a change that means nothing; None where none was run."""
        if self.claim.b.value is not None:
            return None
        squares, freedom, largest = 0.0, 0, 0.0
        for group in groups:
            found = [self.number(cell)[0] for cell in group if cell.ok]
            values = [v for v in found if v is not None and not math.isnan(v)]
            if len(values) > 1:
                squares += float(np.var(values)) * len(values)
                freedom += len(values) - 1
                largest = max(largest, max(values) - min(values))
        return Noise(math.sqrt(squares / freedom), largest, freedom) if freedom else None


@dataclass(frozen=True)
class Noise:
    """How far cells that are one but for a meaningless change lie apart."""

    deviation: float
    largest: float
    freedom: int
