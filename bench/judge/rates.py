"""Which learning rate an arm of a comparison runs at. The protocols:

    paper   the best of the rates in the paper's grid, chosen on validation cells where they
            cover it, else on the reported cells themselves (as the paper, which names no others)
    tuned   where there are validation cells, the best on them. Where there are none but several
            rates were run on several seeds, each seed is judged at the rate that is best on the
            other seeds, so that the choice is part of the estimate
    as run  the one rate that each arm was run with, where neither of the others can be followed

Validation cells (config.protocol.split == "validation") choose and are never judged. Where a claim
is `over` a key of the task, a level of it is chosen together with the rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.judge import paper
from bench.judge.cells import Result
from bench.judge.intervals import best_of
from bench.judge.rows import Row, count
from bench.records.words import format_rate

PROTOCOLS = ("paper", "tuned")
AS_RUN = "as run"
DRAWS = 2_000  # of the choice, to tell how often another rate would have been chosen

Point = tuple[float | None, Any]  # learning rate, level of what the claim is `over`
ByPoint = dict[Point, list[Result]]
Goodness = Callable[[Result], float | None]  # more is better; None where it was not measured


@dataclass(eq=False)
class Candidate:
    """What may be an arm: all learning rates of one method, rank and settings in one setting."""

    row: Row
    reported: ByPoint = field(default_factory=dict)
    validation: ByPoint = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.row.name_and_rank

    @property
    def cells(self) -> list[Result]:
        """The reported ones."""
        return [cell for group in self.reported.values() for cell in group]

    @property
    def seeds(self) -> set[int]:
        return {cell.seed for cell in self.cells}

    def of_seed(self, seed: int) -> tuple[Result, ...]:
        return tuple(cell for cell in self.cells if cell.seed == seed)

    def only(self, keep: Callable[[Result], bool]) -> Candidate:
        """As if other cells had never been run."""

        def kept(cells: ByPoint) -> ByPoint:
            some = {p: [c for c in group if keep(c)] for p, group in cells.items()}
            return {point: group for point, group in some.items() if group}

        return Candidate(self.row, kept(self.reported), kept(self.validation))

    def among(self, seeds: Container[int]) -> Candidate:
        """As if other seeds had never been run."""
        return self.only(lambda cell: cell.seed in seeds)

    def on_grid(self, first: int | None = None) -> tuple[Candidate, tuple[str, ...]]:
        """With the rates of its grid, on the seeds that ended at all of them; what is left out.

        A rate is of the grid where at least half of the seeds ended at it: one more, tried on a few
        of them, or one that nobody ended at, must not cost the others their place, nor may a seed
        count that lacks some of the rates to choose from, as those of a running sweep do.

        first: the lowest seeds, so many, say what the grid is. Later ones that were run on another
        must not undo what a look at the first has decided.
        """
        ended = {
            point: {cell.seed for cell in cells if cell.ended}
            for point, cells in self.reported.items()
        }
        every = set().union(*ended.values())
        asked = set(sorted(every)[:first])
        known = {point: seeds & asked for point, seeds in ended.items()}
        grid = [point for point, seeds in known.items() if seeds and 2 * len(seeds) >= len(asked)]
        if len(_common(known, grid)) < 2:
            grid = _run_alike(known)
        if len(_common(known, grid)) < 2:
            return self, ()
        whole = _common(ended, grid)
        said = []
        for point in ended.keys() - {*grid}:
            few = f"ended on {len(ended[point])} of {count(len(every), 'seed')}"
            said.append(f"{self.name}: {_words(point)} left out: {few}")
        if others := sorted(every - whole):
            seeds = ", ".join(map(str, others))
            said.append(f"{self.name}: seed {seeds} left out: run at other rates than the rest")
        if unended := sorted(self.seeds - every):
            seeds = ", ".join(map(str, unended))
            said.append(f"{self.name}: seed {seeds} left out: ended at no rate")
        some = {p: [c for c in self.reported[p] if c.seed in whole] for p in grid}
        return Candidate(self.row, some, self.validation), tuple(said)

    def at(self, rate: float | None) -> Candidate:
        """As if it had been run at this rate alone; all of it for None."""
        if rate is None:
            return self
        return Candidate(self.row, _within(self.reported, [rate]), _within(self.validation, [rate]))

    @property
    def trainable(self) -> int | None:
        groups = [*self.reported.values(), *self.validation.values()]
        return next((c.trainable for cells in groups for c in cells if c.trainable), None)


@dataclass(frozen=True)
class Search:
    """How an arm's rate was looked for; arms must have looked alike."""

    trials: int = 1
    octaves: float = 0.0  # from the lowest rate to the highest
    seeds: tuple[int, ...] = ()  # that chose, where they are none of the judged

    def differs(self, other: Search) -> list[str]:
        """What arms did not do alike."""
        said = ["numbers of learning-rate trials"] * (self.trials != other.trials)
        said += ["widths of the grids of rates"] * (abs(self.octaves - other.octaves) > 0.1)
        return said + ["validation seeds"] * (self.seeds != other.seeds)


@dataclass(frozen=True)
class Choice:
    """The judged cell of each seed, or the problem why there is none."""

    cells: Mapping[int, Result] = field(default_factory=dict)
    point: Point = (None, None)  # the usual one
    problem: str = ""
    flags: tuple[str, ...] = ()
    edge: str = ""  # says so where the best lies at the end of what was tried
    lowest: bool = False  # whether the best rate is the lowest that was tried
    search: Search = Search()
    another: float | None = None  # how often another rate would have been chosen
    how: str = ""
    best_of: tuple[float, ...] = ()  # expected best after k trials, more is better

    @property
    def words(self) -> str:
        words = _words(self.point)
        return f", {words}" if words else ""


def _words(point: Point) -> str:
    rate, level = point
    said = [f"lr {format_rate(rate)}"] if rate is not None else []
    return ", ".join(said + ([f"at {level:,}"] if level is not None else []))


def choose(
    candidate: Candidate, protocol: str, task: str, good: Goodness, spread: float | None = None
) -> Choice:
    """The arm's learning rate under the protocol; `good` says what is best.

    spread: standard deviation of `good` between seeds, where validation has a single one.
    """
    if protocol == AS_RUN:
        ((point, cells),) = candidate.reported.items()
        return Choice({cell.seed: cell for cell in cells}, point)
    if protocol == "paper":
        return _of_papers_grid(candidate, task, good, spread)
    if candidate.validation:
        return _on_validation(candidate, candidate.validation, good, spread)
    if len(candidate.reported) > 1:
        return _by_the_others(candidate, good)
    return Choice(problem=f"no validation cells of {candidate.name}")


def _of_papers_grid(
    candidate: Candidate, task: str, good: Goodness, spread: float | None
) -> Choice:
    grid = paper.learning_rates(task, candidate.row.method, candidate.row.rank)
    if not grid:
        return Choice(problem=f"the paper states no learning rates for {candidate.name} here")
    reported = _within(candidate.reported, grid)
    if not reported:
        rates = ", ".join(map(format_rate, grid))
        return Choice(problem=f"no cells of {candidate.name} at the paper's rates ({rates})")
    if len(grid) == 1:
        return _at(candidate, next(iter(reported)))
    validation = _within(candidate.validation, grid)
    if validation.keys() >= reported.keys():
        return _on_validation(candidate, validation, good, spread)
    if len(reported) == 1:
        flag = f"{candidate.name}: one of the paper's {len(grid)} rates was run"
        return replace(_at(candidate, next(iter(reported))), flags=(flag,))
    flag = f"{candidate.name}: rate chosen on the reported cells themselves, as in the paper"
    choice = best(candidate, reported, good, "reported")
    return replace(choice, flags=(*choice.flags, flag))


def _at(candidate: Candidate, point: Point) -> Choice:
    return Choice({cell.seed: cell for cell in candidate.reported[point]}, point)


def _within(cells: ByPoint, grid: Sequence[float]) -> ByPoint:
    return {
        (rate, level): group
        for (rate, level), group in cells.items()
        if rate is not None and any(math.isclose(rate, other, rel_tol=1e-6) for other in grid)
    }


def _on_validation(
    candidate: Candidate, cells: ByPoint, good: Goodness, spread: float | None
) -> Choice:
    chosen = {cell.seed for group in cells.values() for cell in group}
    if both := chosen & candidate.seeds:
        said = f"{candidate.name}: seed {min(both)} is both validation and reported"
        return Choice(problem=said)
    choice = best(candidate, cells, good, "validation")
    search = replace(choice.search, seeds=tuple(sorted(chosen)))
    return replace(choice, search=search, another=_another(cells, good, choice.point, spread))


def best(candidate: Candidate, cells: ByPoint, good: Goodness, kind: str) -> Choice:
    """The rate with the best mean; one that failed or lacks a seed is out, as is a diverged one."""
    seeds = {cell.seed for group in cells.values() for cell in group}
    means: dict[Point, float] = {}
    for point, group in cells.items():
        values = [v for cell in group if cell.ok and (v := good(cell)) is not None]
        if point[0] is not None and len(values) == len(seeds):
            means[point] = float(np.mean(values))
    if not means:
        return Choice(problem=f"no learning rate of {candidate.name} has all {kind} cells")
    point = _best_of_means(means)
    found = Choice({}, point, edge=_edge(candidate.name, point, cells),
                   lowest=_is_lowest(point, cells), search=_search(cells),
                   best_of=tuple(best_of(list(means.values()))))  # fmt: skip
    if point not in candidate.reported:
        problem = f"no reported cells of {candidate.name} at its best rate"
        return replace(found, problem=f"{problem}{found.words.replace(', lr', ',')}")
    return replace(found, cells={cell.seed: cell for cell in candidate.reported[point]})


def _best_of_means(means: Mapping[Point, float]) -> Point:
    return min(means, key=lambda p: (-means[p], p[0] or 0.0, str(p[1])))


def _by_the_others(candidate: Candidate, good: Goodness) -> Choice:
    """Each seed at the rate that is best on the other seeds (of those that all rates have)."""
    table = {point: _values(cells, good) for point, cells in candidate.reported.items()}
    known = [v for by_seed in table.values() for v in by_seed.values() if v is not None]
    # Who diverged and has no number is worse than all that have one.
    least = min(known, default=0.0) - np.ptp(known or [0.0]) - 1.0
    filled = {
        point: {seed: least if v is None else v for seed, v in by_seed.items()}
        for point, by_seed in table.items()
    }
    common = set.intersection(*map(set, filled.values())) if known else set()
    if len(common) < 2:
        said = f"{candidate.name}: its learning rates share {count(len(common), 'seed')}; to choose"
        return Choice(problem=f"{said} by the others, at least 2 are needed")

    points = sorted(filled, key=lambda p: (p[0] or 0.0, str(p[1])))  # of equals the lowest rate
    shared = sorted(common)
    values_of = np.array([[filled[point][seed] for seed in shared] for point in points])
    sums = values_of.sum(1)
    others = (sums[:, None] - values_of) / (len(shared) - 1)
    overall = points[int(sums.argmax())]
    by_others = {s: points[int(i)] for s, i in zip(shared, others.argmax(0), strict=True)}
    chosen = {seed: by_others.get(seed, overall) for seed in sorted(candidate.seeds)}
    judged = {
        seed: cell
        for seed, point in chosen.items()
        for cell in candidate.reported[point]
        if cell.seed == seed
    }
    usual, times = Counter(chosen.values()).most_common(1)[0]
    return Choice(
        judged, usual, edge=_edge(candidate.name, overall, candidate.reported),
        lowest=_is_lowest(overall, candidate.reported), search=_search(candidate.reported),
        another=1 - times / len(chosen),
        how="each seed at the rate that the others choose",
        best_of=tuple(best_of((sums / len(shared)).tolist())),
    )  # fmt: skip


def _values(cells: Sequence[Result], good: Goodness) -> dict[int, float | None]:
    """Of each seed that ended; None for one that diverged where that leaves no number."""
    found = {cell.seed: (cell, good(cell)) for cell in cells if cell.ended}
    return {s: v for s, (cell, v) in found.items() if v is not None or not cell.ok}


def _common(ended: Mapping[Point, set[int]], grid: Sequence[Point]) -> set[int]:
    """The seeds that ended at all rates of the grid."""
    return set.intersection(*(ended[point] for point in grid)) if grid else set()


def _run_alike(ended: Mapping[Point, set[int]]) -> list[Point]:
    """The rates that the most seeds ended at, and at no other; of equals more rates."""
    groups: dict[frozenset[Point], set[int]] = {}
    for seed in set().union(*ended.values()):
        rates = frozenset(point for point, seeds in ended.items() if seed in seeds)
        groups.setdefault(rates, set()).add(seed)
    rates, _ = max(
        groups.items(), key=lambda g: (len(g[1]), len(g[0])), default=(frozenset(), set())
    )
    return [point for point in ended if point in rates]


def search(arm: Candidate) -> Search:
    """How the arm's rate is looked for where it is tuned."""
    seeds = {cell.seed for group in arm.validation.values() for cell in group}
    return replace(_search(arm.validation or arm.reported), seeds=tuple(sorted(seeds)))


def _search(cells: ByPoint) -> Search:
    rates = sorted({rate for rate, _ in cells if rate})
    return Search(len(cells), math.log2(rates[-1] / rates[0]) if rates else 0.0)


def _is_lowest(point: Point, tried: ByPoint) -> bool:
    return point[0] == min((rate for rate, _ in tried if rate is not None), default=None)


def _edge(name: str, point: Point, tried: ByPoint) -> str:
    """Says so where the best is the lowest or the highest of several; else empty."""
    (rate, level), said = point, []
    rates = sorted({r for r, _ in tried if r is not None})
    if rate is not None and len(rates) > 1 and rate in (rates[0], rates[-1]):
        end = "lower" if rate == rates[0] else "upper"
        said.append(f"the best rate, {format_rate(rate)}, lies at the {end} edge of its grid")
    levels = sorted({lev for _, lev in tried if lev is not None})
    if level is not None and len(levels) > 1 and level == levels[-1]:
        said.append(f"it does best at {level:,}, the largest that was tried")
    return f"{name}: {'; '.join(said)}" if said else ""


def _another(cells: ByPoint, good: Goodness, chosen: Point, spread: float | None) -> float | None:
    """How often other validation seeds would have chosen another rate.

    Bootstrap over the validation seeds; where there is one, the spread between judged seeds stands
    in for theirs. None where neither is known.
    """
    rows = {
        point: {cell.seed: v for cell in group if cell.ok and (v := good(cell)) is not None}
        for point, group in cells.items()
    }
    seeds = sorted({cell.seed for group in cells.values() for cell in group})
    rows = {point: by_seed for point, by_seed in rows.items() if len(by_seed) == len(seeds)}
    if len(rows) < 2 or chosen not in rows:
        return None if len(rows) < 1 else 0.0
    points = sorted(rows, key=lambda p: (p[0] or 0.0, str(p[1])))
    table = np.array([[rows[p][s] for s in seeds] for p in points])  # (points, seeds)
    rng = np.random.default_rng(0)
    if len(seeds) > 1:
        drawn = rng.integers(0, len(seeds), (DRAWS, len(seeds)))
        means = table[:, drawn].mean(2)
    elif spread:
        means = table + rng.normal(0, spread, (len(points), DRAWS))
    else:
        return None
    return float(np.mean(means.argmax(0) != points.index(chosen)))
