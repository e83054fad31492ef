"""From records to tables, figures and verdicts: `python -m bench.report PATH`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from bench import records
from bench.errors import UserError
from bench.report import render, tables
from bench.report.cells import Collection, Section, collect

__all__ = ["Report", "Sheet", "collect", "make", "write"]


@dataclass(frozen=True)
class Sheet:
    """A section with its table; `slug` begins the names of its files."""

    section: Section
    metric: str | None
    table: render.Table
    slug: str


@dataclass
class Report:
    """All sheets of a path, and what must be said of the whole."""

    command: str
    sheets: list[Sheet]
    warnings: list[str] = field(default_factory=list)


def make(found: Collection, metric: str | None = None) -> Report:
    """Tables of all sections. Raises UserError where no section has the metric."""
    sections = found.sections()
    known = list(dict.fromkeys(name for section in sections for name in section.metrics))
    if metric is not None and metric not in known:
        raise UserError(
            f"--metric {metric}: no record below {found.path} has it; "
            f"there are: {', '.join(known) or 'none'}"
        )
    command = f"python -m bench.report {shlex.quote(found.path)}"
    command += f" --metric {shlex.quote(metric)}" if metric else ""
    slugs = _slugs(sections)
    sheets = [
        Sheet(section, section.main_metric(metric), tables.build(section, metric), slug)
        for section, slug in zip(sections, slugs, strict=True)
    ]
    warnings = [f"refused, and not part of any number: {message}" for message in found.refused]
    if found.repeats:
        files = [str(second.file) for _, second in found.repeats]
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        warnings.append(
            f"cells that lie there twice, each counted once: {', '.join(files[:5])}{more}"
        )
    return Report(command, sheets, warnings)


def _slugs(sections: list[Section]) -> list[str]:
    """One section needs no name; several are named by task, model, scale, and a number if alike."""
    if len(sections) == 1:
        return [""]
    made: list[str] = []
    for section in sections:
        split = "" if section.split == "reported" else f"-{section.split}"
        words = f"{section.task}-{section.model}-{section.scale}{split}"
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in words)
        alike = sum(slug.startswith(name) for slug in made)
        made.append(f"{name}-{alike + 1}-" if alike else f"{name}-")
    return made


def text(report: Report, width: int | None = None) -> str:
    """What the command prints."""
    parts = [render.text(sheet.table, width) for sheet in report.sheets]
    parts += ["".join(f"WARNING: {line}\n" for line in report.warnings)] if report.warnings else []
    return "\n".join(parts)


def write(report: Report, out: Path, figures_of: int = 8) -> list[Path]:
    """Write tables and figures into the folder, the same bytes for the same records.

    Figures are drawn for the first `figures_of` sections.
    Raises UserError where the folder can't be written to.
    """
    records.prepare_folder(out)
    files = []
    drawn: dict[str, list[Path]] = {}
    for sheet in report.sheets[:figures_of]:
        drawn[sheet.slug] = _figures(report, sheet, out)
    for name, content in (
        ("table.md", _markdown(report, drawn)),
        ("table.tex", _latex(report)),
        ("table.csv", tables.as_csv([sheet.section for sheet in report.sheets], report.command)),
    ):
        path = out / name
        records.atomic_write(path, content.encode())
        files.append(path)
    return files + [path for paths in drawn.values() for path in paths]


def _figures(report: Report, sheet: Sheet, out: Path) -> list[Path]:
    from bench.report import figures  # matplotlib takes a second to import

    description = f"Made by: {report.command}. Records: {' '.join(_ids(sheet))}"
    made = []
    for name, figure in (
        ("loss", figures.loss_figure(sheet.section, sheet.metric)),
        (sheet.metric or "score", figures.score_figure(sheet.section, sheet.metric)),
    ):
        if figure is not None:
            made += figures.save(figure, out / f"{sheet.slug}{name}", description)
    return made


def _ids(sheet: Sheet) -> list[str]:
    return [cell for _, cells in sheet.table.behind for cell in cells]


def _markdown(report: Report, drawn: dict[str, list[Path]]) -> str:
    parts = []
    for sheet in report.sheets:
        parts.append(render.markdown(sheet.table))
        images = [path for path in drawn.get(sheet.slug, []) if path.suffix == ".svg"]
        if images:
            parts.append("\n".join(f"![{path.stem}]({path.name})" for path in images) + "\n")
        rows = [f"- {render.escape_markdown(n)}: {' '.join(ids)}" for n, ids in sheet.table.behind]
        parts.append("\n".join(["Records behind each row:", "", *rows]) + "\n")
    parts += [f"- WARNING: {render.escape_markdown(line)}\n" for line in report.warnings]
    parts.append(f"Made by `{report.command}`.\n")
    return "\n".join(parts)


def _latex(report: Report) -> str:
    parts = [f"% made by: {report.command}\n"]
    for sheet in report.sheets:
        behind = [
            f"% {' '.join(name.split())}: {' '.join(ids)}" for name, ids in sheet.table.behind
        ]
        parts.append(render.latex(sheet.table) + "\n".join(["% records:", *behind]) + "\n")
    parts += [f"% WARNING: {' '.join(line.split())}\n" for line in report.warnings]
    return "\n".join(parts)
