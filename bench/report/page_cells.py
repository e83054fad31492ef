"""The cells on the page: a row of the tables each, with its configuration, and its cells below."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench import records
from bench.errors import UserError
from bench.judge.cells import Result, flatten
from bench.judge.rows import Row, Section, count
from bench.records.words import format_rate
from bench.report.markup import escaped as _e
from bench.report.markup import lines

CELLS_SHOWN = 1_000  # more than these make a page that no browser likes


def shown(sections: Sequence[Section]) -> set[str]:
    """The cells that have a place on the page."""
    return {cell.cell for cell in [c for s in sections for c in s.cells][:CELLS_SHOWN]}


def section(sections: Sequence[Section]) -> str:
    total = sum(len(s.cells) for s in sections)
    more = f"; the first {CELLS_SHOWN:,} are shown" if total > CELLS_SHOWN else ""
    parts = [f'<h2 id="cells">Cells</h2><p class="pale">{count(total, "record")}{more}</p>']
    left = CELLS_SHOWN
    for part in sections:
        base: dict[str, Any] = {}
        for row in part.rows:
            cells = row.cells[: max(0, left)]
            left -= len(cells)
            if cells:
                parts += [*map(_cell, cells), _configuration(part, row, cells[0], base)]
    return "\n".join(parts)


def _configuration(part: Section, row: Row, cell: Result, base: dict[str, Any]) -> str:
    """The whole one of a section's first row; of the others what differs from it."""
    if cell.file.suffix != ".json":
        return ""
    try:
        config = records.read(cell.file, head_only=True)["config"]
    except UserError as error:
        return f'<p class="warning">{_e(error)}</p>'
    first = not base
    if first:
        base.update(flatten(config))
    shown: Any = config if first else _apart(flatten(config), base)
    words = "configuration" if first else "configuration, where it differs from the first of its"
    named = f"{words}{'' if first else ' table'}: {row.full_name}, {part.title}"
    told = json.dumps(shown, indent=1, ensure_ascii=False)
    return f"<details><summary>{_e(named)}</summary><pre>{_e(told)}</pre></details>"


def _apart(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if base.get(key) != value}


def _cell(cell: Result) -> str:
    rank = "" if cell.rank is None else f" r={cell.rank}"
    rate = "" if cell.learning_rate is None else f", lr {format_rate(cell.learning_rate)}"
    name = f"{cell.label}{rank}{rate}, seed {cell.seed}: {cell.status}"
    where = f"{cell.task_label} on {cell.model_label}"
    reason = f'<p class="warning">{_e(cell.reason)}</p>' if cell.reason else ""
    curve = ""
    if "loss" in cell.train and "step" in cell.train:
        curve = lines([("", cell.train["step"], cell.train["loss"])], "loss", height=80)
    facts = [
        _facts(_metrics(cell)),
        _facts({k.replace("_", " "): v for k, v in cell.cost.items()}),
        _facts(_provenance(cell)),
    ]
    return (
        f'<details class="cell" id="cell-{_e(cell.cell)}"><summary><code>{_e(cell.cell)}</code> '
        f'{_e(name)} <span class="pale">{_e(where)}</span></summary>{reason}{curve}'
        f"{''.join(facts)}</details>"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    said = "; ".join(
        f"{_e(name)} <b>{_e(_shown(value))}</b>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<p>{said}</p>" if said else ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _metrics(cell: Result) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, metric in cell.metrics.items():
        facts[f"{name} ({metric.unit}, n={metric.n})"] = metric.value
        if name in cell.before:
            facts[f"{name}, untouched model"] = cell.before[name].value
    facts["forgotten, mean drop"] = cell.forgetting
    facts["largest change by merging"] = cell.merge_error
    facts["trainable parameters"] = cell.trainable
    return facts


def _provenance(cell: Result) -> dict[str, Any]:
    return {
        "experiment": cell.experiment or None,
        "command": cell.command or None,
        "code": cell.git,
        "device": cell.device,
        "precision": cell.precision,
        "threads": cell.threads,
        "finished": cell.finished or None,
        "versions": cell.versions or None,
        "data": "; ".join(cell.data) or None,
        "file": cell.file.name,
    }
