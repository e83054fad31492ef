"""The forest plot: the comparisons' effects in one picture, a panel a unit. Plain SVG.

683 pixels wide, so that it fits a narrow screen at its own size and print; the words are text. A
row: label, interval and mean, the single seeds as dots, the margin shaded, the paper's effect as a
diamond, verdict and number of seeds at the right. Verdicts differ in shape and colour, and stand
there as words; hollow where a guard fired or the rates are unsettled.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
ROW, TOP, FOOT, HEAD = 30, 24, 42, 54
LEFT, RIGHT = 232, 505  # of the panel's axis
ROWS_DRAWN = 40
LONGEST_NAME = 40  # letters of a row's second line
LONGEST_ARMS = 34  # of its first
FAR, STEP = 10, 4  # times the median, and times the next: such rows have a panel of their own

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
    """The comparisons in the order of the plot, which takes the first ROWS_DRAWN: primary ones
    first, not those at the paper's rates where the tuned ones are there."""
    judged = [j for j in judgements if j.effect is not None]
    tuned = {(j.claim.id, j.setting, *_names(j)) for j in judged if j.protocol != "paper"}
    shown = [
        j for j in judged
        if j.protocol != "paper" or (j.claim.id, j.setting, *_names(j)) not in tuned
    ]  # fmt: skip
    # What was decided comes before what can't be told.
    return sorted(shown, key=lambda j: (not j.primary, _rank(j.verdict), not j.claim.ratio))


def left_out(judgements: Sequence[Judgement]) -> str:
    """Says how many of the comparisons are drawn, where not all are; else it is empty."""
    rows = len(drawn(judgements))
    if rows <= ROWS_DRAWN:
        return ""
    return f"{ROWS_DRAWN} of {rows} comparisons are drawn; claims.csv has all of them"


def _rank(verdict: str) -> int:
    return 0 if verdict in DECIDED else 2 if verdict == CANNOT_TELL else 1


def _names(judgement: Judgement) -> tuple[str, ...]:
    return tuple(arm.split(", lr ")[0] for arm in judgement.arms)


def svg(judgements: Sequence[Judgement], *, inline: bool = False) -> str:
    """The plot; empty where nothing has numbers. inline: rows are links into the page."""
    places = {id(j): i for i, j in enumerate(judgements)}
    shown = drawn(judgements)[:ROWS_DRAWN]
    if not shown:
        return ""
    names = _second_lines(shown)
    made, parts, y = "", [_legend()], float(HEAD)
    panels = _panels(shown)
    for panel in panels:
        rows = [(places[id(j)], j, names[id(j)]) for j in panel]
        parts += _draw(rows, y, inline)
        y += TOP + ROW * len(rows) + FOOT
        if inline or panel is panels[-1]:  # on the page a picture a panel: print may break between
            made += _picture(parts, y, sum(map(len, panels)), inline)
            parts, y = [], 14.0
    return made


def _picture(parts: Sequence[str], height: float, rows: int, inline: bool) -> str:
    style = "" if inline else f"<style>{STYLE}</style>"
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    background = ""
    if not inline:
        size += f' width="{WIDTH}" height="{height:.0f}"'
        background = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" {size} role="img" '
        f'aria-label="Effects of {rows} comparisons with their intervals">'
        f"{style}{background}{''.join(parts)}</svg>\n"
    )


def _panels(judgements: Sequence[Judgement]) -> list[list[Judgement]]:
    """A panel a unit; where effects are far apart in size, those that are large and those small."""
    panels: dict[tuple[str, ...], list[Judgement]] = {}
    for judgement in judgements:
        panels.setdefault(_panel(judgement), []).append(judgement)
    made = []
    for panel in panels.values():
        large = _large(panel)
        parts = [[j for j in panel if (_size(j) >= large) is side] for side in (True, False)]
        # The one that has the first row comes first.
        made += sorted(filter(None, parts), key=lambda part: panel.index(part[0]))
    return made


def _size(judgement: Judgement) -> float:
    assert judgement.effect is not None
    return abs(judgement.effect.effect) + judgement.effect.high - judgement.effect.low


def _large(panel: Sequence[Judgement]) -> float:
    """From which size on a row has no place beside the others; 0 where all have."""
    sizes = sorted(map(_size, panel))
    median = sizes[len(sizes) // 2]
    steps = [(b / a, b) for a, b in pairwise(sizes) if b > FAR * median and a > 0]
    step, large = max(steps, default=(0.0, 0.0))
    return large if step > STEP else 0.0


def _second_lines(judgements: Sequence[Judgement]) -> dict[int, str]:
    """Below each row's arms: the claim and the protocol; where rows look alike, the setting."""
    alike: dict[tuple[str, ...], list[Judgement]] = {}
    for j in judgements:
        alike.setdefault((j.claim.id, j.protocol, *_names(j)), []).append(j)
    made = {}
    for group in alike.values():
        words = [re.split(", | on ", j.setting) for j in group]
        for j, own in zip(group, words, strict=True):
            apart = [word for word in own if any(word not in other for other in words)]
            named = f"{', '.join(apart)} · {j.claim.id}" if apart else j.claim.id
            longer = f"{named} · {j.protocol}"
            made[id(j)] = longer if len(longer) <= LONGEST_NAME else named
    return made


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


def _draw(rows: Sequence[tuple[int, Judgement, str]], top: float, inline: bool) -> list[str]:
    first = rows[0][1]
    scale = _scale([j for _, j, _ in rows])
    bottom = top + TOP + ROW * len(rows)
    unit = "first / second" if first.claim.ratio else wording.unit(first) or first.measured
    parts = [_text(8, top + 2, unit, "bold")]
    parts.append(_text(LEFT, top + 16, "← second better", "small"))
    parts.append(_text(RIGHT, top + 16, "first better →", "small", "end"))
    for value in _ticks(scale):
        x = scale.x(value)
        parts.append(_line(x, top + TOP, x, bottom, "axis" if value == 0 else "grid"))
        parts.append(_text(x, bottom + 14, _tick(first, value), "small", "middle"))
    for i, (place, judgement, named) in enumerate(rows):
        row = _row(judgement, named, top + TOP + ROW * (i + 0.5), scale)
        parts.append(f'<a href="#v{place}">{row}</a>' if inline else row)
    return parts


def _against(a: str, b: str) -> str:
    """Both arms, without the settings that only set a row apart from others on the page (FFT
    (max_steps=300) is FFT); of two kinds of one method the method is named once."""
    short = tuple(wording.without_settings(name) for name in (a, b))
    a, b = short if short[0] != short[1] else (a, b)
    kinds = [re.fullmatch(r"(\S+) \((.+)\)(.*)", name) for name in (a, b)]
    if kinds[0] and kinds[1] and kinds[0].group(1, 3) == kinds[1].group(1, 3):
        method, first, rank = kinds[0].groups()
        return f"{method}{rank}, {first} vs {kinds[1].group(2)}"
    return f"{a} vs {b}"


def _tick(first: Judgement, value: float) -> str:
    """A round number, without needless digits; of a ratio the ratio."""
    if first.claim.ratio:
        return wording.size(first, value)
    return f"{100 * value if first.unit == 'fraction' else value:+.6g}" if value else "0"


def _row(judgement: Judgement, named: str, y: float, scale: Scale) -> str:
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
    arms = _against(*_names(judgement))
    bold = "bold" if judgement.primary else ""
    parts.append(_text(8, y - 2, _cut(arms, LONGEST_ARMS), bold))
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
    amount = wording.effect(judgement)[0].removesuffix(" a / b")
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
