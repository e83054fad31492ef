"""Claims of a trend: whether the difference between the arms grows with a task's distance.

For each seed a straight line through the differences over the tasks; what is judged is its slope,
a seed each, as any other effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bench.judge.claims import Claim
from bench.judge.comparison import FEWEST_SEEDS, Comparison
from bench.judge.guards import Guard
from bench.judge.intervals import paired
from bench.judge.measures import Measuring, Pair
from bench.judge.rates import AS_RUN, Candidate
from bench.judge.rows import count
from bench.judge.settings import Setting, metric_of, pairs
from bench.judge.verdicts import (
    CANNOT_TELL,
    UNDECIDED,
    Judgement,
    bounds,
    decide,
    p_value,
    reason,
)

FEWEST_TASKS = 3
At = Callable[[Sequence[int], float], Judgement]


def judge(claim: Claim, known: Sequence[Setting]) -> list[Judgement]:
    """The trend for each model and pair of arms; none for claims that are of no trend."""
    return [at(seeds, 0.05) for seeds, at in primary(claim, known)]


def primary(claim: Claim, known: Sequence[Setting]) -> list[tuple[list[int], At]]:
    """For each model and pair of arms the seeds that all tasks share, and its judgement."""
    made = []
    for found in _groups(claim, known).values():
        by_distance = sorted(found, key=lambda item: item[0])
        if len({distance for distance, _ in by_distance}) >= FEWEST_TASKS:
            seeds = sorted(set.intersection(*(set(c.seeds()) for _, c in by_distance)))
            made.append((seeds, _at(claim, by_distance)))
    return made


def _groups(claim: Claim, known: Sequence[Setting]) -> dict[str, list[tuple[float, Comparison]]]:
    groups: dict[str, list[tuple[float, Comparison]]] = {}
    for setting in known if claim.trend else ():
        section = setting.section
        distance = claim.distance(section.task)
        if distance is None or not claim.of_task(section.task):
            continue
        measuring = Measuring(claim, section, metric_of(claim, section), setting.cells)
        for arms in pairs(claim, setting):
            protocol = "tuned" if any(_tunable(arm) for arm in arms) else AS_RUN
            who = [section.model, section.scale, section.device, section.precision]
            key = json.dumps([*who, *(arm.name for arm in arms)])
            comparison = Comparison(measuring, setting, protocol, arms)
            groups.setdefault(key, []).append((distance, comparison))
    return groups


def _tunable(arm: Candidate) -> bool:
    return bool(arm.validation) or len(arm.reported) > 1


def _at(claim: Claim, by_distance: Sequence[tuple[float, Comparison]]) -> At:
    def at(seeds: Sequence[int], level: float) -> Judgement:
        judged = [(d, c.among(frozenset(seeds)).judge(level, whole=False)) for d, c in by_distance]
        first = by_distance[0][1]
        model = first.setting.section.model_label
        base = replace(
            judged[0][1], setting=f"{count(len(judged), 'task')} on {model}, by distance",
            measured=f"{judged[0][1].measured}: growth with a unit of distance",
            guards=(), verdict=UNDECIDED, reason="", effect=None, p=None, paper=None,
            cells=tuple(dict.fromkeys(cell for _, j in judged for cell in j.cells)),
        )  # fmt: skip
        table = {d: {p.seed: first.measuring.difference(p) for p in j.pairs} for d, j in judged}
        common = sorted(set.intersection(*(set(by_seed) for by_seed in table.values())))
        if len(common) < FEWEST_SEEDS:
            few = f"{count(len(common), 'seed')} in all tasks; at least {FEWEST_SEEDS} are needed"
            return replace(base, reason=few)
        distances = list(table)
        slopes = [
            float(np.polyfit(distances, [table[d][seed] for d in distances], 1)[0])
            for seed in common
        ]
        effect = paired(slopes).at(level)
        sign = first.measuring.sign
        shown = tuple(Pair(s, sign * v, 0.0) for s, v in zip(common, slopes, strict=True))
        verdict = decide(claim, effect)
        base = replace(
            base, effect=effect, verdict=verdict, p=p_value(claim, effect), pairs=shown,
            reason=reason(claim, verdict, effect),
            seeds_needed=effect.seeds_to_decide(bounds(claim)) if verdict == UNDECIDED else None,
        )  # fmt: skip
        fired = [Guard(g.word, f"{j.setting}: {g.why}") for _, j in judged for g in j.guards]
        if fired:
            why = "; ".join(map(str, fired))
            base = replace(base, guards=tuple(fired), verdict=CANNOT_TELL, reason=why, p=None)
        return base

    return at
