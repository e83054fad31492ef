"""One comparison: two arms of a claim in one setting, from their cells to a verdict.

Cells are paired by seed: the same model, task, settings, steps and rank, each arm at the learning
rate that the protocol gives it (bench.judge.rates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.judge import guards, paper_effects, settings
from bench.judge.claims import Claim
from bench.judge.intervals import (
    LEVEL,
    MANY,
    Effect,
    Pool,
    estimate,
    least_flip,
    paired,
    pool,
    sign_flip,
    with_choice,
    with_examples,
    with_grain,
)
from bench.judge.measures import Measuring, Pair
from bench.judge.rates import AS_RUN, Candidate, Choice, Goodness, choose
from bench.judge.rows import count
from bench.judge.settings import Setting, exposure, later, spread
from bench.judge.verdicts import (
    ALIKE,
    CANNOT_TELL,
    HOLDS,
    REVERSED,
    UNDECIDED,
    UNSETTLED,
    Judgement,
    bounds,
    decide,
    p_value,
    reason,
)

FEWEST_SEEDS = 3
ALL_RATES = "all rates"
OFTEN = 0.5  # another rate would more likely than not have been chosen: rates unsettled


@dataclass
class Comparison:
    """Two arms (or one and a number) of a claim in one setting, under one protocol."""

    measuring: Measuring
    setting: Setting
    protocol: str
    arms: list[Candidate]
    widening: float | None = None  # of the interval for the choice of rates, where it is known
    kept: frozenset[int] | None = None  # the seeds that count; None: all
    left_out: tuple[str, ...] = ()  # rates and seeds, and why
    _chosen: dict[tuple[Candidate, Goodness], Choice] = field(default_factory=dict)
    _good: Goodness | None = None
    _fewer: dict[frozenset[int], Comparison] = field(default_factory=dict)  # among these seeds

    @property
    def claim(self) -> Claim:
        return self.measuring.claim

    @classmethod
    def of(
        cls,
        measuring: Measuring,
        setting: Setting,
        protocol: str,
        arms: Sequence[Candidate],
        first: int | None = None,
    ) -> Comparison:
        """Where a rate is chosen among the reported cells, or all count: each arm on its grid.

        first: how many of the lowest seeds say what the grid is; None: all.
        """
        kept, said = [], list[str]()
        for arm in arms:
            several = len(arm.reported) > 1 and not arm.validation
            if several and protocol in ("tuned", ALL_RATES):
                arm, words = arm.on_grid(first)
                said += words
            kept.append(arm)
        return cls(measuring, setting, protocol, kept, left_out=tuple(said))

    def seeds(self) -> list[int]:
        """That all arms ended."""
        ended = ({cell.seed for cell in arm.cells if cell.ended} for arm in self.arms)
        return sorted(set.intersection(*ended))

    def among(self, seeds: frozenset[int]) -> Comparison:
        """With these seeds alone."""
        kept = [arm.among(seeds) for arm in self.arms]
        measuring = self.measuring.among(seeds)
        return Comparison(
            measuring, self.setting, self.protocol, kept, self.widening, seeds, self.left_out
        )

    def judge(self, level: float = LEVEL, *, whole: bool = True) -> Judgement:
        """whole: with all that is said beside the verdict."""
        base = replace(self._base(), flags=self.left_out)
        if self.protocol == ALL_RATES:
            a, b = self.arms[0], self.arms[-1]
            return self._judged(base, self.measuring.of_arms(a, b), [], level, whole)
        choices = [self.choice(arm) for arm in self.arms]
        how, flags = self._how_chosen()
        words = [c.name + choice.words for c, choice in zip(self.arms, choices, strict=True)]
        base = replace(
            base,
            arms=(words[0], words[1] if len(words) > 1 else self.claim.b.words),
            flags=(*base.flags, *(flag for c in choices for flag in c.flags), *flags),
            rates=tuple(how + [_how(c, o) for c, o in zip(self.arms, choices, strict=True)]),
            best_of=tuple((c.name, self._shown(choice.best_of)) for c, choice in
                          zip(self.arms, choices, strict=True) if len(choice.best_of) > 1),
            best_by=self._chosen_by,
        )  # fmt: skip
        problems = [choice.problem for choice in choices if choice.problem]
        if problems:
            return replace(base, reason="; ".join(dict.fromkeys(problems)))
        if lost := self._lost(choices):
            base = replace(base, flags=(*base.flags, *lost))
        return self._judged(base, self._pairs(choices), choices, level, whole)

    def choice(self, arm: Candidate) -> Choice:
        return self._choose(arm, self.good)

    def differences(self) -> dict[int, float]:
        """Of each seed, each arm at its rate; positive where the first arm is the better one."""
        pairs = self._pairs([self.choice(arm) for arm in self.arms])
        return {pair.seed: self.measuring.difference(pair) for pair in pairs}

    def _choose(self, arm: Candidate, good: Goodness) -> Choice:
        if (arm, good) not in self._chosen:
            known = spread(arm, good) if arm.validation else None
            task = self.setting.section.task
            self._chosen[arm, good] = choose(arm, self.protocol, task, good, known)
        return self._chosen[arm, good]

    @property
    def good(self) -> Goodness:
        """What rates are chosen by: the endpoint, or what the cells were run by.

        Where an arm was not run at its best rate by the endpoint, the main metric chooses for all
        arms: its mean over the scored steps, else its end.
        """
        if self._good is None:
            ways = [
                self.measuring.learned,
                self.measuring.learned_along,
                self.measuring.learned_end,
            ]
            run = (way for way in ways if all(self._choose(a, way).cells for a in self.arms))
            self._good = next(run, ways[0])
        return self._good

    def _shown(self, goods: Sequence[float]) -> tuple[float, ...]:
        """What rates are chosen by, more is better, in the unit that a reader knows it in."""
        own, claim = self.good == self.measuring.learned, self.claim
        if own and claim.endpoint.of.learning and claim.endpoint.kind != "good_range":
            values = [self.measuring.sign * good for good in goods]
            return tuple(math.exp(v) if claim.ratio else v for v in values)
        found = self.setting.section.metrics.get(self.measuring.learned_metric)
        sign = -1 if found is not None and not found.higher_is_better else 1
        return tuple(sign * good for good in goods)

    @property
    def _chosen_by(self) -> str:
        """What rates are chosen by, in words."""
        measuring, endpoint = self.measuring, self.claim.endpoint
        if self.good == measuring.learned and endpoint.of.learning:
            return measuring.words
        metric = measuring.learned_metric.replace("_", " ")
        along = self.good == measuring.learned_along
        return f"{metric}, mean over the scored steps" if along else f"{metric} at the end"

    def _how_chosen(self) -> tuple[list[str], list[str]]:
        """How rates were found, where that isn't said arm by arm: plain words, and flags."""
        if self.protocol == AS_RUN:
            tuned = self.claim.endpoint.of.tuned and len(self.arms) > 1
            return ["each arm at the one learning rate that it was run with: not tuned"] * tuned, []
        if self.good == self.measuring.learned:
            return [], []
        flag = f"rates chosen by {self._chosen_by}: not all were run at their best by the endpoint"
        return [], [flag]

    def _base(self) -> Judgement:
        claim, measuring = self.claim, self.measuring
        ranks = [c.row.rank for c in self.arms if c.row.rank is not None]
        where = self.setting.section.title + (f", r={ranks[0]}" if ranks else "")
        names = [c.name for c in self.arms]
        return Judgement(
            claim,
            where + (f", over {claim.over}" if claim.over else ""),
            self.protocol,
            arms=(names[0], names[1] if len(names) > 1 else claim.b.words),
            unit=measuring.unit,
            measured=measuring.words,
            higher_is_better=measuring.higher_is_better,
            noise=measuring.noise(self.setting.twins),
            paper=paper_effects.of(claim, measuring.metric, [c.row for c in self.arms]),
            section=self.setting.section.key,
        )

    def _pairs(self, choices: Sequence[Choice], judged: float | None = None) -> list[Pair]:
        first, last = choices[0].cells, choices[-1].cells
        made = []
        for seed in sorted(first.keys() & last.keys()):
            found = self.measuring.pair(seed, first[seed], last[seed], judged)
            if found is not None:
                made.append(found)
        return made

    def _lost(self, choices: Sequence[Choice]) -> list[str]:
        """Seeds that count for nothing, or as the worst, and why."""
        said = []
        for arm, choice in zip(self.arms, choices, strict=True):
            for seed, cell in sorted(choice.cells.items()):
                counts = self.measuring.number(cell)[0] is not None
                if cell.status == "diverged" and counts:
                    said.append(f"seed {seed} of {arm.name} diverged: it counts as the worst")
                elif cell.ok and not counts and self.measuring.by_cell:
                    said.append(f"seed {seed} of {arm.name} left out: not measured")
                elif not cell.ok:
                    said.append(f"seed {seed} of {arm.name} {cell.status}: left out with its pair")
        alone = sorted(choices[0].cells.keys() ^ choices[-1].cells.keys())
        if alone:
            said.append(f"left out for want of a partner: seed {', '.join(map(str, alone))}")
        return said

    # ------------------------------------------------------------------ the verdict

    def _judged(
        self, base: Judgement, found: list[Pair], choices: list[Choice], level: float, whole: bool
    ) -> Judgement:
        cells = tuple(dict.fromkeys(cell.cell for pair in found for cell in pair.cells))
        base = replace(base, cells=cells, pairs=tuple(found), diverged=self._diverged(choices))
        fired, flags = guards.budgets(self.claim, self.arms)
        fired += guards.of_values(self.measuring, found)
        if lost := guards.diverged(self.measuring, choices):
            fired.append(lost)
        base = replace(base, flags=(*base.flags, *flags), guards=tuple(fired))
        if len(found) < FEWEST_SEEDS:
            seeds = count(len(found), "paired seed" if len(self.arms) > 1 else "seed")
            few = f"{seeds}; at least {FEWEST_SEEDS} are needed"
            more = self.commands(FEWEST_SEEDS - len(found))
            return replace(base, reason=few, guards=(), commands=more)
        if any(guard.word == "no ratio" for guard in fired):
            return replace(base, verdict=CANNOT_TELL, reason=str(fired[0]))
        effect = self._estimate(found, choices).at(level)
        return self._decided(base, effect, choices, whole)

    def _decided(
        self, base: Judgement, effect: Effect, choices: list[Choice], whole: bool
    ) -> Judgement:
        verdict, fired = decide(self.claim, effect), list(base.guards)
        alike = verdict in ALIKE or (verdict == HOLDS and self.claim.direction != "better")
        tuned = choices if self.claim.endpoint.of.tuned else []
        if tuned and (edge := guards.edge(effect.effect, tuned, alike=alike)):
            fired.append(edge)
        bounded = guards.bounded(base.pairs) if alike else None
        if verdict in (HOLDS, REVERSED):
            bounded = bounded or guards.flattered(self.measuring, base.pairs, effect.effect)
        if bounded:
            fired.append(bounded)
        edges = [choice.edge for choice in tuned if choice.edge]
        flags = (*base.flags, *(e for e in dict.fromkeys(edges) if not any(
            e in guard.why for guard in fired)))  # fmt: skip
        made = replace(
            base, verdict=verdict, reason=reason(self.claim, verdict, effect), effect=effect,
            p=p_value(self.claim, effect), guards=tuple(dict.fromkeys(fired)), flags=flags,
        )  # fmt: skip
        if made.noise is not None and abs(effect.effect) <= made.noise.largest:
            made = replace(made, flags=(*made.flags, "no larger than the noise floor"))
        if fired:
            why = "; ".join(map(str, dict.fromkeys(fired)))
            made = replace(made, verdict=CANNOT_TELL, reason=why, p=None)
        elif unsettled := self.unsettled():
            made = replace(made, verdict=UNSETTLED, reason=unsettled, p=None)
        return self._whole(made, choices) if whole else made

    def unsettled(self) -> str:
        """Why the arms' rates are not settled; empty where they are."""
        tuned = self.claim.endpoint.of.tuned and self.protocol != ALL_RATES
        if len(self.arms) < 2 or not tuned:
            return ""
        choices = [self.choice(arm) for arm in self.arms]
        if self.protocol == "tuned" and (unlike := choices[0].search.differs(choices[1].search)):
            searches = ", ".join(
                f"{arm.name} {count(c.search.trials, 'trial')} in {c.search.octaves:.1f} octaves, "
                f"{count(len(c.search.seeds), 'validation seed')}"
                for arm, c in zip(self.arms, choices, strict=True)
            )
            return f"unequal {', '.join(unlike)}: {searches}"
        often = [
            f"{arm.name} {choice.another:.0%}"
            for arm, choice in zip(self.arms, choices, strict=True)
            if choice.another is not None and choice.another > OFTEN and not choice.how
        ]
        if not often:
            return ""
        return f"validation would have chosen another rate more often than not: {', '.join(often)}"

    def _estimate(self, found: Sequence[Pair], choices: Sequence[Choice]) -> Effect:
        differences = [self.measuring.difference(pair) for pair in found]
        by_others = any(choice.how for choice in choices)
        pooled = None
        if len(choices) > 1 and not by_others:
            pooled = self._pool([pair.seed for pair in found])
        own = estimate(differences, pooled)
        if by_others and self.widening is not None:
            own = replace(own, error=own.error * self.widening)
        elif by_others:
            plain = own.error
            own = with_choice(own, self.leaving_out([pair.seed for pair in found]))
            self.widening = own.error / plain if plain > 0 else 1.0
        own = with_grain(own, self.measuring.grain(found))
        examples = self.measuring.examples(found)
        return own if examples is None else with_examples(own, examples[0], shared=examples[1])

    def leaving_out(self, seeds: Sequence[int]) -> list[float]:
        """The effect without each seed in turn, rates chosen anew by those that are left."""
        left = (self.without(seed, seeds).differences() for seed in seeds)
        return [float(np.mean([*d.values()])) if d else math.nan for d in left]

    def without(self, seed: int, seeds: Sequence[int]) -> Comparison:
        """With all of the seeds but this one."""
        left = frozenset(seeds) - {seed}
        if left not in self._fewer:
            self._fewer[left] = self.among(left)
        self._fewer[left].widening = self.widening
        return self._fewer[left]

    def _pool(self, seeds: Sequence[int]) -> Pool | None:
        """The residual over all arms of the setting that have these seeds, at their rates."""
        kind = self.claim.endpoint.kind
        if self.claim.over or kind in ("curve", "forgetting_at_learned"):
            return None
        table = []
        alike = [c for c in self.setting.candidates if exposure(c) == exposure(self.arms[0])]
        others = [c for c in alike if all(c.row is not a.row for a in self.arms)]
        if (kept := self.kept) is not None:
            others = [c.among(kept) for c in others]
        if self.protocol == AS_RUN:  # of an arm with several rates it doesn't say at which
            others = [c for c in others if len(c.reported) == 1]
        for arm in [*self.arms, *others]:
            cells = self.choice(arm).cells
            numbers = [self.measuring.number(cells[s]) for s in seeds if s in cells]
            values = [v for v, bound in numbers if v is not None and not bound]
            if len(values) == len(seeds):
                table.append(values)
        return pool(np.array(table)) if len(table) > 2 else None

    # ------------------------------------------------------------------ what is said beside

    def _whole(self, made: Judgement, choices: list[Choice]) -> Judgement:
        effect = made.effect
        assert effect is not None
        needed = None
        if made.verdict == UNDECIDED:
            needed = effect.seeds_to_decide(bounds(self.claim))
        late = later([cell for pair in made.pairs for cell in pair.cells])
        flip = sign_flip(effect.values)
        flags = (*made.flags, late) if late else made.flags
        if flip is not None and made.decided and self.claim.direction == "better":
            disagree = flip > effect.level >= least_flip(effect.n)
            disagree = disagree and made.verdict in (HOLDS, REVERSED)
            flags = (*flags, f"flipping signs gives p = {flip:.2g}") if disagree else flags
        return replace(
            made, seeds_needed=needed, p_flip=flip, flags=flags,
            others=self._others(choices, effect.level),
            commands=self.commands((needed or 0) - effect.n),
            without_one=self._without_one(made),
        )  # fmt: skip

    def _others(self, choices: list[Choice], level: float) -> tuple[tuple[str, Effect], ...]:
        """At the targets or shares that are not judged."""
        made = []
        for other in self.claim.endpoint.others if choices else ():
            found = self._pairs(choices, other)
            if len(found) >= FEWEST_SEEDS:
                apart = [self.measuring.difference(pair) for pair in found]
                bound = sum(any(pair.censored) for pair in found)
                words = f"{other:g}" + (f" ({bound} of {len(found)} bounds only)" if bound else "")
                made.append((words, paired(apart).at(level)))
        return tuple(made)

    def _without_one(self, made: Judgement) -> str:
        """What the verdict would be without each seed in turn, rates chosen anew."""
        seeds = [pair.seed for pair in made.pairs]
        if not FEWEST_SEEDS < len(seeds) <= MANY:
            return ""
        others: dict[str, list[int]] = {}
        for seed in seeds:
            verdict = self.without(seed, seeds).judge(whole=False).verdict
            if verdict != made.verdict:
                others.setdefault(verdict, []).append(seed)
        said = [
            f"without seed {' or '.join(map(str, dropped))} it would be: {verdict}"
            for verdict, dropped in sorted(others.items())
        ]
        return "; ".join(said) or "the same without any one seed"

    def _diverged(self, choices: Sequence[Choice]) -> tuple[tuple[int, int], ...]:
        return tuple(
            (sum(cell.status == "diverged" for cell in choice.cells.values()), len(choice.cells))
            for choice in choices
        )

    def commands(self, more: int) -> tuple[str, ...]:
        """That add so many seeds: at all rates where each seed is judged by the others' choice."""
        arms = []
        for arm in self.arms:
            every = self.protocol == ALL_RATES or self.choice(arm).how
            chosen = [*self.choice(arm).cells.values()] if not every else []
            arms.append([*arm.reported.values()] if every else [chosen])
        return settings.commands(arms, more)


def _how(arm: Candidate, choice: Choice) -> str:
    search = choice.search
    if search.trials < 2:
        return ""
    said = f"{arm.name}: best of {search.trials} trials over {search.octaves:.1f} octaves"
    if choice.how:
        said += f", {choice.how}"
        if choice.another:
            said += f"; {choice.another:.0%} of the seeds at another rate than the usual"
    elif search.seeds:
        said += f", on {count(len(search.seeds), 'validation seed')}"
        if choice.another is not None:
            said += f"; another rate would have been chosen in {choice.another:.0%} of draws"
    return said
