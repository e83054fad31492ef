"""The tables of a folder, as tests look at them."""

from __future__ import annotations

from pathlib import Path

from bench import report
from bench.judge.cells import collect


def sheets(folder: Path, metric: str | None = None) -> list[report.Sheet]:
    return report.make(collect(folder), metric).sheets


def fields(sheet: report.Sheet) -> list[dict[str, str]]:
    """Rows of a table as {group + title: text}."""
    names = [" ".join(f"{c.group} {c.title}".split()) for c in sheet.table.columns]
    return [dict(zip(names, (v.text for v in row), strict=True)) for row in sheet.table.rows]
