"""The verdicts on the page: a row each, which opens to what is behind it; filters and an order."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from bench.judge.cells import Array, Result
from bench.judge.rows import Section, count
from bench.judge.verdicts import VERDICTS, Judgement
from bench.report import Report, page_cells, verdict_sheet, wording
from bench.report.forest import LOOKS
from bench.report.markup import escaped as _e
from bench.report.markup import lines

ROWS_SHOWN = 1_000


def section(report: Report) -> str:
    judgements = report.judgements
    judged = [(i, j) for i, j in enumerate(judgements) if j.effect is not None][:ROWS_SHOWN]
    waiting = verdict_sheet.waiting(judgements)
    sections = {s.key: s for s in report.sections}
    shown = page_cells.shown([sheet.section for sheet in report.sheets])
    parts = ['<h2 id="verdicts">Verdicts</h2>', _controls([j for _, j in judged])]
    parts.append('<div id="rows">')
    parts += [_row(i, j, sections.get(j.section), shown) for i, j in judged]
    parts.append("</div>")
    if not judged:
        parts.append("<p>No comparison has cells enough for a verdict.</p>")
    if waiting:
        items = "".join(f"<li>{_e(line)}</li>" for line in waiting)
        parts.append("<details><summary>Without numbers, for want of cells</summary>")
        parts.append(f'<ul class="notes">{items}</ul></details>')
    how = "".join(f"<li>{_e(line)}</li>" for line in verdict_sheet.preface(judgements))
    parts.append(
        f'<details><summary>How to read it</summary><ul class="notes">{how}</ul></details>'
    )
    return "\n".join(parts)


def _controls(judgements: Sequence[Judgement]) -> str:
    tasks = sorted({_task(j) for j in judgements})
    methods = sorted({name for j in judgements for name in _methods(j)})
    verdicts = [v for v in VERDICTS if any(j.verdict == v for j in judgements)]
    fields = "".join(
        f'<label>{name} <select id="by-{name}"><option value="">all</option>'
        + "".join(f"<option>{_e(option)}</option>" for option in options)
        + "</select></label>"
        for name, options in (("task", tasks), ("method", methods), ("verdict", verdicts))
    )
    orders = "".join(f"<option>{o}</option>" for o in ("as listed", "verdict", "effect", "seeds"))
    return (
        f'<form id="filter">{fields}<label>order <select id="order">{orders}</select></label>'
        f'<output id="shown">{len(judgements)} shown</output></form>'
    )


def _task(judgement: Judgement) -> str:
    return judgement.setting.split(" on ")[0] or "none"


def _methods(judgement: Judgement) -> list[str]:
    arms = (judgement.claim.a.method, judgement.claim.b.method)
    return [arm for arm in arms if arm]


def _row(number: int, judgement: Judgement, setting: Section | None, shown: Container[str]) -> str:
    found, claim = judgement.effect, judgement.claim
    assert found is not None
    amount, interval = wording.effect(judgement)
    name = LOOKS[judgement.verdict][0]
    paper = wording.paper(judgement)
    data = (
        f'data-task="{_e(_task(judgement))}" data-method="{_e(" ".join(_methods(judgement)))}" '
        f'data-verdict="{_e(judgement.verdict)}" data-effect="{found.effect:.6g}" '
        f'data-seeds="{found.n}" data-place="{number}"'
    )
    arms = " against ".join(judgement.arms)
    head = (
        f'<span class="verdict {name}">{_e(judgement.verdict)}</span>'
        f'<span class="says"><b>{_e(claim.says)}</b><br>{_e(arms)} '
        f'<span class="pale">{_e(judgement.measured)}; {_e(judgement.setting)}</span></span>'
        f'<span class="n"><b>{_e(amount)}</b><br><span class="pale">{_e(interval)}</span></span>'
        f'<span class="n">{count(found.n, "seed")}<br><span class="pale">'
        f"{_e(f'paper {paper}' if paper else wording.standing(judgement))}</span></span>"
    )
    body = "".join(
        [
            _behind(judgement),
            _curves(judgement),
            _rates(judgement, setting),
            _commands(judgement),
            _cell_links(judgement, shown),
        ]
    )
    return f'<details class="row" id="v{number}" {data}><summary>{head}</summary>{body}</details>'


def _behind(judgement: Judgement) -> str:
    claim = judgement.claim
    told = {"; ".join(map(str, judgement.guards)), ""}  # once is enough
    said = [
        f"{judgement.measured}: {wording.wanted(judgement)}",
        f"{judgement.setting}; protocol {judgement.protocol}; {wording.standing(judgement)}",
        f"{claim.id}; stated: {claim.stated}",
        f"detectable in 8 of 10 studies: {wording.detectable(judgement)}",
        *(f"guard, {guard.word}: {guard.why}" for guard in judgement.guards),
        *(line for line in wording.remarks(judgement) if line not in told),
    ]
    return '<ul class="notes">' + "".join(f"<li>{_e(line)}</li>" for line in said) + "</ul>"


def _curves(judgement: Judgement) -> str:
    """The mean training loss of each arm's judged cells."""
    arms: list[list[Result]] = [[], []]
    for pair in judgement.pairs:
        if len(pair.cells) == 2:
            for arm, cell in zip(arms, pair.cells, strict=True):
                arm.append(cell)
    curves = []
    for name, arm in zip(judgement.arms, arms, strict=True):
        mean = _mean(arm) if arm else None
        if mean is not None:
            curves.append((name.split(", lr")[0], *mean))
    return lines(curves, "training loss") if curves else ""


def _mean(cells: Sequence[Result]) -> tuple[Array, Array] | None:
    known = [c.train for c in cells if "loss" in c.train and len(c.train["step"]) > 1]
    if not known:
        return None
    length = min(len(train["step"]) for train in known)
    return known[0]["step"][:length], np.mean([train["loss"][:length] for train in known], axis=0)


def _rates(judgement: Judgement, setting: Section | None) -> str:
    """What each arm came to at each rate that was judged, and the best after k trials."""
    parts = []
    if setting is not None and judgement.protocol != "as run":
        names = {arm.split(", lr")[0].split(", at")[0] for arm in judgement.arms}
        metric = setting.main_metric()
        lines_ = [
            f"{row.full_name}: {', '.join(f'{value:.4g}' for value in row.values(metric)[:12])}"
            for row in setting.rows
            if metric and row.name_and_rank in names and row.learning_rate is not None
        ]
        if lines_ and metric:
            items = "".join(f"<li>{_e(line)}</li>" for line in lines_)
            words = f"Rates that were run, {metric.replace('_', ' ')} by seed"
            parts.append(f'<p>{_e(words)}</p><ul class="notes">{items}</ul>')
    for name, expected in judgement.best_of:
        values = ", ".join(f"{value:.4g}" for value in expected)
        parts.append(f'<p class="pale">{_e(name)}, expected best after 1 to {len(expected)} trials '
                     f"({_e(judgement.best_by)}): {values}</p>")  # fmt: skip
    return "".join(parts)


def _commands(judgement: Judgement) -> str:
    return "".join(
        f'<p class="more"><button type="button" class="copy">copy</button> '
        f"<code>{_e(command)}</code></p>"
        for command in judgement.commands
    )


def _cell_links(judgement: Judgement, shown: Container[str]) -> str:
    links = " ".join(
        f'<a href="#cell-{_e(c)}">{_e(c[:6])}</a>' if c in shown else _e(c[:6])
        for c in judgement.cells
    )
    return f'<p class="pale">{count(len(judgement.cells), "cell")}: {links}</p>' if links else ""
