"""Steps to a target loss, row by row of a table, and which rows they do not tell apart.

The loss is that on the answer's tokens (value_loss), mean of eight steps; the target is the
configuration's analysis.target_loss. Rows are compared as claims are: Student's t on log steps of
shared seeds, who never got there counted at the last step. Where a row has too few seeds, cells
that were run again with a change that means nothing still tell how little one run says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from bench.judge import along
from bench.judge.along import Reached
from bench.judge.cells import Result
from bench.judge.claims import Arm, Claim
from bench.judge.comparison import Comparison
from bench.judge.endpoints import Endpoint
from bench.judge.intervals import LEVEL
from bench.judge.measures import Measuring, Noise
from bench.judge.rates import AS_RUN, Candidate
from bench.judge.rows import Row, Section, count
from bench.judge.settings import Setting, exposure
from bench.judge.verdicts import HOLDS, REVERSED, Judgement
from bench.records.curves import LOSS, TARGET

NAMED = 6  # pairs of rows; more are counted


def endpoint(section: Section) -> Endpoint | None:
    """What is counted in the section; None where no cell holds the loss on the answer's tokens."""
    targets = {cell.target_loss for cell in section.cells if LOSS in cell.train}
    if not targets:
        return None
    target = targets.pop() if len(targets) == 1 else TARGET
    target = TARGET if target is None else target
    return Endpoint("to_target", targets=(target,), judged=target, loss=LOSS)


def reached(row: Row, wanted: Endpoint) -> list[Reached]:
    """Where each seed of the row got there; censored at the planned end where it did not."""
    made = []
    for cell in _measured(row):
        found = along.to_target(cell, wanted)
        made.append(found if cell.ok else Reached(along.last(cell, wanted), censored=True))
    return [found for found in made if found.value is not None]


def _measured(row: Row) -> list[Result]:
    return [c for c in row.cells if LOSS in c.train and c.ended]


@dataclass(frozen=True)
class _Pair:
    a: str
    b: str
    found: Judgement

    def __str__(self) -> str:
        effect = self.found.effect
        said = self.found.reason
        if effect is not None:
            ratios = (math.exp(-v) for v in (effect.effect, effect.high, effect.low))
            said = "× {:.2f} [{:.2f}, {:.2f}], ".format(*ratios) + count(effect.n, "seed")
            if self.found.guards:
                said = "the target was not reached by most cells of one"
        return f"{self.a} and {self.b} ({said})"


def apart(section: Section, twins: Sequence[Sequence[Result]] = ()) -> list[str]:
    """What the steps say of the section's rows, in sentences; of validation cells nothing.

    twins: groups of cells that are one but for a change that means nothing.
    """
    wanted = endpoint(section)
    if wanted is None or section.split != "reported":
        return []
    rows = [row for row in section.rows if _measured(row)]
    names = [row.name_and_rank for row in rows]
    if len(set(names)) < len(names):
        return ["rows of one method at several learning rates are compared by claims (--claims)"]
    claim = Claim(
        "", "", "", ("*",), wanted, Arm(), Arm(), "better", 0.0, ratio=True, equal_budget=False
    )
    arms = [Candidate(row, {(row.learning_rate, None): _measured(row)}) for row in rows]
    setting = Setting(section, arms, [*map(list, twins)])
    measuring = Measuring(claim, section, None, setting.cells)
    pairs = [(a, b) for a, b in combinations(arms, 2) if exposure(a) == exposure(b)]
    if not pairs:
        return []
    words = wanted.words(None)
    if all(len(a.seeds & b.seeds) < 2 for a, b in pairs):
        return [_of_one_seed(measuring, pairs, words, measuring.noise(setting.twins))]
    level = LEVEL / len(pairs)
    judged = [
        _Pair(
            a.name, b.name, Comparison(measuring, setting, AS_RUN, [a, b]).judge(level, whole=False)
        )
        for a, b in pairs
    ]
    return _sentences(judged, words)


def _sentences(judged: Sequence[_Pair], words: str) -> list[str]:
    told = [pair for pair in judged if pair.found.verdict in (HOLDS, REVERSED)]
    untold = [pair for pair in judged if pair not in told]
    said = []
    if untold:
        said.append(f"not told apart by {words}: {_listed(untold)}")
    if told:
        said.append(f"told apart by {words}: {_listed(told)}")
    if any(pair.found.effect is not None for pair in judged):
        of = "" if len(judged) == 1 else f", for {len(judged)} pairs together"
        said.append(
            f"ratios of steps, 95 % intervals{of}: Student's t on log steps of shared seeds"
        )
    return said


def _of_one_seed(
    measuring: Measuring,
    pairs: Sequence[tuple[Candidate, Candidate]],
    words: str,
    noise: Noise | None,
) -> str:
    """One run a row tells nothing of others; whether it is more than noise, a floor may tell."""
    said = f"one seed a row: no two of these are told apart by {words}"
    if noise is None:
        return said
    further: list[str] = []
    within: list[str] = []
    for a, b in pairs:
        for seed in a.seeds & b.seeds:
            (first,), (second,) = a.of_seed(seed), b.of_seed(seed)
            pair = measuring.pair(seed, first, second)
            if pair is None or any(pair.censored):
                continue
            ratio = math.exp(pair.a - pair.b)
            beyond = abs(pair.a - pair.b) > noise.largest
            (further if beyond else within).append(f"{a.name} and {b.name} (× {ratio:.2f})")
    floor = f"than a change that means nothing makes (× {math.exp(noise.largest):.2f})"
    if within:
        said += f"; no further apart {floor}: {_listed(within)}"
    if further:
        said += f"; further apart {floor}, which says nothing of other seeds: {_listed(further)}"
    return said


def _listed(pairs: Sequence[object]) -> str:
    more = f"; and {count(len(pairs) - NAMED, 'more pair')}" if len(pairs) > NAMED else ""
    return "; ".join(map(str, pairs[:NAMED])) + more
