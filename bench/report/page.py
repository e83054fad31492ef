"""The report as one HTML page: verdicts, tables, figures, every cell; no network, no scripts but
its own. Whatever comes from a record is escaped, and a policy in the page forbids the rest.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bench import records
from bench.errors import UserError
from bench.judge.cells import Array, Cell, format_rate
from bench.judge.verdicts import FAILS, HOLDS, Judgement
from bench.report import Report, Sheet, files, render, verdict_sheet
from bench.report.tables import count

CELLS_SHOWN = 2_000  # more than these make a page that no browser likes
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LOOK = {HOLDS: "holds", FAILS: "fails"}


def page(report: Report, drawn: dict[str, list[Path]]) -> str:
    """The whole page; `drawn` has each sheet's figures, by slug, of which the SVGs are taken."""
    here = Path(__file__).parent
    sheets = report.sheets
    body = [
        "<h1>mora-bench report</h1>",
        f'<p class="pale">Made by <code>{_e(report.command)}</code></p>',
        _links(report),
        *(f'<p class="warning">{_e(line)}</p>' for line in report.warnings),
        _verdicts(report.judgements) if report.judgements else "",
        *(_sheet(i, sheet, drawn.get(sheet.slug, [])) for i, sheet in enumerate(sheets)),
        _cells([cell for sheet in sheets for cell in sheet.section.cells]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mora-bench report</title>\n<style>\n{(here / 'page.css').read_text()}</style>\n"
        "</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<script>\n{(here / 'page.js').read_text()}</script>\n</body>\n</html>\n"
    )


def _e(words: object) -> str:
    """Escaped for text and attributes; control characters become spaces."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else " " for c in str(words)))


def _links(report: Report) -> str:
    links = [("#verdicts", "Verdicts")] if report.judgements else []
    links += [(f"#sheet-{i}", sheet.table.title) for i, sheet in enumerate(report.sheets)]
    links.append(("#cells", "Cells"))
    return "<nav>" + "".join(f'<a href="{a}">{_e(words)}</a>' for a, words in links) + "</nav>"


# ---------------------------------------------------------------------------- verdicts


def _verdicts(judgements: Sequence[Judgement]) -> str:
    """Those with numbers in a table; below it, folded, those that lack cells to judge."""
    judged = [j for j in judgements if j.estimate is not None]
    waiting = [j for j in judgements if j.estimate is None and j.setting]
    idle = [j for j in judgements if not j.setting]
    parts = ['<h2 id="verdicts">Verdicts</h2>', '<ul class="sheet">']
    parts += [f"<li>{_e(line)}</li>" for line in verdict_sheet.preface(judgements)]
    parts += ["</ul>", _verdict_table(judged) if judged else "<p>No comparison has cells.</p>"]
    if waiting:
        summary = f"{count(len(waiting), 'comparison')} undecided for want of cells"
        parts.append(f"<details><summary>{summary}</summary>{_verdict_table(waiting)}</details>")
    if idle:
        items = "".join(
            f"<li><b>{_e(j.claim.id)}</b>: {_e(j.claim.says)} "
            f'<span class="pale">{_e(j.reason)}</span></li>'
            for j in idle
        )
        summary = f"{count(len(idle), 'claim')} undecided: no cells here"
        parts.append(f"<details><summary>{summary}</summary>")
        parts.append(f'<ul class="notes">{items}</ul></details>')
    return "\n".join(parts)


_HEADS = ("verdict", "claim", "protocol", "a and b", "a better by", "interval", "seeds", "cells",
          "detectable", "remarks")  # fmt: skip


def _verdict_table(judgements: Sequence[Judgement]) -> str:
    numeric = {"a better by", "interval", "seeds", "cells", "detectable"}
    head = "".join(
        f'<th{" class=n" if h in numeric else ""} scope="col"><button>{h}</button></th>'
        for h in _HEADS
    )
    rows = "\n".join(map(_verdict_row, judgements))
    return (
        f'<div class="wide"><table class="sortable verdicts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _verdict_row(judgement: Judgement) -> str:
    claim, found = judgement.claim, judgement.estimate
    look = _LOOK.get(judgement.verdict, "undecided")
    size, interval = verdict_sheet.effect(judgement)
    remarks = "".join(f"<li>{_e(line)}</li>" for line in verdict_sheet.remarks(judgement))
    stated = f"{claim.id}; stated: {claim.stated}"
    measured = f"{judgement.measured}: {verdict_sheet.wanted(judgement)}"
    words = "<br>".join(map(_e, (measured, judgement.setting, stated)))
    cells = _cell_links(judgement.cells)
    fields = [
        f'<td><span class="verdict {look}">{_e(verdict_sheet.verdict(judgement))}</span></td>',
        f'<td>{_e(claim.says)}<br><span class="pale">{words}</span></td>',
        f"<td>{_e(judgement.protocol)}</td>",
        f'<td class="arms">a = {_e(judgement.arms[0])}<br>b = {_e(judgement.arms[1])}</td>',
        f'<td class="n">{_e(size)}</td>',
        f'<td class="n">{_e(interval)}</td>',
        f'<td class="n">{"–" if found is None else found.n}</td>',
        f'<td class="n">{cells}</td>',
        f'<td class="n">{_e(verdict_sheet.detectable(judgement))}</td>',
        f'<td><ul class="notes">{remarks}</ul></td>' if remarks else "<td></td>",
    ]
    return f"<tr>{''.join(fields)}</tr>"


def _cell_links(cells: Sequence[str]) -> str:
    if not cells:
        return "0"
    links = " ".join(f'<a href="#cell-{_e(cell)}">{_e(cell[:6])}</a>' for cell in cells)
    return f"<details><summary>{len(cells)}</summary>{links}</details>"


# ---------------------------------------------------------------------------- tables, figures


def _sheet(number: int, sheet: Sheet, drawn: Iterable[Path]) -> str:
    table = sheet.table
    figures = [path for path in drawn if path.suffix == ".svg"]
    parts = [f'<h2 id="sheet-{number}">{_e(table.title)}</h2>', '<ul class="sheet">']
    parts += [f"<li>{_e(line)}</li>" for line in table.sheet]
    parts += ["</ul>", _table(table), '<ul class="notes">']
    parts += [_note(note) for note in table.notes]
    parts += ["</ul>"]
    parts += [_figure(path, f"f{number}-{i}-") for i, path in enumerate(figures)]
    return "\n".join(parts)


def _note(note: str) -> str:
    return f"<li{' class=warning' if note.startswith('WARNING') else ''}>{_e(note)}</li>"


def _table(table: render.Table) -> str:
    groups = "".join(
        _group_head(name, list(columns))
        for name, columns in groupby(table.columns, key=lambda column: column.group)
    )
    heads = "".join(
        f'<th class="{_classes(column)}" scope="col"><button>{_e(column.title)}</button></th>'
        for column in table.columns
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{_classes(column, value.mark)}">{_e(value.text)}</td>'
            for column, value in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    first = f"<tr>{groups}</tr>" if any(column.group for column in table.columns) else ""
    return (
        f'<div class="wide"><table class="sortable"><thead>{first}<tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="pale">Click a heading to sort. Bold: best of the column; underlined: second '
        "best. Shaded columns are the paper's.</p>"
    )


def _group_head(name: str, columns: list[render.Column]) -> str:
    quoted = " quoted" if columns[0].quoted else ""
    if not name:
        return f'<th colspan="{len(columns)}"></th>'
    words = _e(name).replace("\n", "<br>")
    return f'<th class="group{quoted}" colspan="{len(columns)}" scope="colgroup">{words}</th>'


def _classes(column: render.Column, mark: str = "") -> str:
    return " ".join(filter(None, ["n" * column.numeric, "quoted" * column.quoted, mark]))


def _figure(path: Path, prefix: str) -> str:
    """An SVG of ours, inline; ids get a prefix so that figures don't share each other's."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    caption = files.caption(path)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{_e(caption)}"', 1)
    named = f'{_e(caption)} <span class="pale">({_e(path.name)})</span>'
    return f"<figure>{svg}<figcaption>{named}</figcaption></figure>"


# ---------------------------------------------------------------------------- cells


def _cells(cells: Sequence[Cell]) -> str:
    shown = cells[:CELLS_SHOWN]
    parts = [f'<h2 id="cells">Cells</h2><p class="pale">{count(len(cells), "record")}']
    if len(shown) < len(cells):
        parts.append(f"; the first {len(shown):,} are shown")
    parts.append("</p>")
    return "".join(parts) + "\n" + "\n".join(map(_cell, shown))


def _cell(cell: Cell) -> str:
    rank = "" if cell.rank is None else f" r={cell.rank}"
    rate = "" if cell.learning_rate is None else f", lr {format_rate(cell.learning_rate)}"
    name = f"{cell.label}{rank}{rate}, seed {cell.seed}: {cell.status}"
    where = f"{cell.task_label} on {cell.model_label}"
    try:
        record = records.read(cell.file)
    except UserError as error:
        return f'<p class="warning">{_e(error)}</p>'
    facts = [
        _facts("Metrics", _metric_facts(cell)),
        _facts("Cost", {k.replace("_", " "): v for k, v in cell.cost.items()}),
        _facts("Provenance", _provenance(record, cell)),
    ]
    reason = f'<p class="warning">{_e(cell.reason)}</p>' if cell.reason else ""
    curve = _spark(cell.train.get("step"), cell.train.get("loss"))
    config = _e(json.dumps(record["config"], indent=2, ensure_ascii=False))
    return (
        f'<details class="cell" id="cell-{_e(cell.cell)}"><summary><code>{_e(cell.cell)}</code> '
        f'{_e(name)} <span class="pale">{_e(where)}</span></summary>{reason}{curve}'
        f'<div class="facts">{"".join(facts)}</div>'
        f"<details><summary>configuration</summary><pre>{config}</pre></details></details>"
    )


def _facts(heading: str, facts: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{_e(name)}</td><td class="n">{_e(_shown(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f"<div><h3>{heading}</h3><table>{rows}</table></div>" if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _metric_facts(cell: Cell) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, metric in cell.metrics.items():
        facts[f"{name} ({metric.unit}, n={metric.n})"] = metric.value
        if name in cell.before:
            facts[f"{name}, untouched model"] = cell.before[name].value
    facts["forgotten, mean drop"] = cell.forgetting
    facts["largest change by merging"] = cell.merge_error
    facts["trainable parameters"] = cell.trainable
    facts["all parameters"] = cell.total
    return facts


def _provenance(record: records.Record, cell: Cell) -> dict[str, Any]:
    versions = record["environment"]["versions"]
    return {
        "experiment": cell.experiment,
        "command": record["command"],
        "code": cell.git,
        "device": cell.device,
        "precision": cell.precision,
        "threads": cell.threads,
        "started": record["started"],
        "finished": record["finished"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "data": "; ".join(cell.data) or None,
        "file": cell.file.name,
    }


def _spark(steps: Array | None, losses: Array | None, width: int = 480, height: int = 90) -> str:
    """The loss as a line with its first and last value; no more than 200 points."""
    if steps is None or losses is None:
        return ""
    known = np.isfinite(losses)
    steps, losses = steps[known], losses[known]
    if len(steps) < 2:
        return ""
    chosen = np.unique(np.linspace(0, len(steps) - 1, 200).round().astype(int))
    x = (steps[chosen] - steps[0]) / max(1.0, float(steps[-1] - steps[0])) * (width - 10) + 5
    span = max(1e-12, float(losses.max() - losses.min()))
    y = (losses.max() - losses[chosen]) / span * (height - 30) + 10
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    words = (
        f"loss from {losses[0]:.3g} to {losses[-1]:.3g}, steps {steps[0]:.0f} to {steps[-1]:.0f}"
    )
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<polyline points="{line}" fill="none" stroke="#0b5394" stroke-width="1.5"/>'
        f'<text x="5" y="{height - 4}" font-size="11" fill="#5a5a5a">{words}</text></svg>'
    )
