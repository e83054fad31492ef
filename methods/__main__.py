"""What each method trains on a layer: ``python -m methods D_IN D_OUT --rank R``.

The methods are the classes of this package's modules; a new file shows up by itself. One with a
choice of operators has a row for each.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from methods.base import Method, check_rank
from methods.discover import classes
from methods.errors import MethodError
from methods.operators import OperatorName

HEADER = ("method", "r_hat", "trainable", "of FFT", "highest rank", "bytes (fp32)")
NOTES = [
    "Rank is LoRA's for every method, so that equal ranks mean equal budgets; FFT has no rank and",
    "can't be had at an equal budget. The highest rank is delta W's, after enough restarts where",
    "a method has them.",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what each method trains on a layer. Returns 0, or 2 where the rank is refused."""
    arguments = parser().parse_args(argv)
    try:
        rows, notes = table(arguments.d_in, arguments.d_out, arguments.rank)
    except MethodError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"A layer of {arguments.d_in} inputs and {arguments.d_out} outputs, no bias:\n")
    print(aligned(HEADER, rows))
    print("\n" + "\n".join([*NOTES, *notes]))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: inputs and outputs of the layer, and LoRA's rank."""
    result = argparse.ArgumentParser(
        prog="python -m methods",
        description="Print what each method trains on a linear layer, before anything is built.",
    )
    result.add_argument("d_in", metavar="D_IN", type=size, help="inputs of the layer")
    result.add_argument("d_out", metavar="D_OUT", type=size, help="outputs of the layer")
    result.add_argument("--rank", metavar="R", type=int, default=8, help="LoRA's rank (default 8)")
    return result


def size(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def table(d_in: int, d_out: int, rank: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """One row a method (see HEADER), FFT first, and a note for each that has no result here.

    Raises MethodError for a rank that no layer of this shape can have.
    """
    check_rank(rank, d_in, d_out)
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for label, method in every_method(rank):
        try:
            method.check_shape(d_in, d_out)
            side, count = method.side(d_in, d_out), method.trainable_parameters(d_in, d_out)
            highest = method.max_rank(d_in, d_out)
        except MethodError as error:
            notes.append(f"{label}: {error}")
            continue
        share = f"{100 * count / (d_in * d_out):.2f} %"
        rows.append(
            (label, str(side or "-"), f"{count:,}", share, f"{highest:,}", f"{4 * count:,}")
        )
    return rows, notes


def every_method(rank: int) -> Iterator[tuple[str, Method]]:
    """(label, method) of each class of the package that a rank is enough for."""
    kind: Any
    for kind in sorted(classes(), key=lambda c: (c.name != "fft", c.name)):
        parameters = inspect.signature(kind).parameters.values()
        needed = {
            p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        }
        if needed - {"rank"}:
            continue  # the bridge to peft: what it trains is the tuner's business
        operators = (
            get_args(OperatorName) if "operator" in inspect.signature(kind).parameters else ()
        )
        for operator in operators or (None,):
            chosen = {"operator": operator} if operator else {}
            method = kind(rank=rank, **chosen)
            yield f"{method.label} {operator}" if operator else method.label, method


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells)

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


if __name__ == "__main__":
    sys.exit(main())
