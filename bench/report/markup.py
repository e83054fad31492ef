"""Pieces of HTML and SVG that the page's parts share."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from bench.judge.cells import Array

POINTS = 48  # of a curve on the page


def escaped(words: object) -> str:
    """For text and attributes; control characters become spaces."""
    text = str(words)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return html.escape(text)


def thinned(x: Array, y: Array, points: int = POINTS) -> tuple[Array, Array]:
    """Where both are finite, at the most so many points, the first and the last among them."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) > points:
        chosen = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
        x, y = x[chosen], y[chosen]
    return x, y


def lines(
    curves: Sequence[tuple[str, Array, Array]], label: str, width: int = 480, height: int = 130
) -> str:
    """Lines (name, x, y) in one plot, their names at their ends; empty where there are none."""
    drawn = [(name, *thinned(x, y)) for name, x, y in curves]
    drawn = [(name, x, y) for name, x, y in drawn if len(x) > 1]
    if not drawn:
        return ""
    xs, ys = (np.concatenate([curve[i] for curve in drawn]) for i in (1, 2))
    left, right, low, high = xs.min(), xs.max(), ys.min(), ys.max()
    room = width - (10 if len(drawn) < 2 else 150)
    parts = []
    for i, (name, x, y) in enumerate(drawn):
        px = (x - left) / max(1e-12, right - left) * (room - 10) + 5
        py = (high - y) / max(1e-12, high - low) * (height - 34) + 8
        points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(px, py, strict=True))
        parts.append(f'<polyline class="line{i % 2}" points="{points}"/>')
        if len(drawn) > 1:
            parts.append(
                f'<text x="{px[-1] + 6:.0f}" y="{14 + 16 * i}" class="line{i % 2}">'
                f"{'–' if i % 2 == 0 else '┄'} {escaped(name)}</text>"
            )
    words = f"{label}: {ys.max():.3g} to {ys.min():.3g}, {left:.3g} to {right:.3g}"
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(words)}">{"".join(parts)}'
        f'<text x="5" y="{height - 5}">{escaped(words)}</text></svg>'
    )
