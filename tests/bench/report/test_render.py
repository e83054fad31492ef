"""A table as text, Markdown and LaTeX: aligned, well formed, harmless whatever a record says."""

from __future__ import annotations

import re
from pathlib import Path

from bench import records
from bench.report import render
from tests.bench.report.sheets import sheets

HOSTILE = "<script>alert('x')</script> | \\input{/etc/passwd} $x^2_y$ & `id`\n\x1b[31m# %~"


def test_columns_are_aligned(study: Path) -> None:
    lines = render.text(sheets(study)[0].table).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    body = lines[start + 1 : start + 4]
    assert len({line.index("|") for line in body}) == 1
    assert len({line.rindex(".") for line in body}) == 1


def test_a_narrow_terminal_gets_blocks(study: Path) -> None:
    table = sheets(study)[0].table
    text = render.text(table, 80)
    grid = [line for line in text.splitlines() if line.startswith(("FFT ", "MoRA ", "---"))]
    assert len(grid) > 3 * 1 and all(len(line) <= 80 for line in grid)
    for row in table.rows:
        for value in row:
            assert value.text in text


def test_words_of_a_record_are_no_markup(tmp_path: Path, make) -> None:
    record = make(status="failed", reason=HOSTILE)
    record["method"]["label"] = HOSTILE
    record["model"]["label"] = HOSTILE
    records.write(record, tmp_path)
    (sheet,) = sheets(tmp_path)
    markdown = render.markdown(sheet.table)
    assert "<script" not in markdown and "\\| " in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    latex = render.latex(sheet.table)
    assert r"\input" not in latex and r"\textbackslash{}input\{/etc/passwd\}" in latex
    assert not re.search(r"(?<!\\)[%#]", latex)
    text = render.text(sheet.table)
    assert "\x1b" not in text and "\n# %" not in text


def test_latex_is_well_formed(study: Path) -> None:
    latex = render.latex(sheets(study)[0].table)
    assert latex.count("{") == latex.count("}")
    spec = re.search(r"\\begin\{tabular\}\{(.*)\}", latex)
    assert spec is not None
    columns = len(re.sub(r"@\{[^}]*\}", "", spec[1]))
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 3
    assert all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in body)
    heads = [line for line in latex.splitlines() if r"\multicolumn" in line]
    spans = [int(n) for n in re.findall(r"multicolumn\{(\d+)\}", heads[0])]
    assert heads[0].count("&") + sum(spans) - len(spans) == columns - 1
    assert r"\textbf{97.1 $\pm$ 0.2}" in latex


def test_latex_has_no_letter_that_needs_a_package() -> None:
    words = "≥ 3 × 2 ± 1 – a_b → 5 %"
    table = render.Table("≤ 1", [words], [render.Column(words)], [[render.Value(words)]], [words])
    assert render.latex(table).isascii()
