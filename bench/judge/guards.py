"""Guards: where an experiment could not have shown anything, there is no verdict but `cannot tell`.

floor              neither arm has learned more than a share of the way from chance (or from the
                   untouched model) to perfect
ceiling            all cells of both arms are at the top
nothing forgotten  neither arm forgot more than the margin, or than a hundredth
edge               the losing arm's best rate is the lowest or highest that was tried (either
                   arm's, where the verdict says that there is little between them)
budgets            the arms train numbers of parameters that differ by more than 5 %
censored           more than half of an arm's cells never reached the target; or some did not,
                   where the verdict says that there is little between the arms, or that this arm
                   is the better one: how much worse these are is not known
diverged           cells that have no value here, and would be left out for having failed
no ratio           a value that a ratio can't be taken of
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.judge.cells import Result
from bench.judge.claims import Claim
from bench.judge.endpoints import FLOOR, FLOOR_OF_LOSSES
from bench.judge.measures import Measuring, Pair
from bench.judge.rates import Candidate, Choice
from bench.judge.rows import count, unequal

BUDGET_TOLERANCE = 0.01  # what is below goes without saying
LARGEST_BUDGET_GAP = 0.05
TOP = 0.99  # of the way to perfect, from which on a cell is at the ceiling
FORGOTTEN = 0.01  # of what was known before; less is nothing


@dataclass(frozen=True)
class Guard:
    """One that fired: its word, and why in a sentence."""

    word: str
    why: str

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


def budgets(claim: Claim, arms: Sequence[Candidate]) -> tuple[list[Guard], list[str]]:
    """Adapters' trainable parameters; FFT has no form at an adapter's budget. Guards and flags."""
    if not claim.equal_budget or len(arms) < 2 or any(c.row.rank is None for c in arms):
        return [], []
    trained = {c.name: c.trainable for c in arms if c.trainable}
    if words := unequal(trained, LARGEST_BUDGET_GAP):
        return [Guard("budgets", f"unequal budgets, {words}")], []
    words = unequal(trained, BUDGET_TOLERANCE)
    return [], [f"budgets differ a little, {words}"] if words else []


def of_values(measuring: Measuring, pairs: Sequence[Pair]) -> list[Guard]:
    """Those that ask what the cells learned, forgot and reached."""
    made = [_no_ratio(pairs), *_censored(pairs)]
    cells = [cell for pair in pairs for cell in pair.cells if cell.ok]
    endpoint = measuring.claim.endpoint
    learns = endpoint.of.learning or endpoint.kind.startswith("forgetting")
    if endpoint.kind != "to_target" and learns:
        made.append(_floor(measuring, pairs))
    if endpoint.kind in ("final", "curve"):
        made.append(_ceiling(measuring, cells))
    if endpoint.kind.startswith("forgetting"):
        made.append(_nothing_forgotten(measuring, pairs))
    return [guard for guard in made if guard is not None]


def _no_ratio(pairs: Sequence[Pair]) -> Guard | None:
    without = sum(math.isnan(pair.a) or math.isnan(pair.b) for pair in pairs)
    if not without:
        return None
    return Guard("no ratio", f"{count(without, 'seed')} with a value of zero or less")


def _censored(pairs: Sequence[Pair]) -> list[Guard]:
    made = []
    for i, arm in enumerate("ab"):
        cut = sum(pair.censored[i] for pair in pairs)
        if 2 * cut > len(pairs):
            made.append(
                Guard("censored", f"{cut} of {count(len(pairs), 'cell')} of {arm} are bounds only")
            )
    return made


def _floor(measuring: Measuring, pairs: Sequence[Pair]) -> Guard | None:
    """By the means of the arms: one that learned makes a difference from one that did not."""
    metric, floor = measuring.learned_metric, measuring.claim.endpoint.floor
    if floor is None:
        found = measuring.section.metrics.get(metric)
        floor = FLOOR if found is None or found.higher_is_better else FLOOR_OF_LOSSES
    by_arm: dict[str, list[float]] = {}
    for cell in (cell for pair in pairs for cell in pair.cells if cell.ok):
        share = share_learned(cell, metric)
        if share is not None:
            by_arm.setdefault(f"{cell.method} {cell.rank} {cell.settings}", []).append(share)
    most = max((sum(shares) / len(shares) for shares in by_arm.values()), default=None)
    if most is None or most >= floor:
        return None
    words = metric.replace("_", " ")
    return Guard("floor", f"no arm came {floor:.0%} of the way in {words} (at best {most:.1%})")


def share_learned(cell: Result, metric: str) -> float | None:
    """How far the cell came from what it knew before to perfect; None where that isn't known.

    Before: the untouched model's score, else chance, else the first step's loss. Perfect: 1 of a
    fraction, all bits of the table, a loss of 0; perplexity by its logarithm.
    """
    found = cell.metrics.get(metric)
    if found is None:
        return None
    before = cell.before.get(metric)
    start = found.chance if before is None else before.value
    if found.higher_is_better:
        perfect = _perfect(cell, found.unit)
        if start is None or perfect is None or perfect <= start:
            return None
        return (found.value - start) / (perfect - start)
    if found.unit == "perplexity":
        first = _first_loss(cell) if start is None else math.log(start)
        return 1 - math.log(max(found.value, 1.0)) / first if first else None
    return 1 - found.value / start if start else None


def _perfect(cell: Result, unit: str) -> float | None:
    if unit == "fraction":
        return 1.0
    facts, values = (cell.task_settings.get(key) for key in ("facts", "values"))
    if unit == "bits" and isinstance(facts, int) and isinstance(values, int):
        return facts * math.log2(values)
    return None


def _first_loss(cell: Result) -> float | None:
    losses = cell.train.get("loss")
    return None if losses is None or not len(losses) else float(losses[0])


def _ceiling(measuring: Measuring, cells: Sequence[Result]) -> Guard | None:
    if measuring.unit != "fraction" or not measuring.higher_is_better or not cells:
        return None
    values = [measuring.value(cell) for cell in cells]
    if all(value is not None and value >= TOP for value in values):
        return Guard("ceiling", "all cells of both arms are at the top, where nothing can differ")
    return None


def _nothing_forgotten(measuring: Measuring, pairs: Sequence[Pair]) -> Guard | None:
    claim = measuring.claim
    if claim.ratio or not pairs:
        return None
    most = max(sum(p.a for p in pairs), sum(p.b for p in pairs)) / len(pairs)
    if most > max(claim.margin, FORGOTTEN):
        return None
    what = "the margin" if claim.margin > FORGOTTEN else "a hundredth"
    return Guard("nothing forgotten", f"neither arm forgot more than {what} ({100 * most:.1f} %)")


def edge(effect: float, choices: Sequence[Choice], *, alike: bool) -> Guard | None:
    """The losing arm's best rate lies at an edge; alike: little differs, so either arm's."""
    losing = choices[-1] if effect > 0 else choices[0]
    asked = choices if alike else [losing]
    said = [choice.edge for choice in asked if choice.edge]
    return Guard("edge", "; ".join(dict.fromkeys(said))) if said else None


def bounded(pairs: Sequence[Pair]) -> Guard | None:
    """Cells that never got there tell nothing of how much alike the arms are."""
    cut = sum(any(pair.censored) for pair in pairs)
    if not cut:
        return None
    return Guard("censored", f"{count(cut, 'seed')} with a bound only, which shows no likeness")


def flattered(measuring: Measuring, pairs: Sequence[Pair], effect: float) -> Guard | None:
    """Bounds that make the difference look larger than it is.

    A bound is below what it stands for. So it flatters the arm that is ahead where fewer is better
    (steps to a target), and shortens the other where more is.
    """
    ahead = 0 if effect > 0 else 1
    arm = 1 - ahead if measuring.higher_is_better else ahead
    cut = sum(pair.censored[arm] for pair in pairs)
    if not cut:
        return None
    cells = f"{count(cut, 'cell')} of {'ab'[arm]}"
    if measuring.higher_is_better:
        return Guard("censored", f"{cells} with a bound only, which flatters the other")
    return Guard("censored", f"{cells}, which is ahead, never got there")


def diverged(measuring: Measuring, choices: Sequence[Choice]) -> Guard | None:
    """Cells that would be left out for having failed, which flatters their arm."""
    endpoint = measuring.claim.endpoint.of
    if endpoint.learning or not endpoint.tuned:
        return None
    cells = [c for choice in choices for c in choice.cells.values() if c.status == "diverged"]
    if not cells:
        return None
    return Guard("diverged", f"{count(len(cells), 'cell')} without a value here")
