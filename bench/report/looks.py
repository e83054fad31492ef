"""How rows are drawn: one colour, line style and marker a method, in every figure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_rgb

from bench.judge.rows import Row

# Colours of Okabe and Ito (safe for the colour-blind), ordered so that lightness differs too.
_METHODS: dict[str, tuple[str, Any, str]] = {
    "fft": ("#000000", "-", "o"),
    "lora": ("#0072B2", (0, (5, 2)), "s"),
    "mora": ("#D55E00", "-", "^"),
    "lora_plus": ("#56B4E9", (0, (7, 2, 1, 2)), "D"),
    "asylora": ("#009E73", (0, (1, 1.2)), "v"),
    "dora": ("#CC79A7", (0, (3, 1.2)), "P"),
    "relora": ("#1B4F72", (0, (5, 1, 1, 1, 1, 1)), "X"),
    "remora": ("#E69F00", (0, (9, 1.5)), "*"),
    "peft": ("#777777", (0, (2, 2)), "h"),
}
_OTHERS = (
    ("#7B3F99", (0, (6, 1, 2, 1)), "<"),
    ("#8C6D31", (0, (1, 2)), ">"),
    ("#3B7D23", (0, (4, 1, 1, 1)), "p"),
    ("#AA3355", (0, (8, 3)), "d"),
)
_FILLINGS = ("full", "none", "left", "bottom", "right", "top")
_LIGHTEST = 0.45


@dataclass(frozen=True)
class Look:
    """How a row is drawn."""

    colour: tuple[float, float, float]
    line: Any
    marker: str
    filling: str

    def keywords(self) -> dict[str, Any]:
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "fillstyle": self.filling,
            "markerfacecoloralt": "white",
        }


def method_look(method: str) -> tuple[str, Any, str]:
    """Colour, line style and marker of a method; the same in every figure, known or not."""
    if method in _METHODS:
        return _METHODS[method]
    return _OTHERS[hashlib.sha256(method.encode()).digest()[0] % len(_OTHERS)]


def looks(rows: Sequence[Row]) -> list[Look]:
    """One look a row; variants of a method grow lighter and change the marker's filling."""
    return looks_of([row.method for row in rows])


def looks_of(methods: Sequence[str]) -> list[Look]:
    """The same, by the method of each."""
    made, seen = [], dict.fromkeys(methods, 0)
    for method in methods:
        colour, line, marker = method_look(method)
        i = seen[method]
        seen[method] += 1
        light = _LIGHTEST * i / max(1, methods.count(method) - 1)
        shade = tuple(part + (1 - part) * light for part in to_rgb(colour))
        made.append(Look(shade, line, marker, _FILLINGS[i % len(_FILLINGS)]))  # type: ignore[arg-type]
    return made
