"""Writes a report's files: the same bytes for the same records, each saying what made it."""

from __future__ import annotations

from pathlib import Path

from bench import records
from bench.report import Report, Sheet, render, tables

FIGURES_OF = 8  # sections that get figures; a folder of everything has dozens
MANY_CELLS = 2_000  # from which on only the first section gets them: drawing one takes a second
CAPTIONS = {
    "loss": "Training loss against optimiser steps",
    "spectrum": "Singular values of ΔW; by layer kind, how many exceed 0.1 and the effective rank",
    "forgetting": "What was learned against what was forgotten",
    "cost": "Final score against what it cost",
    "learning_rate": "Final score against the learning rate: its peak, and how wide it is",
}


def write(report: Report, out: Path, page: Path | None = None) -> list[Path]:
    """Write tables, verdicts and figures into the folder, and all of it as one HTML page.

    Raises UserError where it can't be written to.
    """
    records.prepare_folder(out)
    many = sum(len(section.cells) for section in report.sections) >= MANY_CELLS
    pictured = report.sheets[: min(1, FIGURES_OF) if many else FIGURES_OF]
    drawn = {sheet.slug: _figures(report, sheet, out) for sheet in pictured}
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
    if "trials.csv" in contents and FIGURES_OF:
        from bench.report import figures

        drawing = trials.figure(searched)
        if drawing is not None:
            wrote += figures.save(drawing, out / "trials", f"Made by: {report.command}")
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


def _figures(report: Report, sheet: Sheet, out: Path) -> list[Path]:
    from bench.report import figures, plots  # matplotlib takes a second to import

    ids = [cell for _, cells in sheet.table.behind for cell in cells]
    description = f"Made by: {report.command}. Records: {' '.join(ids)}"
    made = []
    for name, draw in (
        ("loss", figures.loss_figure),
        (sheet.metric or "score", figures.score_figure),
        ("spectrum", plots.spectrum_figure),
        ("forgetting", plots.forgetting_figure),
        ("cost", plots.cost_figure),
        ("learning_rate", plots.rate_figure),
    ):
        figure = draw(sheet.section, sheet.metric)
        if figure is not None:
            made += figures.save(figure, out / f"{sheet.slug}{name}", description)
    return made


def _markdown(report: Report, drawn: dict[str, list[Path]]) -> str:
    parts = []
    for sheet in report.sheets:
        parts.append(render.markdown(sheet.table))
        images = [path for path in drawn.get(sheet.slug, []) if path.suffix == ".svg"]
        if images:
            parts.append("\n\n".join(f"![{caption(path)}]({path.name})" for path in images) + "\n")
        parts.append(_behind_markdown("Records behind each row:", sheet.table))
    parts += [f"- WARNING: {render.escape_markdown(line)}\n" for line in report.warnings]
    parts.append(f"Made by `{report.command}`.\n")
    return "\n".join(parts)


def _latex(report: Report) -> str:
    parts = [f"% made by: {report.command}\n"]
    parts += [render.latex(sheet.table) + _behind_latex(sheet.table) for sheet in report.sheets]
    parts += [f"% WARNING: {_line(warning)}\n" for warning in report.warnings]
    return "\n".join(parts)


def _claims(report: Report) -> dict[str, str]:
    """claims.md says what a reader needs; ids, reasons and remarks are in claims.csv."""
    from bench.report import forest, trials, verdict_sheet, wording

    table = verdict_sheet.table(report.judgements)
    picture = forest.svg(report.judgements)
    parts = ["\n\n".join(map(render.escape_markdown, wording.headlines(report.judgements))) + "\n"]
    if picture:
        parts.append("![Effects with their intervals, a panel a unit](forest.svg)\n")
    parts.append(render.markdown(table))
    if trials.curves(report.judgements):
        parts.append("[The expected best after k trials of the learning rate](trials.svg)\n")
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
