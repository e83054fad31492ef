"""Which learning rate an arm of a comparison runs at. The protocols:

    paper   the best of the rates in the paper's grid, chosen on validation cells where they
            cover it, else on the reported cells themselves (as the paper, which names no others)
    tuned   the best on validation cells, after equally many trials for both arms
    as run  the one rate that each arm was run with, where neither of the others can be followed

Validation cells (config.protocol.split == "validation") choose and are never judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.judge import paper
from bench.judge.cells import Cell, Row, format_rate

PROTOCOLS = ("paper", "tuned")
AS_RUN = "as run"

ByRate = dict[float | None, list[Cell]]
Score = Callable[[Cell], float | None]  # how good a cell is; None where it was not measured


@dataclass
class Candidate:
    """What may be an arm: all learning rates of one method, rank and settings in one setting."""

    row: Row
    reported: ByRate = field(default_factory=dict)
    validation: ByRate = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.row.name_and_rank

    def without(self, seed: int) -> Candidate:
        """As if the seed had never been run."""

        def others(cells: ByRate) -> ByRate:
            kept = {r: [c for c in group if c.seed != seed] for r, group in cells.items()}
            return {rate: group for rate, group in kept.items() if group}

        return Candidate(self.row, others(self.reported), others(self.validation))

    @property
    def trainable(self) -> int | None:
        groups = [*self.reported.values(), *self.validation.values()]
        return next((c.trainable for cells in groups for c in cells if c.trainable), None)


@dataclass(frozen=True)
class Choice:
    """The learning rate of an arm, or the problem why there is none."""

    rate: float | None = None
    problem: str = ""
    flags: tuple[str, ...] = ()
    trials: int = 0


def choose(candidate: Candidate, protocol: str, task: str, score: Score) -> Choice:
    """The arm's learning rate under the protocol; `score` says what is best."""
    if protocol == AS_RUN:
        (rate,) = candidate.reported
        return Choice(rate, trials=1)
    if protocol == "paper":
        return _of_papers_grid(candidate, task, score)
    if not candidate.validation:
        return Choice(problem=f"no validation cells of {candidate.name}")
    return _best_on_validation(candidate, candidate.validation, score)


def _of_papers_grid(candidate: Candidate, task: str, score: Score) -> Choice:
    grid = paper.learning_rates(task, candidate.row.method, candidate.row.rank)
    if not grid:
        return Choice(problem=f"the paper states no learning rates for {candidate.name} here")
    reported = _within(candidate.reported, grid)
    if not reported:
        rates = ", ".join(map(format_rate, grid))
        return Choice(problem=f"no cells of {candidate.name} at the paper's rates ({rates})")
    if len(grid) == 1:
        return Choice(next(iter(reported)), trials=1)
    validation = _within(candidate.validation, grid)
    if validation.keys() >= reported.keys():
        return _best_on_validation(candidate, validation, score)
    if len(reported) == 1:
        flag = f"{candidate.name}: one of the paper's {len(grid)} rates was run"
        return Choice(next(iter(reported)), flags=(flag,), trials=1)
    flag = f"{candidate.name}: rate chosen on the reported cells themselves, as in the paper"
    choice = best(candidate, reported, score, "reported")
    return replace(choice, flags=(*choice.flags, flag))


def _within(cells: ByRate, grid: Sequence[float]) -> ByRate:
    return {
        rate: group
        for rate, group in cells.items()
        if rate is not None and any(math.isclose(rate, other, rel_tol=1e-6) for other in grid)
    }


def _best_on_validation(candidate: Candidate, cells: ByRate, score: Score) -> Choice:
    chosen = {cell.seed for group in cells.values() for cell in group}
    judged = {cell.seed for group in candidate.reported.values() for cell in group}
    if chosen & judged:
        seed = min(chosen & judged)
        return Choice(problem=f"{candidate.name}: seed {seed} is both validation and reported")
    return best(candidate, cells, score, "validation")


def best(candidate: Candidate, cells: ByRate, score: Score, kind: str) -> Choice:
    """The rate with the best mean; one that failed, diverged or lacks a seed is out."""
    seeds = {cell.seed for group in cells.values() for cell in group}
    means: dict[float, float] = {}
    for rate, group in cells.items():
        values = [v for cell in group if cell.ok and (v := score(cell)) is not None]
        if rate is not None and len(values) == len(seeds):
            means[rate] = float(np.mean(values))
    if not means:
        return Choice(problem=f"no learning rate of {candidate.name} has all {kind} cells")
    rate = min(means, key=lambda r: (-means[r], r))
    if rate not in candidate.reported:
        problem = f"no reported cells of {candidate.name} at its best rate, {format_rate(rate)}"
        return Choice(rate, problem)
    tried = [r for r in cells if r is not None]
    at_edge = _edge(rate, tried)
    flags = (f"{candidate.name}: {at_edge}",) if at_edge else ()
    return Choice(rate, flags=flags, trials=len(tried))


def _edge(rate: float, tried: Sequence[float]) -> str:
    """Says so where the best rate is the lowest or the highest of several; else empty."""
    if len(tried) < 2 or min(tried) < rate < max(tried):
        return ""
    end = "lower" if rate == min(tried) else "upper"
    return f"the best rate, {format_rate(rate)}, lies at the {end} edge of its grid"
