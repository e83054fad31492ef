"""Claims of a trend: whether the difference between the arms grows with a task's distance.

For each seed a straight line through the differences over the tasks; what is judged is its slope,
a seed each, as any other effect. The interval is over seeds, for these tasks: other tasks may lie
otherwise, and the farthest has the most say, so the slope without each task is told beside it.

A trend waits until all its tasks have cells. Of the guards (guards.py) two are read differently:

floor   near the base there may be nothing to learn. It counts for a task that is farther than one
        that was learned, or where none was
edge    counts where a better rate would make the trend smaller: where the second arm's lies at an
        edge on a far task, or the first's on a near one (either's, where little differs). Where
        there was nothing to learn, and training only did harm, a lower rate leads to the untouched
        model, and the lower edge says nothing
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.judge.claims import Claim
from bench.judge.comparison import FEWEST_SEEDS, Comparison
from bench.judge.guards import Guard
from bench.judge.intervals import LEVEL, Effect, paired, with_choice
from bench.judge.measures import Measuring, Pair
from bench.judge.rates import AS_RUN, Candidate
from bench.judge.rows import Section, count
from bench.judge.settings import Setting, metric_of, pairs
from bench.judge.verdicts import (
    ALIKE,
    CANNOT_TELL,
    HOLDS,
    UNDECIDED,
    UNSETTLED,
    Judgement,
    bounds,
    decide,
    p_value,
    reason,
)

At = Callable[[Sequence[int], float], Judgement]


def judge(claim: Claim, known: Sequence[Setting]) -> list[Judgement]:
    """The trend for each model and pair of arms; none for claims that are of no trend."""
    return [at(seeds, LEVEL) for seeds, at in primary(claim, known)]


def primary(
    claim: Claim, known: Sequence[Setting], first: int | None = None
) -> list[tuple[list[int], At]]:
    """For each model and pair of arms the seeds that all tasks share, and its judgement.

    first: how many of the lowest seeds say what the grid of rates is, as a first look has them.
    """
    made: list[tuple[list[int], At]] = []
    for found in _groups(claim, known, first):
        if not lacking(claim, [c.setting.section.task for c in found]):
            trend = _Trend(claim, tuple(found))
            made.append((trend.seeds(), trend))
    return made


def lacking(claim: Claim, tasks: Sequence[str]) -> str:
    """Why these tasks are no trend yet: those without cells, or with several settings."""
    found = {p: [t for t in tasks if claim.pattern(t) == p] for p in claim.trend}
    missing = [pattern for pattern, those in found.items() if not those]
    if missing:
        return f"no cells of {', '.join(missing)}, of {count(len(found), 'task')} by distance"
    twice = [pattern for pattern, those in found.items() if len(those) > 1]
    return f"several settings of {', '.join(twice)}: a trend takes one of each" if twice else ""


def reach(claim: Claim, tasks: Sequence[str]) -> float:
    """The square root of the distances' sum of squares: a slope spreads by a gap's, over this."""
    distances = np.array([claim.distance(task) for task in tasks], float)
    return float(np.sqrt(((distances - distances.mean()) ** 2).sum()))


def waits(claim: Claim, known: Sequence[Setting]) -> str:
    """Why there is no trend, where some of its tasks have cells; empty where none has."""
    said = [lacking(claim, [c.setting.section.task for c in g]) for g in _groups(claim, known)]
    return "; ".join(dict.fromkeys(filter(None, said)))


def _groups(
    claim: Claim, known: Sequence[Setting], first: int | None = None
) -> list[list[Comparison]]:
    """Comparisons of one model and pair of arms, the nearest task first."""
    groups: dict[str, list[Comparison]] = {}
    for setting in known if claim.trend else ():
        section = setting.section
        if claim.distance(section.task) is None or not claim.of_task(section.task):
            continue
        measuring = Measuring(claim, section, metric_of(claim, section), setting.cells)
        for arms in pairs(claim, setting):
            protocol = "tuned" if any(_tunable(arm) for arm in arms) else AS_RUN
            groups.setdefault(who(section, arms), []).append(
                Comparison.of(measuring, setting, protocol, arms, first)
            )
    return [sorted(group, key=lambda c: _distance(claim, c)) for group in groups.values()]


def who(section: Section, arms: Sequence[Candidate]) -> str:
    """What a trend's tasks share: the model, where it ran, and the arms, whatever their names."""
    where = [section.model, section.scale, section.device, section.precision]
    return json.dumps([*where, *map(_kind, arms)], default=repr)


def _kind(arm: Candidate) -> list[object]:
    """What an arm is in each of the tasks, however it is called beside others there."""
    settings = arm.row.settings.items()
    own = sorted((k, v) for k, v in settings if not k.startswith("trainer."))
    return [arm.row.method, arm.row.rank, own]


def _distance(claim: Claim, comparison: Comparison) -> float:
    distance = claim.distance(comparison.setting.section.task)
    assert distance is not None
    return distance


def _tunable(arm: Candidate) -> bool:
    return bool(arm.validation) or len(arm.reported) > 1


@dataclass(frozen=True)
class _Trend:
    """The comparisons of a trend; called with some of its seeds and a level, what they say."""

    claim: Claim
    comparisons: tuple[Comparison, ...]

    @property
    def distances(self) -> list[float]:
        return [_distance(self.claim, c) for c in self.comparisons]

    @property
    def tasks(self) -> list[str]:
        return [c.setting.section.task for c in self.comparisons]

    def seeds(self) -> list[int]:
        """That all tasks share."""
        return sorted(set.intersection(*(set(c.seeds()) for c in self.comparisons)))

    def among(self, seeds: frozenset[int]) -> _Trend:
        return _Trend(self.claim, tuple(c.among(seeds) for c in self.comparisons))

    def __call__(self, seeds: Sequence[int], level: float) -> Judgement:
        return self.among(frozenset(seeds)).judged(level)

    def judged(self, level: float) -> Judgement:
        each = [c.judge(level, whole=False) for c in self.comparisons]
        base = self._base(each)
        if unjudged := [f"{t}: {j.reason}" for t, j in self._by_task(each) if j.effect is None]:
            return replace(base, reason="; ".join(unjudged))
        gaps = [c.differences() for c in self.comparisons]
        seeds = sorted(set.intersection(*map(set, gaps)))
        if len(seeds) < FEWEST_SEEDS:
            few = f"{count(len(seeds), 'seed')} in all tasks; at least {FEWEST_SEEDS} are needed"
            return replace(base, reason=few)
        effect = self._effect(gaps, seeds).at(level)
        sign = self.comparisons[0].measuring.sign
        verdict = decide(self.claim, effect)
        base = replace(
            base, effect=effect, verdict=verdict, p=p_value(self.claim, effect),
            pairs=tuple(Pair(s, sign * v, 0.0) for s, v in zip(seeds, effect.values, strict=True)),
            reason=reason(self.claim, verdict, effect),
            seeds_needed=effect.seeds_to_decide(bounds(self.claim))
            if verdict == UNDECIDED else None,
            gaps=tuple(
                (d, c.setting.section.task_label, self._gap(c, gap, seeds).at(level))
                for d, c, gap in zip(self.distances, self.comparisons, gaps, strict=True)
            ),
            without_one=self._without_each(gaps, seeds, level),
        )  # fmt: skip
        fired = self._guards(each, effect, verdict)
        if fired:
            why = "; ".join(map(str, fired))
            return replace(base, guards=tuple(fired), verdict=CANNOT_TELL, reason=why, p=None)
        asked = [(c.setting.section.task, c.unsettled()) for c in self.comparisons]
        if unsettled := [f"{task}: {why}" for task, why in asked if why]:
            return replace(base, verdict=UNSETTLED, reason="; ".join(unsettled), p=None)
        return base

    def _by_task(self, each: Sequence[Judgement]) -> list[tuple[str, Judgement]]:
        return list(zip(self.tasks, each, strict=True))

    def _base(self, each: Sequence[Judgement]) -> Judgement:
        """All that is said but the numbers; what belongs to one task is said with its name."""
        first = self.comparisons[0]
        model = first.setting.section.model_label
        names = [arm.name for arm in first.arms]
        diverged = [j.diverged for j in each if j.diverged]
        return replace(
            each[0],
            setting=f"{count(len(each), 'task')} on {model}, by distance",
            measured=f"{each[0].measured}: growth with a unit of distance",
            arms=(names[0], names[1] if len(names) > 1 else self.claim.b.words),
            flags=tuple(f"{task}: {flag}" for task, j in self._by_task(each) for flag in j.flags),
            rates=tuple(f"{t}: {said}" for t, j in self._by_task(each) for said in j.rates if said),
            cells=tuple(dict.fromkeys(cell for j in each for cell in j.cells)),
            diverged=tuple(
                (sum(k for k, _ in arm), sum(n for _, n in arm))
                for arm in zip(*diverged, strict=True)
            ),
            guards=(), verdict=UNDECIDED, reason="", effect=None, p=None, paper=None, noise=None,
            pairs=(), best_of=(), best_by="", commands=(),
        )  # fmt: skip

    # ------------------------------------------------------------------ the slope

    def _slopes(
        self, gaps: Sequence[Mapping[int, float]], seeds: Sequence[int], leave_out: int = -1
    ) -> list[float]:
        """Of each seed; without the task of that number."""
        kept = [i for i in range(len(gaps)) if i != leave_out]
        at = [self.distances[i] for i in kept]
        return [float(np.polyfit(at, [gaps[i][seed] for i in kept], 1)[0]) for seed in seeds]

    def _effect(self, gaps: Sequence[Mapping[int, float]], seeds: Sequence[int]) -> Effect:
        """The slope, widened for the choice of rates."""
        own = paired(self._slopes(gaps, seeds))
        if not self._chosen:
            return own
        without = []
        for seed in seeds:
            fewer = [c.without(seed, seeds).differences() for c in self.comparisons]
            common = sorted(set.intersection(*map(set, fewer)))
            without.append(float(np.mean(self._slopes(fewer, common))) if common else math.nan)
        return with_choice(own, without)

    def _gap(self, of: Comparison, gap: Mapping[int, float], seeds: Sequence[int]) -> Effect:
        """Of one task, widened likewise."""
        own = paired([gap[seed] for seed in seeds])
        return with_choice(own, of.leaving_out(seeds)) if self._chosen else own

    @property
    def _chosen(self) -> bool:
        """Whether a seed is judged at what the others choose."""
        return any(c.choice(arm).how for c in self.comparisons for arm in c.arms)

    def _without_each(
        self, gaps: Sequence[Mapping[int, float]], seeds: Sequence[int], level: float
    ) -> str:
        said = []
        for i, task in enumerate(self.tasks):
            left = paired(self._slopes(gaps, seeds, i)).at(level)
            said.append(f"without {task} {left.effect:+.3g} [{left.low:+.3g} to {left.high:+.3g}]")
        return f"{'; '.join(said)} ({count(len(seeds), 'seed')}, {1 - level:.3g})"

    # ------------------------------------------------------------------ guards

    def _guards(self, each: Sequence[Judgement], effect: Effect, verdict: str) -> list[Guard]:
        """Those of the tasks that count for the trend, with the task's name."""
        unlearned = {t for t, j in self._by_task(each) if any(g.word == "floor" for g in j.guards)}
        learned = [d for d, t in zip(self.distances, self.tasks, strict=True) if t not in unlearned]
        near = {
            t for d, t in zip(self.distances, self.tasks, strict=True)
            if t in unlearned and learned and d < min(learned)
        }  # fmt: skip
        made = []
        for task, judgement in self._by_task(each):
            for guard in judgement.guards:
                if guard.word == "edge" or (guard.word == "floor" and task in near):
                    continue
                made.append(Guard(guard.word, f"{task}: {guard.why}"))
        return [*made, *self._edges(effect, verdict, near)]

    def _edges(self, effect: Effect, verdict: str, near: set[str]) -> list[Guard]:
        alike = verdict in ALIKE or (verdict == HOLDS and self.claim.direction != "better")
        middle = float(np.mean(self.distances))
        said = []
        for distance, comparison in zip(self.distances, self.comparisons, strict=True):
            task = comparison.setting.section.task
            for i, arm in enumerate(comparison.arms):
                choice = comparison.choice(arm)
                if not choice.edge or (task in near and choice.lowest):
                    continue
                # A better rate moves this task's gap towards the arm, and turns the line with it.
                turns = (distance - middle) * (1 if i == 0 else -1)
                if alike or turns * effect.effect < 0:
                    said.append(Guard("edge", f"{task}: {choice.edge}"))
        return said
