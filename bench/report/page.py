"""The report as one HTML page: the answer, verdicts, tables, figures, cells. It needs no network
and runs no scripts but its own. Whatever comes from a record is escaped, and a policy in the page
forbids the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from bench.judge.rows import count
from bench.report import (
    Report,
    files,
    forest,
    page_cells,
    page_verdicts,
    render,
    wording,
)
from bench.report.markup import escaped as _e

FIGURES_BYTES = 1_200_000  # of all figures together; what is beyond is named, not shown
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(report: Report, drawn: dict[str, list[Path]]) -> str:
    """The whole page; `drawn` has each sheet's figures, by slug, of which the SVGs are taken."""
    here = Path(__file__).parent
    room = [FIGURES_BYTES]
    body = [
        "<header><h1>mora-bench report</h1>",
        _answer(report),
        "</header>",
        *(f'<p class="warning">{_e(line)}</p>' for line in report.warnings),
        page_verdicts.section(report) if report.judgements else "",
        _contents(report),
        *(
            _sheet(i, table, drawn.get(slug, []), room)
            for i, (slug, table) in enumerate(_tables(report))
        ),
        page_cells.section([sheet.section for sheet in report.sheets]),
        f'<p class="pale">Made by <code>{_e(report.command)}</code></p>',
    ]
    style = (here / "page.css").read_text() + forest.STYLE
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mora-bench report</title>\n<style>\n{style}</style>\n"
        "</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<script>\n{(here / 'page.js').read_text()}</script>\n</body>\n</html>\n"
    )


def _answer(report: Report) -> str:
    """Three sentences and one picture."""
    if not report.judgements:
        return ""
    first, *more = wording.headlines(report.judgements)
    lines = [f'<p class="answer"><b>{_e(first)}</b></p>']
    lines += [f'<p class="answer">{_unbroken(_e(line))}</p>' for line in more]
    picture = forest.svg(report.judgements, inline=True)
    if picture:
        caption = (
            "Each comparison's effect and interval; small dots: single seeds; shaded: the margin; "
            "diamond: the paper; hollow: nothing could have shown, or rates unsettled. "
            "Click a row for what is behind it."
        )
        if left_out := forest.left_out(report.judgements):
            caption += f" {left_out}."
        lines.append(f'<figure>{picture}<figcaption class="pale">{caption}</figcaption></figure>')
    return "\n".join(lines)


def _unbroken(words: str) -> str:
    """No line ends within a learning rate."""
    return re.sub(r"\blr \S+e-\d+", r'<span class="whole">\g<0></span>', words)


def _tables(report: Report) -> list[tuple[str, render.Table]]:
    """All tables, each with the slug of its figures."""
    made = [(sheet.slug, sheet.table) for sheet in report.sheets]
    return made + [(one.slug, one.table) for one in report.series]


def _contents(report: Report) -> str:
    links = [(f"#sheet-{i}", table.title) for i, (_, table) in enumerate(_tables(report))]
    links.append(("#cells", "Cells"))
    listed = "".join(f'<li><a href="{a}">{_e(words)}</a></li>' for a, words in links)
    summary = f"Contents: {count(len(links) - 1, 'table')} and the cells"
    return f"<details><summary>{summary}</summary><nav><ul>{listed}</ul></nav></details>"


# ---------------------------------------------------------------------------- tables, figures


def _sheet(number: int, table: render.Table, drawn: Iterable[Path], room: list[int]) -> str:
    figures = [path for path in drawn if path.suffix == ".svg"]
    parts = [f'<h2 id="sheet-{number}">{_e(table.title)}</h2>', _table(table)]
    parts.append('<ul class="notes">')
    parts += [_note(note) for note in table.notes]
    parts += ["</ul>", "<details><summary>What was run</summary>", '<ul class="notes">']
    parts += [f"<li>{_e(line)}</li>" for line in table.sheet]
    parts += ["</ul></details>"]
    left_out = []
    for i, path in enumerate(figures):
        figure = _figure(path, f"f{number}-{i}-")
        room[0] -= len(figure)
        if room[0] >= 0:
            parts.append(figure)
        else:
            left_out.append(path.name)
    if left_out:
        parts.append(f'<p class="pale">Figures in the folder: {_e(", ".join(left_out))}</p>')
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
    names = [_e(f"{column.group} {column.title}".replace("\n", " ").strip())
             for column in table.columns]  # fmt: skip
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{_classes(column, value.mark)}" data-name="{name}">{_e(value.text)}</td>'
            for column, value, name in zip(table.columns, row, names, strict=True)
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
    return f'<figure class="drawn">{svg}<figcaption>{named}</figcaption></figure>'
