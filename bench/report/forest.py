"""The forest plot: every comparison's effect in one picture, a panel a unit. Plain SVG.

683 pixels wide, so that it fits a narrow screen at its own size and print; the words are text. A
row: label, interval and mean, the single seeds as dots, the margin shaded, the paper's effect as a
diamond, verdict and number of seeds at the right. Verdicts differ in shape and colour, and stand
there as words; hollow where a guard fired or the rates are unsettled.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.judge.verdicts import (
    CANNOT_TELL,
    DECIDED,
    EQUIVALENT,
    HOLDS,
    REVERSED,
    SMALLER,
    UNDECIDED,
    UNSETTLED,
    Judgement,
)
from bench.report import wording

WIDTH = 683
ROW, TOP, FOOT, HEAD = 30, 24, 40, 50
LEFT, RIGHT = 232, 505  # of the panel's axis
ROWS_DRAWN = 40
LONGEST_NAME = 40  # letters of a row's second line

# Class, shape and word on the legend, of each verdict.
LOOKS = {
    HOLDS: ("holds", "circle"),
    REVERSED: ("reversed", "square"),
    SMALLER: ("smaller", "bar"),
    EQUIVALENT: ("equivalent", "pair"),
    UNDECIDED: ("undecided", "tick"),
    CANNOT_TELL: ("cannot", "circle hollow"),
    UNSETTLED: ("unsettled", "square hollow"),
}
STYLE = """
.forest text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink, #1c1c1c); }
.forest .small { font-size: 10.5px; fill: var(--pale, #5a5a5a); }
.forest .bold { font-weight: 700; }
.forest .axis { stroke: var(--pale, #5a5a5a); stroke-width: 1; }
.forest .grid { stroke: var(--line, #d8d8d8); stroke-width: 1; }
.forest .margin { fill: var(--band, #e4e4de); }
.forest .seed { fill: var(--pale, #5a5a5a); opacity: .55; }
.forest .paper { fill: none; stroke: var(--paper, #7a5c00); stroke-width: 1.6; }
.forest .mark { stroke-width: 2; stroke: currentColor; fill: currentColor; }
.forest .hollow { fill: var(--page, #fff); }
.forest .holds { color: var(--holds, #0a6b3d); }
.forest .reversed { color: var(--reversed, #a3211b); }
.forest .smaller, .forest .equivalent { color: var(--alike, #0b5394); }
.forest .undecided, .forest .cannot, .forest .unsettled { color: var(--pale, #5a5a5a); }
"""


@dataclass(frozen=True)
class Scale:
    """From effects to pixels: positive, where a is better, lies at the right."""

    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return LEFT + min(1.0, max(0.0, share)) * (RIGHT - LEFT)

    def cut(self, value: float) -> bool:
        return not self.low <= value <= self.high


def drawn(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The comparisons that the plot shows: primary ones first, not those at the paper's rates
    where the tuned ones are there."""
    judged = [j for j in judgements if j.effect is not None]
    tuned = {(j.claim.id, j.setting, *_names(j)) for j in judged if j.protocol != "paper"}
    shown = [
        j for j in judged
        if j.protocol != "paper" or (j.claim.id, j.setting, *_names(j)) not in tuned
    ]  # fmt: skip
    # What was decided comes before what can't be told.
    rank = sorted(shown, key=lambda j: (not j.primary, _rank(j.verdict), not j.claim.ratio))
    return rank[:ROWS_DRAWN]


def _rank(verdict: str) -> int:
    return 0 if verdict in DECIDED else 2 if verdict == CANNOT_TELL else 1


def _names(judgement: Judgement) -> tuple[str, ...]:
    return tuple(arm.split(", lr ")[0] for arm in judgement.arms)


def svg(judgements: Sequence[Judgement], *, inline: bool = False) -> str:
    """The plot; empty where nothing has numbers. inline: rows are links into the page."""
    panels: dict[tuple[str, ...], list[tuple[int, Judgement]]] = {}
    places = {id(j): i for i, j in enumerate(judgements)}
    for judgement in drawn(judgements):
        panels.setdefault(_panel(judgement), []).append((places[id(judgement)], judgement))
    if not panels:
        return ""
    parts: list[str] = []
    y = float(HEAD)
    for rows in panels.values():
        parts += _draw(rows, y, inline)
        y += TOP + ROW * len(rows) + FOOT
    style = "" if inline else f"<style>{STYLE}</style>"
    size = f'viewBox="0 0 {WIDTH} {y:.0f}"' + (
        "" if inline else f' width="{WIDTH}" height="{y:.0f}"'
    )
    background = "" if inline else f'<rect width="{WIDTH}" height="{y:.0f}" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" {size} role="img" '
        f'aria-label="Effects of {len(drawn(judgements))} comparisons with their intervals">'
        f"{style}{background}{_legend()}{''.join(parts)}</svg>\n"
    )


def _panel(judgement: Judgement) -> tuple[str, ...]:
    if judgement.claim.ratio:
        return ("ratio", str(judgement.higher_is_better))
    if judgement.unit in ("", "fraction"):
        return (judgement.unit, "" if judgement.unit else judgement.claim.endpoint.kind)
    return (judgement.unit,)


def _legend() -> str:
    parts, x, y = [], 8.0, 16
    for verdict, (name, _) in LOOKS.items():
        width = 26 + 6.6 * len(verdict)
        if x + width > WIDTH:
            x, y = 8.0, y + 18
        parts.append(f'<g class="{name}">{_mark(verdict, x + 6, y - 4)}</g>')
        parts.append(f'<text x="{x + 16:.0f}" y="{y}">{verdict}</text>')
        x += width
    parts.append(_diamond(x + 6, y - 4))
    parts.append(f'<text x="{x + 16:.0f}" y="{y}">the paper</text>')
    return "".join(parts)


def _draw(rows: Sequence[tuple[int, Judgement]], top: float, inline: bool) -> list[str]:
    first = rows[0][1]
    scale = _scale([j for _, j in rows])
    bottom = top + TOP + ROW * len(rows)
    unit = wording.unit(first) or first.measured
    parts = [f'<text class="bold" x="8" y="{top + 14:.0f}">{_e(_cut(unit, 30))}</text>']
    parts.append(_text(LEFT, top + 14, "← b better", "small"))
    parts.append(_text(RIGHT, top + 14, "a better →", "small", "end"))
    for value in _ticks(scale):
        x = scale.x(value)
        parts.append(_line(x, top + TOP, x, bottom, "axis" if value == 0 else "grid"))
        parts.append(_text(x, bottom + 14, wording.size(first, value), "small", "middle"))
    for i, (place, judgement) in enumerate(rows):
        row = _row(judgement, top + TOP + ROW * (i + 0.5), scale)
        parts.append(f'<a href="#v{place}">{row}</a>' if inline else row)
    return parts


def _row(judgement: Judgement, y: float, scale: Scale) -> str:
    found, claim = judgement.effect, judgement.claim
    assert found is not None
    name = LOOKS[judgement.verdict][0]
    parts = []
    if claim.margin:
        low, high = scale.x(-claim.margin), scale.x(claim.margin)
        parts.append(
            f'<rect class="margin" x="{low:.1f}" y="{y - 12:.1f}" '
            f'width="{high - low:.1f}" height="24"/>'
        )
    arms = " vs ".join(_names(judgement))
    bold = "bold" if judgement.primary else ""
    parts.append(_text(8, y - 2, _cut(arms, 36), bold))
    named = f"{claim.id} · {judgement.protocol}"
    named = named if len(named) <= LONGEST_NAME else claim.id
    parts.append(_text(8, y + 11, _cut(named, LONGEST_NAME), "small"))
    parts += [
        f'<circle class="seed" cx="{scale.x(v):.1f}" cy="{y + 8:.1f}" r="1.8"/>'
        for v in found.values[:24]
    ]
    parts.append(f'<g class="{name}">')
    low, high = scale.x(found.low), scale.x(found.high)
    parts.append(_line(low, y, high, y, "mark"))
    parts += [_arrow(x, y, side) for x, side, cut in (
        (low, -1, scale.cut(found.low)), (high, 1, scale.cut(found.high))) if cut]  # fmt: skip
    parts.append(f"{_mark(judgement.verdict, scale.x(found.effect), y)}</g>")
    if judgement.paper is not None:
        parts.append(_diamond(scale.x(judgement.paper), y - 8 if y else y))
    parts.append(_text(RIGHT + 10, y - 2, judgement.verdict, bold))
    amount, _ = wording.effect(judgement)
    parts.append(_text(RIGHT + 10, y + 11, f"{amount}, n = {found.n}", "small"))
    title = f"<title>{_e(wording.sentence(judgement))}</title>"
    return f"<g>{title}{''.join(parts)}</g>"


def _scale(judgements: Sequence[Judgement]) -> Scale:
    """All means, margins and papers' effects, and intervals unless they are out of proportion."""
    known = [0.0]
    for j in judgements:
        assert j.effect is not None
        known += [j.effect.effect, -j.claim.margin, j.claim.margin]
        known += [j.paper] if j.paper is not None else []
    reach = max(max(known) - min(known), 1e-9)
    for j in judgements:
        assert j.effect is not None
        edges = (j.effect.low, j.effect.high)
        known += [edge for edge in edges if min(known) - reach <= edge <= max(known) + reach]
    pad = 0.04 * max(max(known) - min(known), 1e-9)
    return Scale(min(known) - pad, max(known) + pad)


def _ticks(scale: Scale) -> list[float]:
    """Zero and round steps to both sides, five or so."""
    span = scale.high - scale.low
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next((m for m in (1, 2, 5, 10) if span / (step * m) <= 5), 10)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [i * step for i in range(first, last + 1)]


def _mark(verdict: str, x: float, y: float) -> str:
    shape, hollow = (LOOKS[verdict][1] + " ").split(" ", 1)
    look = f'class="mark {hollow.strip()}"'.replace(' "', '"')
    if shape == "circle":
        return f'<circle {look} cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if shape == "square":
        return f'<rect {look} x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    if shape == "bar":
        return f'<path {look} d="M{x - 5:.1f} {y - 4:.1f}h10l-5 9z"/>'
    if shape == "pair":
        return (
            f'<rect {look} x="{x - 5:.1f}" y="{y - 4.5:.1f}" width="10" height="2"/>'
            f'<rect {look} x="{x - 5:.1f}" y="{y + 2.5:.1f}" width="10" height="2"/>'
        )
    return f'<rect {look} x="{x - 0.5:.1f}" y="{y - 5:.1f}" width="1" height="10"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="paper" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z"/>'


def _arrow(x: float, y: float, side: int) -> str:
    return f'<path class="mark" d="M{x:.1f} {y:.1f}l{-5 * side} -3v6z"/>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, name: str = "", anchor: str = "") -> str:
    look = f' class="{name}"' if name else ""
    side = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}{side}>{_e(words)}</text>'


def _cut(words: str, longest: int) -> str:
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def _e(words: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in words))
