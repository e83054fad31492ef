"""From how many tokens on it pays to form W + delta W, by method, shape, dtype and device.

Forming costs the same for any number of tokens: some passes over d_in d_out weights, forward and
backward. The path through activations costs extra products for each token, in proportion to
d_in + d_out. So they break even at a number in proportion to d_in d_out / (d_in + d_out), whatever
the rank; the factor is to be measured, by ``scripts/break_even.py``, into break_even.json. Rows of
no machine (none is under ``machines``) are guesses: 300 tokens at 576 x 576 for every method.

For what was not measured: an unknown method counts as LoRA, a device without rows as the CPU, fp16
as bf16, fp64 as fp32, and a dtype without rows on a device as the other. Of the rows left, the
nearest shape's number is taken in proportion.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

FILE = Path(__file__).with_name("break_even.json")


class Row(NamedTuple):
    """Measured: ``tokens`` at which both ways take the same time, forward and backward."""

    kind: str
    device: str
    dtype: str
    d_in: int
    d_out: int
    tokens: int


def read(file: Path = FILE) -> tuple[Row, ...]:
    """The rows of a table of break-evens."""
    return tuple(Row(**row) for row in json.loads(file.read_text())["rows"])


TABLE = read()
_found: dict[tuple[str, int, int, torch.dtype, str], int] = {}


def tokens(kind: str, d_in: int, d_out: int, dtype: torch.dtype, device: str) -> int:
    """The break-even of a layer (d_out, d_in) that computes in ``dtype`` on a kind of device."""
    case = (kind, d_in, d_out, dtype, device)
    if case not in _found:
        _found[case] = estimate(TABLE, kind, d_in, d_out, name_of(dtype), device)
    return _found[case]


# torch.compiler.assume_constant_result, without the seconds that importing the compiler takes.
tokens._dynamo_marked_constant = True  # type: ignore[attr-defined]


def estimate(
    table: Iterable[Row], kind: str, d_in: int, d_out: int, dtype: str, device: str
) -> int:
    """The break-even by the rule above, from the rows of a table (none: 0, always form)."""
    rows = list(table)
    for field, wanted in (
        ("kind", (kind, "lora")),
        ("device", (device, "cpu")),
        ("dtype", (dtype,)),
    ):
        for value in wanted:
            chosen = [row for row in rows if getattr(row, field) == value]
            if chosen:
                rows = chosen
                break
    if not rows:
        return 0
    size = _size(d_in, d_out)
    nearest = min(
        rows,
        key=lambda row: (
            (row.d_in, row.d_out) != (d_in, d_out),
            abs(math.log(size / _size(row.d_in, row.d_out))),
        ),
    )
    return round(nearest.tokens * size / _size(nearest.d_in, nearest.d_out))


def name_of(dtype: torch.dtype) -> str:
    """The table's name of a dtype: bf16 for those of 16 bits, fp32 for wider ones."""
    return "bf16" if dtype.itemsize == 2 else "fp32"


def _size(d_in: int, d_out: int) -> float:
    return d_in * d_out / (d_in + d_out)
