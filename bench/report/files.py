"""Writes a report's files: the same bytes for the same records, each saying what made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import records
from bench.judge.parallel import mapped
from bench.judge.rows import Section
from bench.records.words import file_name
from bench.report import Report, Sheet, render, series, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES_OF = 8  # sections that get figures; a folder of everything has dozens
MANY_FIGURES = 12  # of more than one sheet: several processes draw them
MANY_CELLS = 2_000  # from which on only the first section gets them: drawing one takes a second
CAPTIONS = {
    "loss": "Training loss against optimiser steps",
    "spectrum": "Singular values of ΔW; by layer kind, how many exceed 0.1 and the effective rank",
    "forgetting": "What was learned against what was forgotten",
    "cost": "Final score against what it cost",
    "learning_rate": "Final score against the learning rate: its peak, and how wide it is",
    "series": "What each arm ends with against a number of the task",
}
GAPS = "distance"  # the figure of claims of a trend
TAKEN = {*CAPTIONS, GAPS, "forest", "trials"}  # names of figures, which a metric may have too


def write(report: Report, out: Path, page: Path | None = None) -> list[Path]:
    """Write tables, verdicts and figures into the folder, and all of it as one HTML page.

    Raises UserError where it can't be written to.
    """
    records.prepare_folder(out)
    drawn = _figures(report, out) | _series(report, out)
    contents = {}
    if report.sheets:
        contents = {
            "table.md": _markdown(report, drawn),
            "table.tex": _latex(report),
            "table.csv": tables.as_csv([s.section for s in report.sheets], report.command),
        }
    if report.judgements:
        from bench.report import trials

        contents |= _claims(report)
        if searched := trials.curves(report.judgements):
            contents["trials.csv"] = trials.as_csv(searched)
    for name, content in contents.items():
        records.atomic_write(out / name, content.encode())
    wrote = [out / name for name in contents]
    wrote += [path for paths in drawn.values() for path in paths]
    if "claims.md" in contents and FIGURES_OF:
        from bench.report import figures, gaps

        for stem, drawing in (
            ("trials", trials.figure(searched)),
            (GAPS, gaps.figure(report.judgements)),
        ):
            if drawing is not None:
                wrote += figures.save(drawing, out / stem, f"Made by: {report.command}")
    if page is not None:
        from bench.report.page import page as build

        records.atomic_write(page, build(report, drawn).encode())
        wrote.append(page)
    return wrote


def changes(report: Report, out: Path) -> list[str]:
    """How verdicts differ from those that the folder holds from an earlier report."""
    from bench.report import verdict_sheet

    earlier = out / "claims.csv"
    if not report.judgements or not earlier.is_file():
        return []
    return verdict_sheet.changes(earlier.read_text(errors="replace"), report.judgements)


def caption(figure: Path) -> str:
    """What the figure shows, by its file's name."""
    name = figure.stem.rsplit("-", 1)[-1]
    return CAPTIONS.get(name, f"{name.replace('_', ' ')} along the run")


def _figures(report: Report, out: Path) -> dict[str, list[Path]]:
    """Of each sheet that gets figures, by its slug, their files."""
    many = sum(len(section.cells) for section in report.sections) >= MANY_CELLS
    pictured = [sheet for sheet in report.sheets if sheet.section.key not in _told(report)]
    pictured = pictured[: min(1, FIGURES_OF) if many else FIGURES_OF]
    if not pictured:
        return {}
    from bench.report import curves, plots  # matplotlib takes a second to import

    draws = {
        "loss": curves.loss_figure,
        "": curves.score_figure,  # its name is the metric's
        "spectrum": plots.spectrum_figure,
        "forgetting": plots.forgetting_figure,
        "cost": plots.cost_figure,
        "learning_rate": plots.rate_figure,
    }
    wanted = [
        _Wanted(draw, sheet, out / f"{sheet.slug}{name or _named(sheet.metric)}", report.command)
        for sheet in pictured
        for name, draw in draws.items()
    ]
    drawn: dict[str, list[Path]] = {sheet.slug: [] for sheet in pictured}
    made = mapped(_drawn, wanted, least=MANY_FIGURES)  # cells are sent along: few are no gain
    for figure, paths in zip(wanted, made, strict=True):
        drawn[figure.sheet.slug] += paths
    return drawn


def _named(metric: str | None) -> str:
    """The name of a metric's figure: one in this folder, and no other figure's."""
    name = file_name(metric or "score").replace("-", "_")  # what follows a "-" is the caption
    return f"score_{name}" if name in TAKEN else name


def _told(report: Report) -> set[str]:
    """Sections whose series has the figure: of a series only the largest gets its own."""
    return {
        section.key
        for one in report.series
        for section in one.sections.values()
        if section is not one.largest
    }


def _series(report: Report, out: Path) -> dict[str, list[Path]]:
    """Of each series, by its slug, the files of its figure."""
    if not report.series or not FIGURES_OF:
        return {}
    from bench.report import figures

    drawn: dict[str, list[Path]] = {}
    for one in report.series[:FIGURES_OF]:
        figure = series.figure(one)
        if figure is not None:
            ids = " ".join(cell.cell for s in one.sections.values() for cell in s.cells)
            description = f"Made by: {report.command}. Records: {ids}"
            drawn[one.slug] = figures.save(figure, out / f"{one.slug}series", description)
    return drawn


@dataclass(frozen=True)
class _Wanted:
    """A figure of a sheet, if its records have the numbers."""

    draw: Callable[[Section, str | None], Figure | None]
    sheet: Sheet
    stem: Path
    command: str


def _drawn(wanted: _Wanted) -> list[Path]:
    from bench.report import figures

    figure = wanted.draw(wanted.sheet.section, wanted.sheet.metric)
    if figure is None:
        return []
    ids = " ".join(cell for _, cells in wanted.sheet.table.behind for cell in cells)
    return figures.save(figure, wanted.stem, f"Made by: {wanted.command}. Records: {ids}")


def _markdown(report: Report, drawn: dict[str, list[Path]]) -> str:
    parts = []
    for sheet in report.sheets:
        parts.append(render.markdown(sheet.table))
        parts += _images(drawn.get(sheet.slug, []))
        parts.append(_behind_markdown("Records behind each row:", sheet.table))
    for one in report.series:
        parts += [render.markdown(one.table), *_images(drawn.get(one.slug, []))]
    parts += [f"- WARNING: {render.escape_markdown(line)}\n" for line in report.warnings]
    parts.append(f"Made by `{report.command}`.\n")
    return "\n".join(parts)


def _images(drawn: list[Path]) -> list[str]:
    """A line for each SVG, one paragraph each."""
    return [f"![{caption(path)}]({path.name})\n" for path in drawn if path.suffix == ".svg"]


def _latex(report: Report) -> str:
    parts = [f"% made by: {report.command}\n"]
    parts += [render.latex(sheet.table) + _behind_latex(sheet.table) for sheet in report.sheets]
    parts += [render.latex(one.table) for one in report.series]
    parts += [f"% WARNING: {_line(warning)}\n" for warning in report.warnings]
    return "\n".join(parts)


def _claims(report: Report) -> dict[str, str]:
    """claims.md says what a reader needs; ids, reasons and remarks are in claims.csv."""
    from bench.report import forest, gaps, trials, verdict_sheet, wording

    table = verdict_sheet.table(report.judgements)
    picture = forest.svg(report.judgements)
    parts = ["\n\n".join(map(render.escape_markdown, wording.headlines(report.judgements))) + "\n"]
    if picture:
        parts.append("![Effects with their intervals, a panel a unit](forest.svg)\n")
        if left_out := forest.left_out(report.judgements):
            parts.append(f"{left_out}.\n")
    parts.append(render.markdown(table))
    if gaps.trends(report.judgements):
        parts.append(f"![Gaps between arms against the distance of the task]({GAPS}.svg)\n")
    if searched := trials.curves(report.judgements):
        more = f": {said}." if (said := trials.left_out(searched)) else ""
        parts.append(f"[The expected best after k trials of the learning rate](trials.svg){more}\n")
    waiting = verdict_sheet.waiting(report.judgements)
    if waiting:
        lines = (f"- {render.escape_markdown(line)}" for line in waiting)
        parts.append("\n".join(["### Without numbers, for want of cells", "", *lines]) + "\n")
    parts += [f"- WARNING: {render.escape_markdown(line)}\n" for line in report.warnings]
    parts.append(f"Records, reasons and remarks: claims.csv. Made by `{report.command}`.\n")
    tex = f"% made by: {report.command}\n{render.latex(table)}{_behind_latex(table)}"
    tex += "".join(f"% without numbers: {_line(line)}\n" for line in waiting)
    made = {
        "claims.md": "\n".join(parts),
        "claims.tex": tex,
        "claims.csv": verdict_sheet.as_csv(report.judgements, report.command),
    }
    return made | ({"forest.svg": picture} if picture else {})


def _behind_markdown(heading: str, table: render.Table) -> str:
    rows = [f"- {render.escape_markdown(name)}: {' '.join(ids)}" for name, ids in table.behind]
    return "\n".join([heading, "", *rows]) + "\n"


def _behind_latex(table: render.Table) -> str:
    rows = [f"% {_line(name)}: {' '.join(ids)}" for name, ids in table.behind]
    return "\n".join(["% records:", *rows]) + "\n"


def _line(words: str) -> str:
    return " ".join(words.split())
