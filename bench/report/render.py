"""A table and its renderings: plain text for a terminal, Markdown, LaTeX. Knows no records."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

DASH = "–"


@dataclass(frozen=True)
class Value:
    """One field of a table."""

    text: str = DASH
    mark: str = ""  # "best" or "second" of its column, or "strong"


@dataclass(frozen=True)
class Column:
    """`group` stands above the titles of neighbours that share it; both may have line breaks."""

    title: str
    group: str = ""
    numeric: bool = True
    quoted: bool = False  # not measured here: the paper's


@dataclass(frozen=True)
class Table:
    title: str
    sheet: list[str]  # what was run, before the table
    columns: list[Column]
    rows: list[list[Value]]
    notes: list[str]  # what must be said, after the table
    behind: list[tuple[str, list[str]]] = field(default_factory=list)  # row name, its cell ids


# ---------------------------------------------------------------------------- plain text


def text(table: Table, width: int | None = None) -> str:
    """Aligned for a terminal; where `width` is too small, in blocks that repeat the row names."""
    lines = [table.title, "=" * len(table.title)]
    lines += [part for line in table.sheet for part in _wrapped(line, width)]
    lines.append("")
    for block in _blocks(table, width):
        lines += [*_grid(table, block), ""]
    if any(value.mark for row in table.rows for value in row):
        lines.append("* best of its column, + second best")
    lines += [part for note in table.notes for part in _wrapped(f"- {note}", width)]
    return "\n".join(map(_printable, lines)).rstrip() + "\n"


def _wrapped(line: str, width: int | None) -> list[str]:
    return textwrap.wrap(line, width or 120, subsequent_indent="  ", break_on_hyphens=False)


def _printable(line: str) -> str:
    """Nothing in a record may steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in line)


_NAMES = 3  # method, rank, learning rate: repeated in every block


def _blocks(table: Table, width: int | None) -> list[list[int]]:
    everything = list(range(len(table.columns)))
    if width is None or _width(table, everything) <= width:
        return [everything]
    blocks: list[list[int]] = []
    current = everything[:_NAMES]
    for i in everything[_NAMES:]:
        if _width(table, [*current, i]) > width and len(current) > _NAMES:
            blocks.append(current)
            current = everything[:_NAMES]
        current = [*current, i]
    return [*blocks, current]


def _width(table: Table, block: list[int]) -> int:
    return max(map(len, _grid(table, block)))


def _shown(value: Value) -> str:
    """Marks take one place to the right, so that digits stay aligned."""
    return value.text + {"best": "*", "second": "+"}.get(value.mark, " ")


def _grid(table: Table, block: list[int]) -> list[str]:
    columns = [table.columns[i] for i in block]
    body = [[_shown(row[i]) for i in block] for row in table.rows]
    titles = [[*column.title.split("\n")] for column in columns]
    depth = max(map(len, titles))
    titles = [[""] * (depth - len(t)) + t for t in titles]
    widths = [
        max(len(line) for line in [*titles[j], *(row[j].rstrip() for row in body)]) + 1
        for j in range(len(columns))
    ]
    spans = _spans(columns)
    for start, end in spans:  # a group needs room for its name
        need = max(len(line) for line in columns[start].group.split("\n")) + 1
        room = sum(widths[start:end]) + (end - start - 1)
        for k in range(max(0, need - room)):
            widths[start + k % (end - start)] += 1
    bars = [j > 0 and columns[j].quoted and not columns[j - 1].quoted for j in range(len(columns))]

    def line(fields: Sequence[str]) -> str:
        words = [
            ("| " if bars[j] else "")
            + (f"{word:>{widths[j]}}" if columns[j].numeric else f"{word:<{widths[j]}}")
            for j, word in enumerate(fields)
        ]
        return " ".join(words).rstrip()

    lines = []
    if spans:
        height = max(len(columns[start].group.split("\n")) for start, _ in spans)
        lines += [
            _group_line(columns, widths, bars, spans, level, height) for level in range(height)
        ]
    for level in range(depth):
        words = [title[level] for title in titles]
        lines.append(
            line([f"{w} " if c.numeric else w for w, c in zip(words, columns, strict=True)])
        )
    rule = "-" * max(map(len, [*lines, *(line(row) for row in body)]))
    return [*lines, rule, *(line(row) for row in body)]


def _spans(columns: Sequence[Column]) -> list[tuple[int, int]]:
    """Runs of neighbours that share a group."""
    spans: list[tuple[int, int]] = []
    for j, column in enumerate(columns):
        if not column.group:
            continue
        if spans and spans[-1][1] == j and columns[j - 1].group == column.group:
            spans[-1] = (spans[-1][0], j + 1)
        else:
            spans.append((j, j + 1))
    return spans


def _group_line(
    columns: Sequence[Column],
    widths: Sequence[int],
    bars: Sequence[bool],
    spans: Sequence[tuple[int, int]],
    level: int,
    height: int,
) -> str:
    starts = dict(spans)
    words, j = [], 0
    while j < len(columns):
        end = starts.get(j, j + 1)
        room = sum(widths[j:end]) + (end - j - 1)
        names = columns[j].group.split("\n") if j in starts else []
        names = [""] * (height - len(names)) + names
        words.append(("| " if bars[j] else "") + f"{names[level]:^{room}}")
        j = end
    return " ".join(words).rstrip()


# ---------------------------------------------------------------------------- Markdown


def markdown(table: Table) -> str:
    """GitHub's Markdown: best in bold, second best in italics."""
    lines = [
        f"## {escape_markdown(table.title)}",
        "",
        *(f"- {escape_markdown(line)}" for line in table.sheet),
        "",
    ]
    heads = []
    for column in table.columns:
        head = f"{column.group}\n{column.title}".strip() if column.group else column.title
        heads.append("<br>".join(escape_markdown(part) for part in head.split("\n")))
    lines += [_md_row(heads), _md_row(["---:" if c.numeric else ":---" for c in table.columns])]
    around = {"best": "**", "strong": "**", "second": "*", "": ""}
    for row in table.rows:
        lines.append(
            _md_row([around[v.mark] + escape_markdown(v.text) + around[v.mark] for v in row])
        )
    lines.append("")
    if any(value.mark == "best" for row in table.rows for value in row):
        lines += ["Best of each column in bold, second best in italics.", ""]
    lines += [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _md_row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def escape_markdown(words: str) -> str:
    """Nothing in a record may act as markup."""
    words = " ".join(words.split())
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", words)


# ---------------------------------------------------------------------------- LaTeX


def latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs}. Best in bold, second best underlined."""
    around = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    around["strong"] = around["best"]
    spec = ""
    for j, column in enumerate(table.columns):
        gap = r"@{\quad}" if column.quoted and not table.columns[j - 1].quoted else ""
        spec += gap + ("r" if column.numeric else "l")
    heads = [_tex(column.title.replace("\n", " ")) for column in table.columns]
    body = [" & ".join(around[v.mark] % _tex(v.text) for v in row) + r" \\" for row in table.rows]
    notes_ = "; ".join(_tex(line) for line in [*table.sheet, *table.notes])
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_tex(table.title)}. {notes_}.}}",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        *_tex_groups(table.columns),
        " & ".join(heads) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_groups(columns: Sequence[Column]) -> list[str]:
    spans = _spans(columns)
    if not spans:
        return []
    fields, j = [], 0
    starts = dict(spans)
    while j < len(columns):
        end = starts.get(j, j + 1)
        name = _tex(columns[j].group.replace("\n", " "))
        fields.append(rf"\multicolumn{{{end - j}}}{{c}}{{{name}}}" if j in starts else "")
        j = end
    rules = " ".join(rf"\cmidrule(lr){{{start + 1}-{end}}}" for start, end in spans)
    return [" & ".join(fields) + r" \\", rules]


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "…": r"\ldots{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "→": r"$\to$",
}  # fmt: skip


def _tex(words: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in " ".join(words.split()))
