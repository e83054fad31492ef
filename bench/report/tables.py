"""Tables of measured numbers in the form of the paper's Table 2.

`build` makes a table of a section: every number with its spread over seeds, the paper's numbers
beside it, and below it what must be said (unequal budgets, cells that failed). bench.report.render
draws it; `as_csv` has the numbers themselves.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from bench.judge import along, paper, targets
from bench.judge.along import Reached
from bench.judge.cells import Result, Score
from bench.judge.endpoints import Endpoint
from bench.judge.rows import Row, Section, mean_and_spread
from bench.records.words import format_rate
from bench.report import notes
from bench.report.numbers import columns_shown, unit_label, with_spread
from bench.report.render import DASH, Column, Table, Value

STEPS_SHOWN = 6  # more scored steps than these are thinned in the table; the CSV has all


def _mean(values: Iterable[float | None], show: Callable[[float], str]) -> str:
    known = [v for v in values if v is not None]
    return show(float(np.mean(known))) if known else DASH


def build(
    section: Section, metric: str | None = None, twins: Sequence[Sequence[Result]] = ()
) -> Table:
    """The table of one section; `metric` is what its accuracy columns show.

    twins: groups of cells that are one but for a change that means nothing.
    """
    main = section.main_metric(metric)
    columns, rows = _identity(section)
    for part in (
        _along(section, main),
        _final(section, main),
        _to_target(section),
        _forgetting(section),
        _cost(section),
        _paper(section),
    ):
        for column, values in part:
            columns.append(column)
            for row, value in zip(rows, values, strict=True):
                row.append(value)
    return Table(
        section.title,
        notes.sheet(section),
        columns,
        rows,
        notes.notes(section, main) + targets.apart(section, twins),
        [(row.full_name, [cell.cell for cell in row.cells]) for row in section.rows],
    )


Part = list[
    tuple[Column, list[Value]]
]  # the untouched model's value comes first, where it is shown


def _has_before(section: Section) -> bool:
    return any(cell.before for cell in section.cells)


def _identity(section: Section) -> tuple[list[Column], list[list[Value]]]:
    columns = [
        Column("method", numeric=False),
        Column("r"),
        Column("learning\nrate"),
        Column("seeds"),
        Column("trainable\nparameters"),
    ]
    rows = [
        [
            Value(row.name),
            Value(DASH if row.rank is None else str(row.rank)),
            Value(DASH if row.learning_rate is None else format_rate(row.learning_rate)),
            Value(_seeds(row)),
            Value(DASH if row.trainable is None else f"{row.trainable:,}"),
        ]
        for row in section.rows
    ]
    if _has_before(section):
        seeds = len({cell.seed for cell in section.cells if cell.before})
        rows.insert(0, [Value("untouched model"), Value(), Value(), Value(str(seeds)), Value("0")])
    return columns, rows


def _seeds(row: Row) -> str:
    done, all_ = len(row.ok), len(row.cells)
    return str(done) if done == all_ else f"{done} of {all_}"


def _along(section: Section, main: str | None) -> Part:
    if main is None:
        return []
    metric = section.metrics[main]
    steps = list(section.scored_steps.get(main, []))
    last = max((int(c.train["step"][-1]) for c in section.cells if "step" in c.train), default=0)
    ended_there = all(
        f"metrics.{main}" not in c.scores or c.scores["step"][-1] == last
        for c in section.cells
        if c.ok
    )
    if ended_there and last in steps and main in section.metrics:
        steps.remove(last)  # the final value says it
    # Cells that are scored at shares of what is learned have hardly a step in common.
    rows_at = Counter(step for row in section.rows for step in _shared_steps(row, main))
    steps = [step for step in steps if 2 * rows_at[step] > len(section.rows)]
    if len(steps) > STEPS_SHOWN:
        chosen = np.linspace(0, len(steps) - 1, STEPS_SHOWN).round().astype(int)
        steps = [steps[i] for i in chosen]
    part: Part = []
    for step in steps:
        values = [at_step(row, main, step) for row in section.rows]
        column = Column(str(step), f"{unit_label(main, metric)} at step")
        part.append((column, _marked(section, values, metric)))
    return _with_first(section, part, None)


def _shared_steps(row: Row, metric: str) -> set[int]:
    """Steps at which every seed has the metric."""
    found = []
    for cell in row.ok:
        scores = cell.scores.get(f"metrics.{metric}")
        known = np.empty(0) if scores is None else cell.scores["step"][np.isfinite(scores)]
        found.append({*known.astype(int).tolist()})
    return set.intersection(*found) if found else set()


def at_step(row: Row, metric: str, step: int) -> list[float]:
    """The metric's values, one a seed; none where a seed was not scored at the step, for the mean
    of the others would pass for the row's."""
    values = []
    for cell in row.ok:
        scores = cell.scores.get(f"metrics.{metric}")
        if scores is not None:
            found = scores[cell.scores["step"] == step]
            values += [float(v) for v in found[:1] if np.isfinite(v)]
    return values if len(values) == len(row.ok) else []


def _final(section: Section, main: str | None) -> Part:
    part: Part = []
    befores: list[Value] = []
    for name in columns_shown(section, main):
        metric = section.metrics[name]
        values = _marked(section, [row.values(name) for row in section.rows], metric, name)
        heading = unit_label(name, metric).replace(" (", "\n(")
        part.append((Column(f"final {heading}" if name == main else heading), values))
        before = [c.before[name].value for c in section.cells if name in c.before]
        befores.append(Value(with_spread(_one_a_seed(section, name), metric) if before else DASH))
    return _with_first(section, part, befores)


def _one_a_seed(section: Section, metric: str) -> list[float]:
    """The untouched model's value for each seed: every method of a seed starts from the same."""
    seeds = {c.seed: c.before[metric].value for c in section.cells if metric in c.before}
    return [seeds[seed] for seed in sorted(seeds)]


def _to_target(section: Section) -> Part:
    """Steps to a target loss, where records hold the loss on the answer's tokens."""
    wanted = targets.endpoint(section)
    if wanted is None:
        return []
    texts = [_steps(targets.reached(row, wanted)) for row in section.rows]
    heading = f"steps to a\n{wanted.loss.replace('_', ' ')}\nof {wanted.judged:g}"
    part: Part = [(Column(heading), _ranked(texts, higher_is_better=False))]
    return _with_first(section, part, None)


def _steps(found: Sequence[Reached]) -> str:
    """Mean ± standard deviation over seeds; a bound where a seed never got there."""
    values = [r.value for r in found if r.value is not None]
    if not values:
        return DASH
    lost = sum(r.censored for r in found)
    if lost == len(values):
        return f"> {min(values):.0f}"
    mean, spread = mean_and_spread(values)
    return f"{'≥ ' if lost else ''}{mean:.0f}" + ("" if spread is None else f" ± {spread:.0f}")


def _forgetting(section: Section) -> Part:
    if all(cell.forgetting is None for cell in section.cells):
        return []
    metric = Score(0.0, 1, False, "fraction", None)
    values = [[c.forgetting for c in row.ok if c.forgetting is not None] for row in section.rows]
    part: Part = [(Column("forgotten\n(% of before)"), _marked(section, values, metric))]
    return _with_first(section, part, None)


def _cost(section: Section) -> Part:
    def column(key: str, show: Callable[[float], str]) -> list[Value]:
        return [Value(_mean((cell.cost[key] for cell in row.ok), show)) for row in section.rows]

    part: Part = [
        (Column("peak\nmemory\n(GiB)"), column("peak_memory_bytes", lambda v: f"{v / 2**30:.2f}")),
    ]
    if not all(cell.untimed for cell in section.cells):
        speed = column("tokens_per_second", lambda v: f"{v:,.0f}")
        part.insert(0, (Column("tokens/s"), speed))
    return _with_first(section, part, None)


def _paper(section: Section) -> Part:
    beside = paper.beside(section.task)
    if beside is None:
        return []
    group = f"paper, {beside.quantity}:\n{beside.setting}"
    found = [beside.row(row.method, row.rank, row.settings.get("operator")) for row in section.rows]
    ranks = [Value(DASH if rank is None else str(rank)) for rank, _ in found]
    part: Part = [(Column("r", group, quoted=True), ranks)]
    for i, heading in enumerate(beside.columns):
        values = [
            Value(DASH if (number := numbers[i]) is None else f"{number:.{beside.digits}f}")
            for _, numbers in found
        ]
        part.append((Column(heading, group, quoted=True), values))
    return _with_first(section, part, None)


def _with_first(section: Section, part: Part, first: list[Value] | None) -> Part:
    """Add the untouched model's values in front, where the table has that row."""
    if not _has_before(section):
        return part
    first = first or [Value()] * len(part)
    return [(column, [value, *values]) for (column, values), value in zip(part, first, strict=True)]


def _marked(
    section: Section, values: list[list[float]], metric: Score, name: str = ""
) -> list[Value]:
    """The rows' values, best and second best marked; what prints alike is marked alike.

    A mean of some seeds, where others diverged or have no such number, is no rank.
    name: of the final metric, where these are its values.
    """
    texts, ranked = [], []
    for row, known in zip(section.rows, values, strict=True):
        found = _to_target_given(row, name)
        text = _steps(found) if found else with_spread(known, metric)
        some = 0 < len(known) < len(row.ok)
        ranked.append(DASH if row.diverged or some else text)
        texts.append(f"{text} ({len(known)} of {len(row.ok)})" if some else text)
    marks = [value.mark for value in _ranked(ranked, metric.higher_is_better)]
    return [Value(text, mark) for text, mark in zip(texts, marks, strict=True)]


def _to_target_given(row: Row, metric: str) -> list[Reached]:
    """Steps to a target as a table of others gives them, bounds included; of other metrics nothing.

    There a target that was not reached is a value of infinity.
    """
    if metric != "steps_to_target":
        return []
    wanted = Endpoint("to_target")
    return [along.to_target(cell, wanted) for cell in row.ok if metric in cell.metrics]


def _ranked(texts: Sequence[str], higher_is_better: bool) -> list[Value]:
    """Texts that begin with their number; what begins otherwise is a bound, or nothing."""
    bounds = (DASH, "≥", ">")
    shown = [None if t.startswith(bounds) else float(t.split()[0]) for t in texts]
    ranked = sorted({s for s in shown if s is not None}, reverse=higher_is_better)
    marks = dict(zip(ranked, ("best", "second"), strict=False)) if len(ranked) > 1 else {}
    return [
        Value(text, marks.get(s, "") if s is not None else "")
        for text, s in zip(texts, shown, strict=True)
    ]


# ---------------------------------------------------------------------------- CSV


def as_csv(sections: Sequence[Section], command: str) -> str:
    """One line a row of every section, numbers as they are in the records (fractions, bytes)."""
    lines = []
    for section in sections:
        wanted = targets.endpoint(section)
        steps = {name: _steps_of_some_row(section, name) for name in section.metrics}
        lines += [_csv_line(section, row, steps, wanted, command) for row in section.rows]
    keys = list(dict.fromkeys(key for line in lines for key in line))
    # What every line has comes first; the cell ids and the command last.
    tail = ["cells", "command"]
    keys = [key for key in keys if key not in tail] + tail
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _steps_of_some_row(section: Section, metric: str) -> list[int]:
    """Steps at which all seeds of some row were scored."""
    return sorted({step for row in section.rows for step in _shared_steps(row, metric)})


def _csv_line(
    section: Section,
    row: Row,
    steps: Mapping[str, Sequence[int]],
    wanted: Endpoint | None,
    command: str,
) -> dict[str, object]:
    line: dict[str, object] = {
        "task": section.task,
        "model": section.model,
        "scale": section.scale,
        "split": section.split,
        "device": section.device,
        "precision": section.precision,
        "setting": section.detail,
        "method": row.method,
        "variant": row.variant,
        "rank": "" if row.rank is None else row.rank,
        "learning_rate": "" if row.learning_rate is None else row.learning_rate,
        "seeds": len(row.ok),
        "statuses": " ".join(f"{cell.seed}:{cell.status}" for cell in row.cells),
        "trainable_parameters": "" if row.trainable is None else row.trainable,
    }
    for name in section.metrics:
        if found := _to_target_given(row, name):
            line |= _csv_reached(name, found)
        else:
            line |= _csv_values(name, row.values(name))
        before = [c.before[name].value for c in row.ok if name in c.before]
        if before:
            line |= _csv_values(f"{name}_before", before)
        for step in steps[name]:
            line |= _csv_values(f"{name}_at_{step}", at_step(row, name, step))
    if wanted is not None:
        name = f"steps_to_{wanted.loss}_{wanted.judged:g}"
        line |= _csv_reached(name, targets.reached(row, wanted))
    dropped = [cell.forgetting for cell in row.ok if cell.forgetting is not None]
    if dropped:
        line |= _csv_values("forgetting", dropped)
    for key in ("tokens_per_second", "peak_memory_bytes", "training_seconds"):
        known = [number for cell in row.ok if (number := cell.cost[key]) is not None]
        line |= _csv_values(key, known)
    beside = paper.beside(section.task)
    if beside is not None:
        line["paper_setting"] = beside.setting
        rank, numbers = beside.row(row.method, row.rank, row.settings.get("operator"))
        line["paper_rank"] = "" if rank is None else rank
        for column, number in zip(beside.columns, numbers, strict=True):
            line[f"paper {beside.quantity} {column}"] = "" if number is None else number
    line["cells"] = " ".join(cell.cell for cell in row.cells)
    line["command"] = command
    return line


def _csv_reached(name: str, found: Sequence[Reached]) -> dict[str, object]:
    values = _csv_values(name, [r.value for r in found if r.value is not None])
    return values | {f"{name}_not_reached": sum(r.censored for r in found)}


def _csv_values(name: str, values: list[float]) -> dict[str, object]:
    if not values:
        return {f"{name}_mean": "", f"{name}_sd": ""}
    mean, spread = mean_and_spread(values)
    return {f"{name}_mean": mean, f"{name}_sd": "" if spread is None else spread}
