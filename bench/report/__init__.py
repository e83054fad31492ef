"""From records to tables, figures and verdicts: `python -m bench.report PATH`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import records
from bench.errors import UserError
from bench.judge import cells, foreign, settings
from bench.judge.cells import Collection, Result
from bench.judge.claims import Claim
from bench.judge.rows import Section, group
from bench.records.words import free_name
from bench.report import render, series, tables

if TYPE_CHECKING:
    from bench.judge.primary import Family
    from bench.judge.verdicts import Judgement

__all__ = ["Report", "Sheet", "collect", "make", "text"]


@dataclass(frozen=True)
class Sheet:
    """A section with its table; `slug` begins the names of its files."""

    section: Section
    metric: str | None
    table: render.Table
    slug: str


@dataclass
class Report:
    """All sheets of a path, the verdicts, and what must be said of the whole."""

    command: str
    sheets: list[Sheet]
    warnings: list[str] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    series: list[series.Series] = field(default_factory=list)


def collect(path: str | Path) -> Collection:
    """Records of ours below the path, anyone's table (CSV), or what peft's comparison stores.

    Raises UserError where there is none of these, or what is there can't be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return foreign.table(path)
    if path.is_dir() and not records.find(path) and foreign.peft_files(path):
        return foreign.peft(path)
    return cells.collect(path)


def make(
    found: Collection,
    metric: str | None = None,
    claims: Sequence[Claim] | None = None,
    claims_from: Path | None = None,
    *,
    family: Family | None = None,
    claims_only: bool = False,
) -> Report:
    """Tables of all sections, and verdicts on the claims, which lie in `claims_from` if not ours.

    family: the primary comparisons, judged together; all other claims are exploratory.

    claims_only: no tables, and so no figures either.
    Raises UserError where no section has the metric.
    """
    sections = group(found.cells)
    known = list(dict.fromkeys(name for section in sections for name in section.metrics))
    if metric is not None and metric not in known:
        raise UserError(
            f"--metric {metric}: no record below {found.path} has it; "
            f"there are: {', '.join(known) or 'none'}"
        )
    command = f"python -m bench.report {shlex.quote(found.path)}"
    command += f" --metric {shlex.quote(metric)}" if metric else ""
    judged = claims is not None
    if judged:
        own = "" if claims_from is None else f"-from {shlex.quote(str(claims_from))}"
        command += f" --claims{own}" + " --claims-only" * claims_only
    again = settings.twins(found)
    sheets = [
        Sheet(section, section.main_metric(metric), _table(section, metric, again), slug)
        for section, slug in zip(sections, _slugs(sections), strict=True)
        if not claims_only
    ]
    judgements = []
    if judged:
        from bench.judge.judging import judge  # scipy takes a second to import

        judgements = judge(claims or [], found, family)
    several = [] if claims_only else series.find(sections)
    return Report(command, sheets, _warnings(found), judgements, sections, several)


def _table(
    section: Section, metric: str | None, twins: Mapping[str, list[list[Result]]]
) -> render.Table:
    return tables.build(section, metric, twins.get(settings.of_section(section), ()))


def _warnings(found: Collection) -> list[str]:
    said = [f"refused, and not part of any number: {message}" for message in found.refused]
    if files := [str(cell.file) for cell in [*(b for _, b in found.repeats), *found.again]]:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        said.append(f"cells that lie there twice, each counted once: {', '.join(files[:5])}{more}")
    if none := foreign.supports(found):
        said.append(none)
    return said


def _slugs(sections: list[Section]) -> list[str]:
    """One section needs no name; several are named by task, model, scale, and what sets them apart.

    A number follows where that is the same.
    """
    if len(sections) == 1:
        return [""]
    made: list[str] = []
    for section in sections:
        split = "" if section.split == "reported" else f"-{section.split}"
        words = f"{section.task}-{section.model}-{section.scale}{split}"
        words += f"-{section.detail}" if section.detail else ""
        made.append(free_name(words.replace(", ", "-"), made))
    return made


def text(report: Report, width: int | None = None) -> str:
    """What the command prints; lines fit into `width` where one is given."""
    parts = [render.text(sheet.table, width) for sheet in report.sheets]
    parts += [render.text(one.table, width) for one in report.series]
    if report.judgements:
        from bench.report import verdict_sheet

        parts.append(verdict_sheet.text(report.judgements))
    if report.warnings:
        parts.append("".join(f"WARNING: {line}\n" for line in report.warnings))
    return "\n".join(parts)
