"""Judges claims over seeds: holds, does not hold, or undecided with the reason.

Cells are paired by seed: the same model, task, settings, steps and rank, each arm at the one
learning rate that the protocol gives it (bench.judge.rates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.judge import paper
from bench.judge.cells import Cell, Collection, Section, format_rate, section_key
from bench.judge.claims import Claim
from bench.judge.endpoints import KINDS
from bench.judge.intervals import MANY, Estimate, estimate, holm
from bench.judge.measures import Measuring
from bench.judge.rates import AS_RUN, PROTOCOLS, Candidate, choose
from bench.report.tables import BUDGET_TOLERANCE, count, title, unequal

FEWEST_SEEDS = 3
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
ALL_RATES = "all rates"

# Adapters of one rank differ by a few per cent where MoRA's side is rounded down: flagged. What
# differs by more is no comparison at equal budget.
LARGEST_BUDGET_GAP = 0.05


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
    estimate: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None
    cells: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    noise: float | None = None  # how far apart a cell run twice ends, where one was
    without_one: str = ""  # what becomes of the verdict with a seed fewer

    @property
    def survives(self) -> bool:
        """Whether the verdict stands when all comparisons are judged together."""
        return self.p_holm is not None and self.p_holm < 0.05


def judge(claims: Sequence[Claim], found: Collection) -> list[Judgement]:
    """All claims in every setting they apply to; Holm's correction within each protocol."""
    settings = _settings(found)
    judgements = []
    for claim in claims:
        made = [
            judgement
            for section, candidates in settings
            if claim.of_task(section.task)
            for judgement in _in_setting(claim, section, candidates, found)
        ]
        judgements += made or [Judgement(claim, reason=_no_cells(claim, found.cells))]
    return _with_holm(judgements)


def _settings(found: Collection) -> list[tuple[Section, list[Candidate]]]:
    """Each setting with its candidates; validation cells join those they choose for."""
    sections = found.sections()
    reported = {section_key(s.cells[0], split=False): s for s in sections if s.split == "reported"}
    candidates: dict[str, dict[str, Candidate]] = {key: {} for key in reported}
    for section in sections:
        key = section_key(section.cells[0], split=False)
        if key not in reported:
            continue
        for row in section.rows:
            who = repr((row.method, row.rank, sorted(row.settings.items(), key=repr)))
            candidate = candidates[key].setdefault(who, Candidate(row))
            cells = candidate.reported if section.split == "reported" else candidate.validation
            cells.setdefault(row.learning_rate, []).extend(row.cells)
    return [(reported[key], list(group.values())) for key, group in candidates.items()]


def _in_setting(
    claim: Claim, section: Section, candidates: Sequence[Candidate], found: Collection
) -> Iterator[Judgement]:
    metric = _metric(claim, section)
    if KINDS[claim.endpoint.kind].of_metric and metric is None:
        return
    measuring = Measuring(claim, section, metric)
    repeats = [pair for pair in found.repeats if section_key(pair[0]) == section.key]
    noise = measuring.noise_floor(repeats)
    for a, b in _pairs(claim, candidates):
        if not all(measuring.anywhere(c) for c in (a, b) if c is not None):
            continue
        ranks = [c.row.rank for c in (a, b) if c is not None and c.row.rank is not None]
        where = title(section) + (f", r={ranks[0]}" if ranks else "")
        arms = [c for c in (a, b) if c is not None]
        if claim.endpoint.kind == "forgetting_at_equal_learning":
            yield _examined(partial(_at_equal_learning, measuring, where), arms, noise)
            continue
        made = [_examined(partial(_under, p, measuring, where), arms, noise) for p in PROTOCOLS]
        one_rate = all(len(c.reported) == 1 and not c.validation for c in arms)
        if one_rate and all(j.estimate is None for j in made):
            made.append(_examined(partial(_under, AS_RUN, measuring, where), arms, noise))
        yield from made


def _metric(claim: Claim, section: Section) -> str | None:
    """The section's metric that the claim names."""
    for wanted in claim.endpoint.metrics:
        if wanted == "main":
            return section.main_metric()
        for name in section.metrics:
            if name == wanted or name.startswith(f"{wanted}_"):
                return name
    return None


def _pairs(
    claim: Claim, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, Candidate | None]]:
    for a in candidates:
        if not claim.a.takes(a.row.cells[0]):
            continue
        if claim.b.value is not None:
            if _rank_fits(claim, [a]):
                yield a, None
            continue
        for b in candidates:
            alike = _exposure(a) == _exposure(b)
            if claim.b.takes(b.row.cells[0]) and alike and _rank_fits(claim, [a, b]):
                yield a, b


def _exposure(candidate: Candidate) -> tuple[int | None, int | None]:
    """Steps and examples a step: arms must have seen equally much."""
    planned = candidate.row.settings.get("trainer.max_steps")
    return planned, candidate.row.examples_a_step


def _rank_fits(claim: Claim, arms: Sequence[Candidate]) -> bool:
    """Adapters of one rank, and of the kind that the claim is about."""
    ranks = {c.row.rank for c in arms if c.row.rank is not None}
    if claim.rank != "any" and any(paper.is_low(r) != (claim.rank == "low") for r in ranks):
        return False
    return len(ranks) < 2


def _no_cells(claim: Claim, cells: Sequence[Cell]) -> str:
    arms = [arm for arm in (claim.a, claim.b) if arm.value is None]
    here = [cell for cell in cells if claim.about(cell)]
    missing = [arm.words for arm in arms if not any(arm.takes(cell) for cell in here)]
    at = f" at {claim.rank} rank" if claim.rank != "any" else ""
    what = f"task {' or '.join(claim.tasks)}{at}"
    if missing:
        return f"no cells of {' and of '.join(missing)} on {what}"
    return f"no comparable cells (same model, steps and rank, the measure taken) on {what}"


def _with_holm(judgements: list[Judgement]) -> list[Judgement]:
    made = list(judgements)
    for protocol in {j.protocol for j in judgements}:
        tested = [
            (i, j.p) for i, j in enumerate(judgements) if j.protocol == protocol and j.p is not None
        ]
        for (i, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
            made[i] = replace(made[i], p_holm=p)
    return made


# ---------------------------------------------------------------------------- one comparison

Comparison = Callable[[list[Candidate]], Judgement]


def _examined(compare: Comparison, arms: list[Candidate], noise: float | None) -> Judgement:
    """The verdict, held against the noise floor and against each study of one seed fewer."""
    made = compare(arms)
    if made.estimate is None:
        return made
    flags = made.flags
    if noise is not None and abs(made.estimate.effect) <= noise:
        flags += (f"no larger than the noise floor: a cell run twice differs by {noise:.3g}",)
    return replace(made, flags=flags, noise=noise, without_one=_without_one(compare, arms, made))


def _without_one(compare: Comparison, arms: list[Candidate], made: Judgement) -> str:
    """What the verdict would be without each seed in turn, learning rates chosen anew."""
    seeds = 0 if made.estimate is None else made.estimate.n
    if seeds > MANY:
        return ""
    said = []
    if seeds <= FEWEST_SEEDS:
        said.append(f"with a seed fewer it would be {UNDECIDED}")
    others: dict[str, list[int]] = {}
    for seed in _droppable(arms, made):
        verdict = compare([c.without(seed) for c in arms]).verdict
        if verdict != made.verdict:
            others.setdefault(verdict, []).append(seed)
    said += [
        f"without seed {' or '.join(map(str, dropped))} it would be: {verdict}"
        for verdict, dropped in sorted(others.items())
    ]
    return "; ".join(said) or "the same without any one seed"


def _droppable(arms: Sequence[Candidate], made: Judgement) -> list[int]:
    """Judged seeds, unless too few are left; validation seeds, unless an arm has a single one."""
    cells = [cell for c in arms for group in c.reported.values() for cell in group]
    judged = {cell.seed for cell in cells if cell.cell in made.cells}
    chosen = [{cell.seed for g in c.validation.values() for cell in g} for c in arms]
    several = all(len(seeds) != 1 for seeds in chosen)
    judged = judged if len(judged) > FEWEST_SEEDS else set()
    return sorted(judged.union(*chosen) if several else judged)


def _under(protocol: str, measuring: Measuring, where: str, arms: list[Candidate]) -> Judgement:
    """The claim between two arms, or between one and a number, under one protocol."""
    claim, section = measuring.claim, measuring.section
    choices = [choose(c, protocol, section.task, measuring.learned) for c in arms]
    names = [
        c.name + ("" if choice.rate is None else f", lr {format_rate(choice.rate)}")
        for c, choice in zip(arms, choices, strict=True)
    ]
    base = Judgement(
        claim,
        where,
        protocol,
        arms=(names[0], names[1] if len(names) > 1 else claim.b.words),
        unit=measuring.unit,
        measured=measuring.words,
        higher_is_better=measuring.higher_is_better,
        flags=tuple(flag for choice in choices for flag in choice.flags),
    )
    problems = [choice.problem for choice in choices if choice.problem]
    trials = [choice.trials for choice in choices]
    if not problems and protocol == "tuned" and len(set(trials)) > 1:
        counted = ", ".join(f"{c.name} {n}" for c, n in zip(arms, trials, strict=True))
        problems.append(f"unequal numbers of learning-rate trials: {counted}")
    budgets = _budgets(claim, arms)
    if words := unequal(budgets, LARGEST_BUDGET_GAP):
        problems.append(f"unequal budgets, {words}")
    elif words := unequal(budgets, BUDGET_TOLERANCE):
        base = replace(base, flags=(*base.flags, f"budgets differ a little, {words}"))
    if problems:
        return replace(base, reason="; ".join(dict.fromkeys(problems)))
    cells = [
        {cell.seed: cell for cell in c.reported[choice.rate]}
        for c, choice in zip(arms, choices, strict=True)
    ]
    flags = [*base.flags, *_lost(arms, cells)]
    shared = sorted(cells[0].keys() & cells[-1].keys())
    pairs = [(cells[0][s], cells[-1][s]) for s in shared if cells[0][s].ok and cells[-1][s].ok]
    measured = [(a, b) for a, b in pairs if measuring.difference(a, b) is not None]
    behind = tuple(dict.fromkeys(cell.cell for pair in measured for cell in pair))
    base = replace(base, cells=behind, flags=tuple(flags))
    if len(measured) < FEWEST_SEEDS:
        seeds = count(len(measured), "paired seed" if len(arms) > 1 else "seed")
        few = f"{seeds}; at least {FEWEST_SEEDS} are needed"
        unmeasured = len(pairs) - len(measured)
        more = f" ({unmeasured} more without this measure)" if unmeasured else ""
        return replace(base, reason=few + more)
    if all(measuring.at_ceiling(cell) for pair in measured for cell in pair):
        flags.append("all cells are at the ceiling, where no difference can show")
    return _decided(replace(base, flags=tuple(flags)), measuring.estimate(measured))


def _budgets(claim: Claim, arms: Sequence[Candidate]) -> dict[str, int]:
    """Adapters' trainable parameters; FFT has no form at an adapter's budget."""
    if not claim.equal_budget or len(arms) < 2 or any(c.row.rank is None for c in arms):
        return {}
    return {c.name: c.trainable for c in arms if c.trainable}


def _lost(arms: Sequence[Candidate], cells: Sequence[dict[int, Cell]]) -> list[str]:
    """Seeds that count for nothing, and why."""
    said = [
        f"seed {seed} of {c.name} {cell.status}: left out with its pair"
        for c, by_seed in zip(arms, cells, strict=True)
        for seed, cell in sorted(by_seed.items())
        if not cell.ok
    ]
    alone = sorted(cells[0].keys() ^ cells[-1].keys())
    if alone:
        said.append(f"left out for want of a partner: seed {', '.join(map(str, alone))}")
    return said


def _decided(base: Judgement, found: Estimate) -> Judgement:
    verdict = decide(base.claim, found)
    return replace(
        base,
        verdict=verdict,
        reason="the interval reaches across the margin" if verdict == UNDECIDED else "",
        estimate=found,
        p=p_value(base.claim, found),
    )


def _at_equal_learning(measuring: Measuring, where: str, arms: list[Candidate]) -> Judgement:
    """Forgetting of both arms read off where both have learned as much, seed by seed.

    Every learning rate of an arm is a point (learned, forgotten), the untouched model is another;
    between points the line is straight.
    """
    base = Judgement(
        measuring.claim,
        where,
        ALL_RATES,
        arms=(arms[0].name, arms[-1].name),
        unit=measuring.unit,
        measured=measuring.words,
        higher_is_better=measuring.higher_is_better,
    )
    budgets = _budgets(measuring.claim, arms)
    if words := unequal(budgets, LARGEST_BUDGET_GAP):
        return replace(base, reason=f"unequal budgets, {words}")
    if words := unequal(budgets, BUDGET_TOLERANCE):
        base = replace(base, flags=(f"budgets differ a little, {words}",))
    by_seed = [measuring.learned_and_forgotten(c) for c in arms]
    values, behind = [], []
    for seed in sorted(by_seed[0].keys() & by_seed[-1].keys()):
        points = [found[seed] for found in by_seed]
        level = min(max(learned for learned, _, _ in p) for p in points)
        if level < max(min(learned for learned, _, _ in p) for p in points):
            continue  # one arm has learned more at its least than the other at its most
        forgotten = [_at(p, level) for p in points]
        values.append(forgotten[-1] - forgotten[0])  # less forgotten is better
        behind += [cell for p in points for _, _, cell in p if cell]
    base = replace(base, cells=tuple(dict.fromkeys(behind)))
    if len(values) < FEWEST_SEEDS:
        few = f"{count(len(values), 'comparable seed')}; at least {FEWEST_SEEDS} are needed"
        return replace(base, reason=few)
    return _decided(base, estimate(values))


def _at(points: list[tuple[float, float, str]], level: float) -> float:
    """What is forgotten where so much is learned."""
    learned = sorted({point[0] for point in points})
    forgotten = [float(np.mean([f for x, f, _ in points if x == at])) for at in learned]
    return float(np.interp(level, learned, forgotten))


# ---------------------------------------------------------------------------- verdicts


def decide(claim: Claim, found: Estimate) -> str:
    """By the interval alone."""
    if claim.direction == "equal":
        if -claim.margin <= found.low and found.high <= claim.margin:
            return HOLDS
        if found.low > claim.margin or found.high < -claim.margin:
            return FAILS
        return UNDECIDED
    if claim.direction == "better":
        if found.low > claim.margin:
            return HOLDS
        return FAILS if found.high <= claim.margin else UNDECIDED
    if found.low >= -claim.margin:
        return HOLDS
    return FAILS if found.high < -claim.margin else UNDECIDED


def p_value(claim: Claim, found: Estimate) -> float:
    """Below 0.05 where `decide` decides, whichever way."""
    if found.error == 0:
        return 0.0 if decide(claim, found) != UNDECIDED else 1.0
    if claim.direction == "equal":
        inside = max(found.p_beyond(-claim.margin, 1), found.p_beyond(claim.margin, -1))
        outside = min(found.p_beyond(claim.margin, 1), found.p_beyond(-claim.margin, -1))
        return min(inside, outside)
    bound = claim.margin if claim.direction == "better" else -claim.margin
    return min(found.p_beyond(bound, 1), found.p_beyond(bound, -1))
