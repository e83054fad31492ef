"""Judges all claims: the primary comparisons as one family, the others as exploratory.

The family is looked at when its manifest says (bench.judge.primary). At each look Holm's correction
runs over all its comparisons at the look's level, those without cells included; what a comparison
says is read off its interval at the level that Holm's step leaves it, so that the words are right
for the family. What an earlier look has decided stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.judge import trends
from bench.judge.cells import Collection, Result
from bench.judge.claims import Claim
from bench.judge.comparison import ALL_RATES, Comparison
from bench.judge.measures import Measuring
from bench.judge.primary import LEVEL, Family, Look
from bench.judge.rates import AS_RUN, PROTOCOLS
from bench.judge.rows import count
from bench.judge.settings import (
    Setting,
    metric_of,
    needs_metric,
    pairs,
    settings,
)
from bench.judge.verdicts import DECIDED, UNDECIDED, Judgement, decide, reason

At = Callable[[Sequence[int], float], Judgement]  # with these seeds, at this level


def judge(
    claims: Sequence[Claim], found: Collection, family: Family | None = None
) -> list[Judgement]:
    """The primary comparisons first, then each exploratory claim in every setting it applies to."""
    known: dict[str | None, list[Setting]] = {}

    def of(claim: Claim) -> list[Setting]:
        if claim.over not in known:
            known[claim.over] = settings(found, claim.over)
        return known[claim.over]

    # One cell of each row: which arms are there is the same for all its seeds.
    rows = [*{(cell.section_key(), cell.row_key): cell for cell in found.cells}.values()]
    made = _of_family(family, of, rows) if family is not None else []
    for claim in claims:
        judged = [
            judgement
            for several in _comparisons(claim, of(claim))
            for judgement in _exploratory(several)
        ] + trends.judge(claim, of(claim))
        made += judged or [Judgement(claim, reason=_no_cells(claim, of(claim), rows))]
    return made


def _comparisons(
    claim: Claim, known: Sequence[Setting], first: int | None = None
) -> Iterator[list[Comparison]]:
    """For each setting and pair of arms its comparisons, one a protocol.

    first: how many of the lowest seeds say what the grid of rates is, as a first look has them.
    """
    if claim.trend:
        return
    for setting in known:
        if not claim.of_task(setting.section.task):
            continue
        metric = metric_of(claim, setting.section)
        if needs_metric(claim.endpoint) and metric is None:
            continue
        measuring = Measuring(
            claim, setting.section, metric if needs_metric(claim.endpoint) else None, setting.cells
        )
        if claim.endpoint.kind.startswith("forgetting_at"):
            measuring.metric = metric
        for arms in pairs(claim, setting):
            if not all(measuring.anywhere(arm) for arm in arms):
                continue
            kind = claim.endpoint.kind
            if kind in ("good_range", "forgetting_at_equal_learning"):
                yield [Comparison.of(measuring, setting, ALL_RATES, arms, first)]
                continue
            protocols = [*PROTOCOLS]
            if all(len(arm.reported) == 1 and not arm.validation for arm in arms):
                protocols.append(AS_RUN)
            yield [Comparison.of(measuring, setting, p, arms, first) for p in protocols]


def _exploratory(comparisons: Sequence[Comparison]) -> Iterator[Judgement]:
    """Each protocol; as run only where none of the others can be followed."""
    judged = False
    for comparison in comparisons:
        if comparison.protocol == AS_RUN and judged:
            continue
        made = comparison.judge()
        judged |= made.effect is not None
        yield made


def _no_cells(claim: Claim, known: Sequence[Setting], cells: Sequence[Result]) -> str:
    if waits := trends.waits(claim, known):
        return waits
    if missing := missing_arms(claim, cells):
        return missing
    return (
        f"no comparable cells (same model, steps and rank, the endpoint measured) on {_on(claim)}"
    )


def missing_arms(claim: Claim, cells: Sequence[Result]) -> str:
    """Says which arms have no cells; empty where all have some."""
    arms = [arm for arm in (claim.a, claim.b) if arm.value is None]
    missing = [
        arm.words
        for arm in arms
        if not any(arm.takes(cell) and claim.about(cell) for cell in cells)
    ]
    return f"no cells of {' and of '.join(missing)} on {_on(claim)}" if missing else ""


def _on(claim: Claim) -> str:
    at = f" at {claim.rank} rank" if claim.rank != "any" else ""
    at += "".join(f", {key} {'/'.join(map(str, value))}" for key, value in claim.setting)
    return f"task {' or '.join(claim.tasks)}{at}"


# ---------------------------------------------------------------------------- the family


def _of_family(
    family: Family, of: Callable[[Claim], list[Setting]], cells: Sequence[Result]
) -> list[Judgement]:
    """Each primary comparison as its last look left it."""
    waiting: list[Judgement] = []
    judged: list[tuple[Sequence[int], At]] = []
    first = family.looks[0].seeds
    for claim in family.claims:
        several = [c for group in _comparisons(claim, of(claim), first) for c in _primary(group)]
        made: list[tuple[Sequence[int], At]] = [(c.seeds(), _Of(c)) for c in several]
        made += trends.primary(claim, of(claim), first)
        judged += made
        if not made:
            reason_ = _no_cells(claim, of(claim), cells)
            waiting.append(Judgement(claim, reason=reason_, primary=True))
    current = through_looks(judged, family, len(judged) + len(waiting))
    return [*current, *waiting]


def through_looks(
    judged: Sequence[tuple[Sequence[int], At]], family: Family, size: int
) -> list[Judgement]:
    """Each comparison (its seeds, and what it says with some of them at a level) after all looks.

    size: how many comparisons Holm's correction counts, those without cells included.
    """
    current: dict[int, Judgement] = {}
    for number, look in enumerate(family.looks, 1):
        seen = {
            i: _seen(seeds, at, look, number, len(family.looks))
            for i, (seeds, at) in enumerate(judged)
            if i not in current or current[i].verdict not in DECIDED
            if look.seeds is None or len(seeds) >= look.seeds or i not in current
        }
        current |= _step_down(seen, size, look.level)
    return [_followed(current[i], *judged[i], family.looks) for i in range(len(judged))]


def _followed(made: Judgement, seeds: Sequence[int], at: At, looks: Sequence[Look]) -> Judgement:
    """What an earlier look has decided stands; the seeds that came since are told beside it."""
    last = looks[-1].seeds
    known = made.effect
    if last is None or known is None or not made.decided or not known.n < last <= len(seeds):
        return made
    after = at(seeds[:last], LEVEL)
    made = replace(made, later=after.effect)
    if after.gaps:  # of a trend, task by task
        made = replace(made, gaps=after.gaps, without_one=after.without_one)
    return made


def _primary(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Tuned rates where there are any, else as run: of protocols, a primary comparison has one."""
    for protocol in ("tuned", AS_RUN, ALL_RATES):
        for comparison in comparisons:
            fits = comparison.protocol == protocol
            if fits and (protocol != "tuned" or not any(
                comparison.choice(arm).problem for arm in comparison.arms
            )):  # fmt: skip
                return [comparison]
    return [*comparisons[:1]]


@dataclass(frozen=True)
class _Of:
    """What a comparison says with some of its seeds at a level."""

    comparison: Comparison

    def __call__(self, seeds: Sequence[int], level: float) -> Judgement:
        return self.comparison.among(frozenset(seeds)).judge(level)


def _seen(seeds: Sequence[int], at: At, look: Look, number: int, looks: int) -> Judgement:
    """What a look sees: the lowest seeds, as many as it has; too few are no look yet."""
    wanted = look.seeds or len(seeds)
    made = replace(at(seeds[:wanted], look.level), primary=True)
    name = "" if looks == 1 else f"look {number} of {looks}, level {look.level:g}"
    if len(seeds) < wanted:
        said = f"{len(seeds)} of the {count(wanted, 'seed')} of the first look are there"
        more = at.comparison.commands(wanted - len(seeds)) if isinstance(at, _Of) else ()
        return replace(made, verdict=UNDECIDED, reason=said, p=None, look=name,
                       commands=more or made.commands)  # fmt: skip
    left = len(seeds) - wanted
    flags = made.flags
    if left and number == looks:
        flags = (*flags, f"{count(left, 'seed')} beyond the last look left out")
    return replace(made, look=name, flags=flags)


def _step_down(seen: dict[int, Judgement], size: int, level: float) -> dict[int, Judgement]:
    """Holm: the i-th smallest p is held against level / (size - i); the first that fails ends it.

    Each verdict is read anew at its own step's level.
    """
    made = dict(seen)
    tested = sorted((j.p, i) for i, j in seen.items() if j.p is not None and j.effect is not None)
    largest, open_ = 0.0, True
    for rank, (p, i) in enumerate(tested):
        judgement, left = seen[i], size - rank
        effect = judgement.effect
        assert effect is not None
        largest = max(largest, min(1.0, left * p))
        open_ = open_ and p <= level / left
        verdict = decide(judgement.claim, effect.at(level / left)) if open_ else UNDECIDED
        why = reason(judgement.claim, verdict, effect)
        if verdict == UNDECIDED and judgement.verdict in DECIDED:
            why = f"{judgement.verdict} by itself, not after Holm's correction over {size}"
        made[i] = replace(judgement, verdict=verdict, reason=why, p_holm=largest)
    return made
