"""What is said around a table: what was run, before it; warnings and missing cells, after it."""

from __future__ import annotations

import re

import numpy as np

from bench.judge import paper
from bench.judge.cells import Result
from bench.judge.rates import Candidate, best
from bench.judge.rows import Row, Section, count, unequal
from bench.records.words import format_rate
from bench.report.numbers import columns_shown, format_number, scaled

BUDGET_TOLERANCE = 0.01


def sheet(section: Section) -> list[str]:
    """What was run: model, data, steps, seeds, machine."""
    cells = section.cells
    settings = dict(section.task_settings)
    if not settings.get("forgetting"):
        settings.pop("forgetting_limit", None)
    pairs = settings.pop("pairs", None)
    data = [section.task_label] + ([count(pairs, "pair")] if isinstance(pairs, int) else [])
    data += [
        f"{key} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in settings.items()
        if value not in (None, [], {})
    ]
    data += sorted({name for cell in cells for name in cell.data} if pairs is None else [])
    seeds = sorted({cell.seed for cell in cells})
    spread = "; ± is the standard deviation over seeds" if len(seeds) > 1 else "; no spread known"
    threads = sorted({cell.threads for cell in cells if cell.threads})
    lines = [
        f"model: {section.model_label} ({section.model})",
        f"task: {', '.join(data)}",
        f"training: {_training(section)}",
        f"seeds: {len(seeds)} ({', '.join(map(str, seeds))}){spread}",
        f"device: {section.device}, precision {section.precision}"
        + (f", {'/'.join(map(str, threads))} threads" if threads else ""),
        f"records: {_statuses(cells)}",
        f"experiment: {', '.join(sorted({cell.experiment for cell in cells}))}",
        f"code: {', '.join(sorted({_short_commit(cell.git) for cell in cells}))}",
    ]
    return [line for line in lines if line]


def _training(section: Section) -> str:
    steps = sorted({step for row in section.rows for step in row.steps})
    words = []
    if steps:
        words.append(
            f"{steps[0]:,} steps" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,} steps"
        )
    sizes = {row.examples_a_step for row in section.rows}
    if len(sizes) == 1 and (size := sizes.pop()) is not None:
        words.append(f"{size:,} examples a step")
    schedule = section.shared("trainer.schedule")
    if schedule:
        words.append(f"{schedule} schedule")
    return ", ".join(words) or "not said"


def _statuses(cells: list[Result]) -> str:
    counts = {s: sum(c.status == s for c in cells) for s in ("ok", "diverged", "failed", "skipped")}
    return f"{len(cells):,} ({', '.join(f'{n:,} {s}' for s, n in counts.items() if n)})"


def _short_commit(git: str) -> str:
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", git)


def _untimed(section: Section) -> list[str]:
    return sorted({cell.untimed for cell in section.cells if cell.untimed})


def _kept(section: Section) -> list[str]:
    most = max((cell.cost.get("kept_bytes") or 0 for cell in section.cells), default=0)
    if not most:
        return []
    return [f"peak memory has up to {most / 2**30:.2f} GiB of weights that adapters keep formed"]


def notes(section: Section, main: str | None) -> list[str]:
    """What must be said below the table: warnings first, then cells that have no result."""
    said = _budgets(section) + _unequal(section) + _rates(section, main)
    left_out = len(section.metrics) - len(columns_shown(section, main))
    if left_out:
        said.append(f"{count(left_out, 'more metric')} in table.csv")
    averaged = next((c.averaged for c in section.cells if c.averaged), ())
    if averaged:
        said.append(f"average: of {', '.join(averaged)}")
    if main is not None and section.metrics[main].chance is not None:
        metric = section.metrics[main]
        chance = format_number(scaled(metric, metric.chance or 0.0), metric.unit)
        percent = " %" if metric.unit == "fraction" else ""
        said.append(f"chance level of {main.replace('_', ' ')}: {chance}{percent}")
    beside = paper.beside(section.task)
    if beside is not None:
        said.append(
            f"the paper's numbers ({paper.CITATION}, {beside.source}) were measured on "
            f"{beside.setting}, not on {section.model_label}"
        )
    said += [*_kept(section), *(f"seconds are left out: {why}" for why in _untimed(section))]
    said += [_sentence(row, cell) for row in section.rows for cell in row.cells if not cell.ok]
    return said


def _budgets(section: Section) -> list[str]:
    """Adapters of one rank should train equally many parameters."""
    said = []
    for rank in sorted({row.rank for row in section.rows if row.rank is not None}):
        budgets = {
            row.name: row.trainable for row in section.rows if row.rank == rank and row.trainable
        }
        if (words := unequal(budgets, BUDGET_TOLERANCE)) is not None:
            said.append(f"WARNING: unequal budgets at r={rank}: {words}")
    full = next((r.trainable for r in section.rows if r.method == "fft" and r.trainable), None)
    if full and any(row.rank is not None for row in section.rows):
        said.append(f"FFT trains all {full:,} parameters; it has no form at an adapter's budget")
    return said


def _unequal(section: Section) -> list[str]:
    said = []
    steps = {row.full_name: sorted(row.steps) for row in section.rows}
    if len({tuple(s) for s in steps.values() if s}) > 1:
        parts = "; ".join(f"{name}: {', '.join(map(str, s))}" for name, s in steps.items() if s)
        said.append(f"WARNING: rows differ in training steps: {parts}")
    seeds = {tuple(cell.seed for cell in row.ok) for row in section.rows if row.ok}
    if len(seeds) > 1:
        said.append("WARNING: rows differ in the seeds behind them; see the column of seeds")
    revisions: dict[str, dict[str, set[str]]] = {}
    for row in section.rows:
        for cell in row.cells:
            for name, commit in cell.revisions.items():
                revisions.setdefault(name, {}).setdefault(commit, set()).add(row.full_name)
    for name, commits in revisions.items():
        if len(commits) > 1:
            each = [f"{c[:10]} ({', '.join(sorted(rows))})" for c, rows in commits.items()]
            said.append(f"WARNING: rows differ in the revision of {name}: {'; '.join(each)}")
    data = {
        tuple(name for name in cell.data if not _commit(name))
        for cell in section.cells
        if cell.data
    }
    if len(data) > 1:
        said.append(
            f"WARNING: cells differ in their data: {' / '.join(map(', '.join, sorted(data)))}"
        )
    return said


def _commit(name: str) -> bool:
    """Whether a set is named with its commit, of which the notes speak apart."""
    return re.search(r" [0-9a-f]{40}$", name) is not None


def _rates(section: Section, main: str | None) -> list[str]:
    """Where an arm has several learning rates: a best one at the edge; of validation, the best."""
    if main is None:
        return []
    sign = 1 if section.metrics[main].higher_is_better else -1

    def at_end(cell: Result) -> float | None:
        found = cell.metrics.get(main)
        return None if found is None else sign * found.value

    def along(cell: Result) -> float | None:
        values = cell.scores.get(f"metrics.{main}", np.empty(0))
        return sign * float(values.mean()) if len(values) and np.isfinite(values).all() else None

    arms: dict[str, list[Row]] = {}
    for row in section.rows:
        arms.setdefault(row.name_and_rank, []).append(row)
    said = []
    for name, rows in arms.items():
        if len({row.learning_rate for row in rows}) < 2:
            continue
        arm = Candidate(rows[0], {(row.learning_rate, None): row.cells for row in rows})
        choices = [best(arm, arm.reported, score, section.split) for score in (at_end, along)]
        edges = dict.fromkeys(choice.edge for choice in choices if choice.edge)
        said += [f"WARNING: {edge}" for edge in edges]
        ways = ("at the end", "by the mean over the scored steps")
        found = [
            f"{format_rate(choice.point[0])} {way}"
            for choice, way in zip(choices, ways, strict=True)
            if choice.point[0] is not None
        ]
        if found and section.split != "reported":
            said.append(f"best learning rate of {name}: {', '.join(found)}")
    return said


def _sentence(row: Row, cell: Result) -> str:
    reason = " ".join((cell.reason or "").split())
    reason = reason if len(reason) <= 200 else f"{reason[:199]}…"
    return f"{cell.status}: {row.full_name}, seed {cell.seed} ({cell.cell}): {reason}"
