"""The seven verdicts, and what a judgement holds.

    holds                    the claim is shown, by more than its margin
    reversed                 its contrary is: b beats a by more than the margin, a is worse by more,
                             or they differ by more
    smaller than the margin  a is not better than b by more than the margin, whatever else
    equivalent               a and b differ by no more than the margin either way
    undecided                the interval reaches across a bound; with the seeds it would take
    cannot tell              a guard fired: the experiment could not have shown it
    rates unsettled          the arms' rates were not looked for alike, or validation would more
                             likely than not have chosen another rate for one of the arms

All by one interval at 1 - level; see bench.judge.intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.judge.claims import Claim
from bench.judge.guards import Guard
from bench.judge.intervals import Effect
from bench.judge.measures import Noise, Pair

HOLDS, REVERSED = "holds", "reversed"
SMALLER, EQUIVALENT = "smaller than the margin", "equivalent"
UNDECIDED, CANNOT_TELL, UNSETTLED = "undecided", "cannot tell", "rates unsettled"
VERDICTS = (HOLDS, REVERSED, SMALLER, EQUIVALENT, UNDECIDED, CANNOT_TELL, UNSETTLED)
DECIDED = (HOLDS, REVERSED, SMALLER, EQUIVALENT)
ALIKE = (SMALLER, EQUIVALENT)  # say that there is little between the arms


@dataclass(frozen=True)
class Judgement:
    """One claim in one setting under one protocol. Effects are positive where a is better."""

    claim: Claim
    setting: str = ""
    protocol: str = ""
    verdict: str = UNDECIDED
    reason: str = ""
    arms: tuple[str, str] = ("", "")
    unit: str = ""
    measured: str = ""
    higher_is_better: bool = True
    effect: Effect | None = None
    p: float | None = None
    p_holm: float | None = None  # of primary comparisons
    primary: bool = False
    look: str = ""  # of a primary comparison: which one decided
    later: Effect | None = None  # what the seeds of a later look add to a verdict that stands
    pairs: tuple[Pair, ...] = ()
    cells: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    flags: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()  # how each arm's rate was found
    noise: Noise | None = None
    p_flip: float | None = None  # by flipping signs, of no difference
    seeds_needed: int | None = None  # of an undecided one
    without_one: str = ""  # what becomes of the verdict with a seed fewer
    paper: float | None = None  # the paper's effect on the same measure
    others: tuple[tuple[str, Effect], ...] = ()  # at targets or shares that are not judged
    gaps: tuple[tuple[float, str, Effect], ...] = ()  # of a trend: distance, task and its effect
    diverged: tuple[tuple[int, int], ...] = ()  # of each arm: how many of how many
    best_of: tuple[tuple[str, tuple[float, ...]], ...] = ()  # by arm, after k trials
    best_by: str = ""  # what that is of: the endpoint, or what rates were chosen by instead
    commands: tuple[str, ...] = ()  # that add the missing seeds
    section: str = ""  # key of the setting

    @property
    def decided(self) -> bool:
        return self.verdict in DECIDED

    @property
    def paper_excluded(self) -> bool:
        """Whether the paper's size lies outside the interval."""
        found = self.effect
        if found is None or self.paper is None or self.verdict in (CANNOT_TELL, UNSETTLED):
            return False
        return not found.low <= self.paper <= found.high


def decide(claim: Claim, found: Effect) -> str:
    """By the interval alone."""
    m, low, high = claim.margin, found.low, found.high
    within = m > 0 and -m <= low and high <= m
    if claim.direction == "equal":
        if within:
            return EQUIVALENT
        return REVERSED if low > m or high < -m else UNDECIDED
    if claim.direction == "no_worse":
        if low >= -m:
            return HOLDS
        return REVERSED if high < -m else UNDECIDED
    if low > m:
        return HOLDS
    if high < -m or (m == 0 and high < 0):
        return REVERSED
    if within and low <= 0 <= high:
        return EQUIVALENT
    return SMALLER if high <= m else UNDECIDED


def p_value(claim: Claim, found: Effect) -> float:
    """Below the level where `decide` decides, whichever way."""
    m = claim.margin
    beyond = [found.p_beyond(m, 1), found.p_beyond(-m, -1)]
    if claim.direction == "equal":
        return min(found.p_within(m), *beyond)
    bound = m if claim.direction == "better" else -m
    return min(found.p_beyond(bound, 1), found.p_beyond(bound, -1))


def reason(claim: Claim, verdict: str, found: Effect) -> str:
    """What the verdict means here, where the word alone does not say it."""
    if verdict == UNDECIDED:
        return "the interval reaches across the margin"
    if verdict == REVERSED and claim.direction == "equal":
        return "they differ by more than the margin"
    if verdict == SMALLER:
        if found.low > 0:
            return "a is better, but by less than the margin"
        if found.high < 0:
            return "a is worse, but by less than the margin"
        return "a is no better by the margin; whether it is worse is not decided"
    return ""


def bounds(claim: Claim) -> tuple[float, ...]:
    """What an effect must be told from for a verdict."""
    if claim.direction == "no_worse":
        return (-claim.margin,)
    return tuple({-claim.margin, claim.margin})
