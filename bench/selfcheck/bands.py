"""Between what the training loss of a small cell must lie: judged without torch.

A band is the mean of a cell's loss at one step over repeats whose base weights differ by less than
any question asks about (`perturb`), and their spread. Another kind of machine rounds elsewhere, as
such a repeat does, so a value must lie within SIGMAS spreads of the mean, or within FLOOR of it
where that is more: a spread of a few repeats is itself uncertain. Of several kinds of machine that
bands were seen on, one has to fit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

SIGMAS = 8.0
# Of the mean. On the CPU of the first bands, vector instructions off (ATEN_CPU_CAPABILITY=default,
# MKL_CBWR=COMPATIBLE, ONEDNN_MAX_CPU_ISA=SSE41) or torch's own bf16 products take 0.02 of what is
# allowed in fp32 and 0.36 in bf16; a learning rate 1.25 times as high takes 150 and 7.
FLOOR = {"fp32": 5e-4, "bf16": 1e-2}
FILE = Path(str(files("bench.selfcheck"))) / "bands.yaml"

Curve = Mapping[int, float]  # training loss by step


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ok: None where nothing was asked of it."""

    what: str
    ok: bool | None
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Band:
    """mean and spread (standard deviation) over repeats; seeds: spread over seeds, for the eye."""

    mean: float
    spread: float
    seeds: float

    def tolerance(self, precision: str) -> float:
        """How far from the mean a value may be."""
        return max(SIGMAS * self.spread, FLOOR[precision] * abs(self.mean))


@dataclass(frozen=True)
class Kind:
    """The bands of one kind of machine: {cell: {step: band}}."""

    machine: str
    torch: str
    cells: dict[str, dict[int, Band]]


def load(file: Path = FILE) -> list[Kind]:
    """The kinds of machine in the file; none where there is no file."""
    if not file.exists():
        return []
    return [
        Kind(
            kind["machine"],
            kind["torch"],
            {
                cell: {int(step): Band(*values) for step, values in steps.items()}
                for cell, steps in kind["cells"].items()
            },
        )
        for kind in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]


def save(kinds: Sequence[Kind], file: Path = FILE) -> None:
    """Write the bands; a line a step."""
    lines = [
        "# Training losses of bench/selfcheck's cells by step: [mean and spread over repeats,",
        "# spread over seeds]. Seen so far on these kinds of machine alone:",
        *(f"#   {kind.machine}" for kind in kinds),
        "# `python -m bench.selfcheck --calibrate` adds the kind that it runs on, or replaces it.",
    ]
    for kind in kinds:
        lines += [f"- machine: {kind.machine!r}", f"  torch: {kind.torch!r}", "  cells:"]
        for cell, steps in kind.cells.items():
            lines.append(f"    {cell}:")
            lines += [
                f"      {step}: [{band.mean:.7g}, {band.spread:.2e}, {band.seeds:.2e}]"
                for step, band in steps.items()
            ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def fit(repeats: Sequence[Curve], seeds: Sequence[Curve]) -> dict[int, Band]:
    """The bands of a cell. repeats: of one seed, perturbed or not. seeds: one curve a seed."""
    return {
        step: Band(
            statistics.mean(curve[step] for curve in repeats),
            statistics.stdev(curve[step] for curve in repeats),
            statistics.stdev(curve[step] for curve in seeds),
        )
        for step in repeats[0]
    }


def merged(kinds: Sequence[Kind], new: Kind) -> list[Kind]:
    """The kinds with ``new`` in the place of the one of its machine, or added."""
    return [*(kind for kind in kinds if kind.machine != new.machine), new]


REMEDY = (
    "it learns otherwise than where the bands were made: look at the versions and the precision "
    "above, and run `make test`; where both are right, the code has changed what is learned"
)
CALIBRATE = "python -m bench.selfcheck --calibrate, on a machine that you trust"


def judge(cell: str, curve: Curve, kinds: Sequence[Kind]) -> Finding:
    """Whether a cell's losses lie in the bands of a kind of machine; the nearest one is named.

    cell: its name, which ends with the precision. A loss that is missing or not finite lies in no
    band.
    """
    precision = cell.rpartition(" ")[2]
    known = [kind for kind in kinds if cell in kind.cells]
    if not known:
        return Finding(cell, None, "no bands are known of this cell", CALIBRATE)
    distance, step, kind = min(
        ((*_worst(curve, kind.cells[cell], precision), kind) for kind in known),
        key=lambda found: found[0],
    )
    band = kind.cells[cell][step]
    said = (
        f"{distance:.2g} of what it may be away; at step {step} the loss is "
        f"{curve.get(step, math.nan):.5g}, and {band.mean:.5g} ± "
        f"{band.tolerance(precision):.2g} on {kind.machine}"
    )
    return Finding(cell, distance <= 1, said, "" if distance <= 1 else REMEDY)


def _worst(curve: Curve, steps: Mapping[int, Band], precision: str) -> tuple[float, int]:
    """(distance in tolerances, step) where the curve is farthest from the bands."""
    found = []
    for step, band in steps.items():
        distance = abs(curve.get(step, math.inf) - band.mean) / band.tolerance(precision)
        found.append((math.inf if math.isnan(distance) else distance, step))
    return max(found)
