"""``python -m bench.selfcheck``: is this machine right? Green, or what is off and what to do.

Small cells of FFT, LoRA and MoRA, in fp32 and bf16, against committed bands; and versions, threads,
arithmetic, disk, network. A minute or two on two cores. Exit status: 0 all is right, 1 something
is off.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import UserError
from bench.run import device
from bench.selfcheck import bands, cells
from bench.selfcheck.bands import Finding, Kind


def check(folder: Path) -> Iterator[Finding]:
    """All findings, each as it is found. folder: where records will be written."""
    from bench.selfcheck import machine

    kinds = bands.load()
    yield from machine.findings(kinds, folder)
    with cells.sharing():
        for name in cells.NAMES:
            try:
                yield bands.judge(name, cells.curve(name), kinds)
            except UserError as error:
                yield Finding(name, False, str(error))


def calibrate() -> None:
    """Make the bands of this kind of machine, and put them into the committed file."""
    import torch

    from bench.selfcheck import machine

    made = {}
    with cells.sharing():
        for name in cells.NAMES:
            made[name] = cells.bands(name)
            print(f"{name}: {made[name]}", flush=True)
    kind = Kind(machine.name(device.resolve("auto", "fp32")), torch.__version__, made)
    bands.save(bands.merged(bands.load(), kind))
    print(f"wrote {bands.FILE}: {kind.machine}")


def show(finding: Finding, took: str = "") -> None:
    """A line, and what to do where something is off."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    word, style = {True: ("ok", "green"), False: ("OFF", "bold red"), None: ("-", "dim")}[
        finding.ok
    ]
    line = Text.assemble((f"{word:<4}", style), f"{finding.what:<16}", finding.said)
    line.append(took, style="dim")
    console.print(line, soft_wrap=True)
    if finding.remedy:
        console.print(Text(f"    {finding.remedy}", style="yellow"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.selfcheck", description=__doc__)
    parser.add_argument("--calibrate", action="store_true", help="make the bands of this machine")
    parser.add_argument(
        "--results", type=Path, default=Path("results/runs"), metavar="DIR",
        help="where records will be written (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.calibrate:
        calibrate()
        return 0
    wrong, begin = [], time.monotonic()
    for finding in check(options.results):
        now = time.monotonic()
        show(finding, f"  ({now - begin:.0f} s)")
        begin = now
        if finding.ok is False:
            wrong.append(finding.what)
    show(Finding("this machine", not wrong, f"off: {', '.join(wrong)}" if wrong else "is right"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
