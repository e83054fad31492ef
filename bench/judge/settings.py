"""Settings with what may be compared in them: candidates, and pairs of candidates for a claim."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.judge import paper
from bench.judge.cells import Collection, Result, twice
from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.rates import Candidate, Goodness
from bench.judge.rows import Section, group

LONGEST = 24  # more seeds than these are no command any more


@dataclass
class Setting:
    """Cells that may be compared, by arm; validation cells join those they choose for."""

    section: Section
    candidates: list[Candidate]
    twins: list[list[Result]] = field(default_factory=list)  # one but for a meaningless change

    @property
    def cells(self) -> list[Result]:
        return [cell for candidate in self.candidates for cell in candidate.cells]


def settings(found: Collection, over: str | None = None) -> list[Setting]:
    """All settings with reported cells; `over`: a key of the task that makes no other setting."""
    sections: dict[str, list[Section]] = {}
    for section in group(found.cells):
        key = of_section(section, over)
        sections.setdefault(key, []).append(section)
    known = twins(found, over)
    made = []
    for key, several in sections.items():
        reported = [section for section in several if section.split == "reported"]
        if reported:
            first = replace(reported[0], details=()) if over else reported[0]
            made.append(Setting(first, _candidates(several, over), known.get(key, [])))
    return made


def of_section(section: Section, over: str | None = None) -> str:
    """The key of the section's setting, which its validation cells share."""
    return section.cells[0].section_key(split=False, over=over)


def _candidates(sections: Sequence[Section], over: str | None) -> list[Candidate]:
    found: dict[str, Candidate] = {}
    # Reported ones come first, so that a candidate's row is one of them where there are any.
    for section in sorted(sections, key=lambda s: s.split != "reported"):
        level = section.task_settings.get(over) if over else None
        for row in section.rows:
            who = {k: v for k, v in row.settings.items() if not (over and k in _GROWS)}
            key = repr((row.method, row.rank, sorted(who.items(), key=repr)))
            candidate = found.setdefault(key, Candidate(row))
            cells = candidate.reported if section.split == "reported" else candidate.validation
            at = cells.setdefault((row.learning_rate, level), [])
            known = {cell.seed: cell for cell in at}
            for cell in row.cells:
                if cell.seed in known:  # as where one level was run for two numbers of steps
                    raise twice(known[cell.seed], cell)
            at += row.cells
    return [*found.values()]


_GROWS = ("trainer.max_steps", "trainer.warmup_steps")  # with the size of what is learned


def twins(found: Collection, over: str | None = None) -> dict[str, list[list[Result]]]:
    """Perturbed cells with the cell that they are twins of, and cells run twice, by setting."""
    if not found.perturbed and not found.repeats:
        return {}
    groups: dict[tuple[str, str, int], list[Result]] = {}
    originals = {(c.section_key(split=False), c.row_key, c.seed): c for c in found.cells}
    for cell in found.perturbed:
        key = (cell.section_key(split=False), cell.row_key, cell.seed)
        known = [originals[key]] if key in originals else []
        groups.setdefault(key, known).append(cell)
    several = [*groups.values(), *([a, b] for a, b in found.repeats)]
    made: dict[str, list[list[Result]]] = {}
    for cells in several:
        made.setdefault(cells[0].section_key(split=False, over=over), []).append(cells)
    return made


def metric_of(claim: Claim, section: Section) -> str | None:
    """The section's metric that the claim names."""
    for wanted in claim.endpoint.metrics:
        if wanted == "main":
            return section.main_metric()
        for name in section.metrics:
            if name == wanted or name.startswith(f"{wanted}_"):
                return name
    return None


def needs_metric(endpoint: Endpoint) -> bool:
    return endpoint.kind in ("final", "curve", "bits_per_parameter", "good_range", "lost_by_cut")


def pairs(claim: Claim, setting: Setting) -> Iterator[list[Candidate]]:
    """The arms of the claim: of one rank, of the kind it is about, having seen equally much."""
    # Cell by cell: one candidate may hold those of several experiments.
    about = [
        c.only(lambda cell: cell.seed >= claim.first_seed and claim.about(cell))
        for c in setting.candidates
    ]

    def of(arm: Arm) -> list[Candidate]:
        taken = (c.at(arm.rate) for c in about if arm.takes(c.row.cells[0]))
        return [c for c in taken if c.reported or c.validation]

    theirs = of(claim.b)
    for a in of(claim.a):
        if claim.b.value is not None:
            if _rank_fits(claim, [a]):
                yield [a]
            continue
        for b in theirs:
            if a.row is b.row and claim.a.rate == claim.b.rate:
                continue  # arms that take the same cells: nothing differs from itself
            alike = claim.over is not None or exposure(a) == exposure(b)
            if alike and _rank_fits(claim, [a, b]):
                yield [a, b]


def exposure(candidate: Candidate) -> tuple[int | None, int | None]:
    """Steps and examples a step: arms must have seen equally much."""
    planned = candidate.row.settings.get("trainer.max_steps")
    return planned, candidate.row.examples_a_step


def _rank_fits(claim: Claim, arms: Sequence[Candidate]) -> bool:
    """Adapters of one rank, and of the kind that the claim is about."""
    ranks = {c.row.rank for c in arms if c.row.rank is not None}
    if claim.rank != "any" and any(paper.is_low(r) != (claim.rank == "low") for r in ranks):
        return False
    return len(ranks) < 2


def spread(candidate: Candidate, good: Goodness) -> float | None:
    """Standard deviation of `good` between the judged seeds of one rate."""
    squares, freedom = 0.0, 0
    for cells in candidate.reported.values():
        values = [v for cell in cells if cell.ok and (v := good(cell)) is not None]
        if len(values) > 1:
            squares += float(np.var(values)) * len(values)
            freedom += len(values) - 1
    return (squares / freedom) ** 0.5 if freedom else None


def later(cells: Sequence[Result]) -> str:
    """Says which seeds came when others were there already, at another commit; else empty."""
    dated = [cell for cell in cells if cell.started and cell.finished]
    if not dated:
        return ""
    first = min(dated, key=lambda c: c.started).git
    done = max(cell.finished for cell in dated if cell.git == first)
    after = [cell for cell in dated if cell.git != first and cell.started > done]
    seeds = sorted({c.seed for c in after} - {c.seed for c in dated if c.git == first})
    if not seeds:
        return ""
    commits = ", ".join(dict.fromkeys(cell.git[:7] for cell in after if cell.seed in seeds))
    return (
        f"seed {', '.join(map(str, seeds))} came after the others were there (commit {commits}): "
        "if the verdict was looked at before, it is wrong more often than its level says"
    )


def commands(arms: Sequence[Sequence[Sequence[Result]]], more: int) -> tuple[str, ...]:
    """The commands that add so many seeds, after the highest there is.

    arms: of each its rates, of each rate its cells. An arm's rates are one command where the
    cells' own commands differ in one value.
    """
    cells = [cell for arm in arms for rate in arm for cell in rate]
    if more < 1 or not cells:
        return ()
    first = max(cell.seed for cell in cells) + 1
    seeds = ",".join(str(first + i) for i in range(min(more, LONGEST)))
    made: list[str] = []
    for arm in arms:
        known = [words for rate in arm if rate and (words := again(rate[0]))]
        made += [_with_seeds(words, seeds) for words in _joined(known)]
    return tuple(dict.fromkeys(made))


# What was a word of the configuration when the first records were made, and is none today.
_OLD_GROUP = "protocol."  # chose the learning rate; the rate itself says the same
# A trial's place among the rates, and a default, may be another's by now: the rate itself is said.
_RATE, _TRIAL = "method.learning_rate=", "trial="
_OLD_WORDS = {"task=laptop/math": "task=sums"}


def again(cell: Result) -> list[str]:
    """The words of the command that makes the cell, in today's spelling, without its seed.

    Empty where the record has none that can be read.
    """
    try:
        words = shlex.split(cell.command)
    except ValueError:
        return []
    rated = cell.learning_rate is not None
    left_out = ("seed=", _OLD_GROUP, *((_RATE, _TRIAL) if rated else ()))
    made = [_OLD_WORDS.get(w, w) for w in words if not w.startswith(left_out)]
    return [*made, f"{_RATE}{cell.learning_rate!r}"] if made and rated else made


def _joined(several: Sequence[list[str]]) -> list[list[str]]:
    """One command in the place of several that differ in one value alone."""
    if len(several) < 2 or len({len(words) for words in several}) > 1:
        return [*several]
    apart = [i for i, words in enumerate(zip(*several, strict=True)) if len(set(words)) > 1]
    if len(apart) != 1 or len({words[apart[0]].partition("=")[0] for words in several}) > 1:
        return [*several]
    key = several[0][apart[0]].partition("=")[0]
    values = dict.fromkeys(words[apart[0]].partition("=")[2] for words in several)
    joined = [*several[0]]
    joined[apart[0]] = f"{key}={','.join(values)}"
    return [joined]


def _with_seeds(words: list[str], seeds: str) -> str:
    if words[1:3] == ["-m", "bench"] and not {"-m", "--multirun"} & set(words[3:]):
        words = [*words[:3], "-m", *words[3:]]
    return shlex.join([*words, f"seed={seeds}"])
