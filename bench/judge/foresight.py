"""What a planned grid could decide of the claims, before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench.judge import foreign, guards, trends
from bench.judge.cells import Collection, Result, flatten, split_of
from bench.judge.claims import Claim
from bench.judge.comparison import FEWEST_SEEDS
from bench.judge.intervals import POWER
from bench.judge.judging import judge, missing_arms
from bench.judge.primary import Family, Look
from bench.judge.rates import Candidate, search
from bench.judge.rows import count
from bench.judge.settings import Setting, pairs, settings

# Standard deviation of one value between seeds, where no earlier records tell it: log steps to a
# target in the committed study.
SPREADS = {"to_target": 0.045}
SUPPOSED = (0.05, 0.2)  # spreads of a ratio that stand in where nothing is known

# What a cell must have been told, so that the endpoint is in its record: a key of its
# configuration, and what it says where that is lacking.
_NEEDS = {
    "singular_values_above_0.1": ("analysis", "spectrum"),
    "merge_error": ("analysis", "merge_audit"),
    "forgetting": ("task", "forgetting"),
    "forgetting_at_equal_learning": ("task", "forgetting"),
    "forgetting_at_learned": ("task", "forgetting"),
}


@dataclass(frozen=True)
class Foresight:
    """Whether a design could decide a claim, and why."""

    claim: Claim
    setting: str
    possible: bool
    words: str
    primary: bool = False

    def __str__(self) -> str:
        verdict = "can be decided" if self.possible else "can never be decided"
        where = f"{self.setting}: " if self.setting else ""
        return f"{self.claim.id}: {verdict}\n    {self.claim.says}\n    {where}{self.words}"


def foresee(
    claims: Sequence[Claim],
    design: Sequence[Mapping[str, Any]],
    found: Collection | None = None,
    family: Family | None = None,
    trainable: Sequence[int | None] = (),
) -> list[Foresight]:
    """For each claim that the design has cells for, whether these could decide it.

    design: the resolved configuration of each planned cell. trainable: how many parameters each
    trains, where that is known. found: earlier records, whose spread between seeds is taken for
    what is to come. family: the primary comparisons, with Holm's correction over them and their
    looks. A claim on other tasks and settings is passed over.
    """
    numbers = trainable or [None] * len(design)
    planned = enumerate(zip(design, numbers, strict=True))
    # Perturbed cells tell the noise floor, and are no seeds.
    cells = [_planned(i, c, n) for i, (c, n) in planned if not c.get("perturb")]
    family = family or Family()
    known = _spreads([*family.claims, *claims], found)
    said: list[Foresight] = []
    for claim in [*family.claims, *claims]:
        if not any(claim.about(cell) for cell in cells):
            continue
        primary = claim in family.claims
        plan = _Plan(claim, design, known.get(claim.id), family if primary else Family())
        several = settings(Collection("", cells), claim.over)
        made = [*plan.trend(several)] if claim.trend else [*plan.comparisons(several)]
        lack = missing_arms(claim, cells) or (
            "no two arms that may be compared (steps, examples a step and rank alike)"
        )
        made = made or [("", False, lack)]
        said += [Foresight(claim, *what, primary) for what in made]
    return said


def _planned(number: int, config: Mapping[str, Any], trainable: int | None) -> Result:
    method, task, model = (config.get(part) or {} for part in ("method", "task", "model"))
    settings_ = flatten(method) | {
        f"trainer.{key}": value for key, value in flatten(config.get("trainer") or {}).items()
    }
    name, seed = str(method.get("name")), int(config.get("seed") or 0)
    rank = None if name == "fft" else method.get("rank")
    return foreign.bare(
        Path(f"{number}.planned"), number, method=name, rank=rank,
        learning_rate=method.get("learning_rate"), seed=seed,
        settings={k: v for k, v in settings_.items() if v is not None},
        task=str(task.get("name")), task_settings=flatten(task), model=str(model.get("name")),
        task_label=str(task.get("label") or task.get("name")),
        model_label=str(model.get("label") or model.get("name")),
        scale=str(config.get("scale_name") or "laptop"), split=split_of(seed, config),
        label=foreign.LABELS.get(name, name), trainable=trainable,
    )  # fmt: skip


def _spreads(claims: Sequence[Claim], found: Collection | None) -> dict[str, float]:
    """Of one value between seeds, by claim: from records where there are any."""
    known = {
        c.id: SPREADS[c.endpoint.kind]
        for c in claims
        if c.endpoint.kind in SPREADS and not c.trend  # a slope spreads otherwise
    }
    seen: dict[str, float] = {}
    for judgement in judge(claims, found) if found is not None else ():
        effect = judgement.effect
        if effect is not None and effect.error > 0:
            arms = 2 if judgement.claim.b.value is None else 1
            spread = effect.error * math.sqrt(effect.n / arms)
            seen[judgement.claim.id] = max(spread, seen.get(judgement.claim.id, 0.0))
    return known | seen


What = tuple[str, bool, str]  # setting, whether it could be decided, why


@dataclass(frozen=True)
class _Plan:
    """One claim and the design; `spread` of one value between seeds, None where not known."""

    claim: Claim
    design: Sequence[Mapping[str, Any]]
    spread: float | None
    family: Family

    def comparisons(self, known: Sequence[Setting]) -> Iterator[What]:
        for setting in known:
            for arms in pairs(self.claim, setting):
                seeds = len(set.intersection(*(arm.seeds for arm in arms)))
                yield (setting.section.title, *self._of(arms, seeds))

    def trend(self, known: Sequence[Setting]) -> Iterator[What]:
        """The trend is one comparison over all its tasks, with the seeds that all of them have."""
        found = [(s, arms) for s in known for arms in pairs(self.claim, s)
                 if self.claim.distance(s.section.task) is not None]  # fmt: skip
        by_arms: dict[str, list[tuple[Setting, list[Candidate]]]] = {}
        for setting, arms in found:
            by_arms.setdefault(trends.who(setting.section, arms), []).append((setting, arms))
        for several in by_arms.values():
            tasks = [s.section.task for s, _ in several]
            model = several[0][0].section.model_label
            where = f"{count(len(tasks), 'task')} on {model}, by distance"
            if lack := trends.lacking(self.claim, tasks):
                yield where, False, lack
                continue
            seeds = len(set.intersection(*(a.seeds for _, arms in several for a in arms)))
            for _, arms in several:
                possible, words = self._of(arms, seeds, trends.reach(self.claim, tasks))
                if not possible:
                    break
            yield where, possible, words

    def _of(self, arms: Sequence[Candidate], seeds: int, reach: float = 1.0) -> tuple[bool, str]:
        """reach: by how much a trend spreads less between seeds than a value does."""
        if never := self._never(arms, seeds):
            return False, never
        rates = search(arms[0]).trials
        words = f"{count(seeds, 'seed')}, {count(rates, 'rate')} an arm"
        if rates == 1 and self.claim.endpoint.of.tuned:
            words += ", so as run, not tuned"
        look = self._look(seeds)
        assert look is not None
        seeds, among = look.seeds or seeds, max(1, len(self.family.claims))
        if among > 1:
            words += f", one of {among} primary comparisons"
        if look.seeds:
            words += f", judged with {look.seeds} at level {look.level:g}"
        return self._size(words, len(arms), seeds, look.level / among, reach)

    def _never(self, arms: Sequence[Candidate], seeds: int) -> str:
        """Why no result could decide it; empty where some could."""
        claim = self.claim
        if seeds < FEWEST_SEEDS:
            return f"{count(seeds, 'shared seed')}; at least {FEWEST_SEEDS} are needed"
        if self._look(seeds) is None:
            first = self.family.looks[0].seeds or 0
            return f"{seeds} of the {count(first, 'seed')} of the first look"
        if claim.direction == "equal" and claim.margin == 0:
            return "nothing can be shown to be equal by a margin of 0"
        if fired := guards.budgets(claim, arms)[0]:
            return fired[0].why
        if lack := self._unmeasured(arms):
            return lack
        return self._unsettled(arms) if claim.endpoint.kind != "good_range" else _too_few(arms)

    def _unsettled(self, arms: Sequence[Candidate]) -> str:
        """The rates of the arms: looked for alike, and with one that lies at no edge."""
        if not self.claim.endpoint.of.tuned:
            return ""
        looked = [search(arm) for arm in arms]
        if unlike := looked[0].differs(looked[-1]):
            each = ", ".join(
                f"{arm.name} {count(s.trials, 'trial')} over {s.octaves:.1f} octaves"
                for arm, s in zip(arms, looked, strict=True)
            )
            return f"rates unsettled: unequal {', '.join(unlike)} ({each})"
        if looked[0].trials == 2:
            return "the best of two rates always lies at an edge of its grid: three are needed"
        return ""

    def _unmeasured(self, arms: Sequence[Candidate]) -> str:
        """What no cell would write into its record."""
        configs = [self.design[int(cell.file.stem)] for arm in arms for cell in arm.cells]
        kind = self.claim.endpoint.kind
        part, key = _NEEDS.get(kind, ("", ""))
        if part and not any((config.get(part) or {}).get(key) for config in configs):
            return f"no cell would measure it: {part}.{key} is not set"
        if kind == "forgetting_at_learned" and not any(
            (config.get("trainer") or {}).get(key)
            for config in configs
            for key in ("score_at_learned", "score_steps")
        ):
            return "no cell is scored along its run: trainer.score_at_learned is not set"
        if kind == "lost_by_cut":
            rank = self.claim.endpoint.rank or arms[0].row.rank
            if not any(rank in ((c.get("analysis") or {}).get("rank_cuts") or ()) for c in configs):
                return f"no cell would measure it: {rank} is not among analysis.rank_cuts"
        return ""

    def _look(self, seeds: int) -> Look | None:
        """The last look of the family that so many seeds come to; None where there is none."""
        reached = [look for look in self.family.looks if (look.seeds or 0) <= seeds]
        return reached[-1] if reached else None

    def _size(
        self, words: str, arms: int, seeds: int, level: float, reach: float
    ) -> tuple[bool, str]:
        """What the interval would be like."""
        claim, per_seed = self.claim, math.sqrt((2 if arms > 1 else 1) / seeds)
        half = float(stats.t.ppf(1 - level / 2, seeds - 1)) * per_seed
        power = float(stats.t.ppf(POWER, seeds - 1)) * per_seed
        if self.spread is None:
            return True, f"{words}; {self._supposed(half / reach, power / reach)}"
        if claim.direction != "better":
            half *= self.spread
            said = f"an interval of about ±{self._amount(half)} and a margin of "
            return half < claim.margin, f"{words}; {said}{self._amount(claim.margin)}"
        least = self._amount(claim.margin + (half + power) * self.spread)
        return True, f"{words}; 8 of 10 studies would find a true effect of {least}"

    def _supposed(self, half: float, power: float) -> str:
        """Where the spread between seeds isn't known: in units of it, and of ratios for two."""
        claim = self.claim
        if claim.direction != "better":
            said = f"an interval of about ±{half:.2f} standard deviations of a value between seeds"
            return f"{said}, which are not known, and a margin of {self._amount(claim.margin)}"
        if not claim.ratio:
            beyond = f"{self._amount(claim.margin)} and " if claim.margin else ""
            return (
                f"8 of 10 studies would find a true effect of {beyond}{half + power:.2f} standard "
                "deviations of a value between seeds, which are not known"
            )
        found = ", ".join(
            f"{self._amount(claim.margin + (half + power) * spread)} where seeds differ by "
            f"{spread:.0%}"
            for spread in SUPPOSED
        )
        return f"8 of 10 studies would find a true effect of {found} (not known)"

    def _amount(self, value: float) -> str:
        return f"× {math.exp(value):.3f}" if self.claim.ratio else f"{np.round(value, 4):g}"


def _too_few(arms: Sequence[Candidate]) -> str:
    fewest = min(len({rate for rate, _ in arm.reported}) for arm in arms)
    return f"{count(fewest, 'rate')} an arm; a range takes three" if fewest < 3 else ""
