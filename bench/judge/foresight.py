"""What a planned grid could decide of the claims, before anything is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench.judge import foreign
from bench.judge.cells import Collection, Result, flatten
from bench.judge.claims import Claim
from bench.judge.comparison import FEWEST_SEEDS
from bench.judge.intervals import LEVEL, POWER
from bench.judge.judging import judge
from bench.judge.primary import Family
from bench.judge.rates import Candidate
from bench.judge.rows import count
from bench.judge.settings import Setting, pairs, settings

# Standard deviation of one value between seeds, where no earlier records tell it: log steps to a
# target in the committed study.
SPREADS = {"to_target": 0.045}


@dataclass(frozen=True)
class Foresight:
    """Whether a design could decide a claim, and why."""

    claim: str
    setting: str
    possible: bool
    words: str

    def __str__(self) -> str:
        verdict = "can be decided" if self.possible else "can never be decided"
        where = f", {self.setting}" if self.setting else ""
        return f"{self.claim}{where}: {verdict}: {self.words}"


def foresee(
    claims: Sequence[Claim],
    design: Sequence[Mapping[str, Any]],
    found: Collection | None = None,
    family: Family | None = None,
) -> list[Foresight]:
    """For each claim that the design has cells for, whether these could decide it.

    design: the resolved configuration of each planned cell. found: earlier records, whose spread
    between seeds is taken for what is to come. family: the primary comparisons, Holm's correction
    over them included. A claim on other tasks is passed over.
    """
    cells = [_planned(i, config) for i, config in enumerate(design)]
    primary = family.claims if family is not None else ()
    known = _spreads([*primary, *claims], found)
    said: list[Foresight] = []
    for claim in [*primary, *claims]:
        here = [cell for cell in cells if claim.about(cell)]
        if not here:
            continue
        among = len(primary) if claim in primary else 1
        made = [
            _of(claim, setting, arms, known.get(claim.id), among)
            for setting in settings(Collection("", cells), claim.over)
            for arms in pairs(claim, setting)
        ]
        lack = "no two arms that may be compared (steps, examples a step and rank alike)"
        said += made or [Foresight(claim.id, "", False, lack)]
    return said


def _planned(number: int, config: Mapping[str, Any]) -> Result:
    method, task, model = (config.get(part) or {} for part in ("method", "task", "model"))
    settings_ = flatten(method) | {
        f"trainer.{key}": value for key, value in flatten(config.get("trainer") or {}).items()
    }
    name = str(method.get("name"))
    rank = None if name == "fft" else method.get("rank")
    return foreign.bare(
        Path(f"planned-{number}"), number, method=name, rank=rank,
        learning_rate=method.get("learning_rate"), seed=int(config.get("seed") or 0),
        settings={k: v for k, v in settings_.items() if v is not None},
        task=str(task.get("name")), task_settings=flatten(task), model=str(model.get("name")),
        model_label=str(model.get("label") or model.get("name")),
        scale=str(config.get("scale_name") or "laptop"),
        split=str((config.get("protocol") or {}).get("split") or "reported"),
        label=foreign.LABELS.get(name, name),
    )  # fmt: skip


def _spreads(claims: Sequence[Claim], found: Collection | None) -> dict[str, float]:
    """Of one value between seeds, by claim: from records where there are any."""
    known = {c.id: SPREADS[c.endpoint.kind] for c in claims if c.endpoint.kind in SPREADS}
    for judgement in judge(claims, found) if found is not None else ():
        effect = judgement.effect
        if effect is not None and effect.error > 0:
            known[judgement.claim.id] = effect.error * math.sqrt(effect.n / 2)
    return known


def _of(
    claim: Claim, setting: Setting, arms: Sequence[Candidate], spread: float | None, among: int
) -> Foresight:
    where = setting.section.title
    seeds = len(set.intersection(*(arm.seeds for arm in arms)))
    if seeds < FEWEST_SEEDS:
        said = f"{count(seeds, 'shared seed')}; at least {FEWEST_SEEDS} are needed"
        return Foresight(claim.id, where, False, said)
    if claim.direction == "equal" and claim.margin == 0:
        return Foresight(
            claim.id, where, False, "nothing can be shown to be equal by a margin of 0"
        )
    tried = [_tried(arm) for arm in arms]
    if len(set(tried)) > 1:
        counts = ", ".join(f"{arm.name} {n}" for arm, n in zip(arms, tried, strict=True))
        return Foresight(claim.id, where, False, f"rates unsettled, as trials differ: {counts}")
    words = f"{count(seeds, 'seed')}, {count(tried[0], 'rate')} an arm"
    if among > 1:
        words += f", one of {among} primary comparisons"
    if spread is None:
        return Foresight(claim.id, where, True, f"{words}; the spread between seeds is not known")
    error = spread * math.sqrt((2 if len(arms) > 1 else 1) / seeds)
    half = float(stats.t.ppf(1 - LEVEL / among / 2, seeds - 1)) * error
    least = half + float(stats.t.ppf(POWER, seeds - 1)) * error
    if claim.direction != "better":
        possible = half < claim.margin
        said = f"an interval of about ±{_size(claim, half)} and a margin of "
        return Foresight(claim.id, where, possible, f"{words}; {said}{_size(claim, claim.margin)}")
    true = _size(claim, claim.margin + least)
    said = f"{words}; 8 of 10 studies would find a true effect of {true}"
    return Foresight(claim.id, where, True, said)


def _tried(arm: Candidate) -> int:
    return len(arm.validation or arm.reported)


def _size(claim: Claim, value: float) -> str:
    return f"× {math.exp(value):.3f}" if claim.ratio else f"{np.round(value, 4):g}"
