"""Where the wall time of a grid of small cells goes: training, scoring, set-up, and the rest.

python scripts/wall_time.py results/study/steps/records results/study/capacity/records \\
    --out results/study
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml

from bench import records
from bench.report.figures import STYLE, save

PARTS = ("training", "scoring", "set-up", "the rest")
HATCHES = ("", "///", "...", "xxx")
PAUSE = 120.0  # seconds without any cell that part one sweep from the next


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of records, one a grid")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figure and table")
    arguments = parser.parse_args()
    grids = {folder: shares(read(folder)) for folder in arguments.folders}
    command = "python scripts/wall_time.py " + " ".join(map(str, arguments.folders))
    lines = ["# Where the wall time of small cells goes", "", f"Made by `{command} --out ...`.", ""]
    lines += [f"| grid | cells | worker hours | {' | '.join(PARTS)} |"]
    lines += ["| --- | ---: | ---: |" + " ---: |" * len(PARTS)]
    for folder, grid in grids.items():
        cells = " | ".join(f"{100 * grid[part]:.1f} %" for part in PARTS)
        lines += [f"| {name(folder)} | {grid['cells']} | {grid['seconds'] / 3600:.1f} | {cells} |"]
    lines += ["", "The rest: between cells, writing records, starting the workers.", ""]
    lines += notes(arguments.folders)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / "wall_time.md"
    table.write_text("\n".join(lines) + "\n")
    print("\n".join(map(str, [table, *draw(grids, arguments.out / "wall_time", command)])))


def name(folder: Path) -> str:
    """What a grid is called: its folder, or the one above where that is called records."""
    return folder.parent.name if folder.name == "records" else folder.name


def read(folder: Path) -> list[Any]:
    """The records of a folder that came to an end, a cell that was run again by its first run."""
    found = [records.read(file, head_only=True) for file in records.find(folder)]
    ended = [record for record in found if record["status"] in ("ok", "diverged")]
    ended.sort(key=lambda record: record["started"], reverse=True)
    if not ended:
        raise SystemExit(f"{folder} holds no record of a cell that came to an end")
    return list({record["cell"]: record for record in ended}.values())


def notes(folders: Iterable[Path]) -> list[str]:
    """What is said of the seconds of the folders' records, each once."""
    said = (yaml.safe_load(file.read_text())["times"]
            for folder in folders if (file := folder / "notes.yaml").is_file())  # fmt: skip
    return [f"- Of some of them: {words}." for words in dict.fromkeys(said)]


def shares(cells: Iterable[Any]) -> dict[str, Any]:
    """Shares of the workers' time, from the first cell's start to the last one's end.

    Workers are counted as the most cells that ran at once; a pause of all of them that is longer
    than PAUSE ends one sweep and begins another. ``the rest`` is what no cell counts: between
    cells, writing records, starting the workers.
    """
    cells = list(cells)
    times = sorted((seconds(cell["started"]), seconds(cell["finished"])) for cell in cells)
    total = 0.0
    for sweep in sweeps(times):
        total += at_once(sweep) * (max(end for _, end in sweep) - sweep[0][0])
    if not total:
        raise SystemExit(
            f"{len(cells)} cells began and ended within one second, and records have whole seconds "
            "of either: there is no wall time to part"
        )
    spent = {
        part: sum(cell["cost"][f"{key}_seconds"] or 0.0 for cell in cells)
        for part, key in (("training", "training"), ("scoring", "scoring"), ("set-up", "setup"))
    }
    found = {part: value / total for part, value in spent.items()}
    rest = 1 - sum(found.values())
    return {"cells": len(cells), "seconds": total, **found, "the rest": rest}


def seconds(when: str) -> float:
    """An ISO time as seconds."""
    return datetime.fromisoformat(when).timestamp()


def sweeps(times: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Starts and ends, in order, parted at pauses."""
    parted: list[list[tuple[float, float]]] = []
    latest = float("-inf")
    for start, end in times:
        if start - latest > PAUSE:
            parted.append([])
        parted[-1].append((start, end))
        latest = max(latest, end)
    return parted


def at_once(times: list[tuple[float, float]]) -> int:
    """The most that overlap. Times are whole seconds: what ends in the second in which another
    starts does not overlap it."""
    steps = sorted([(start, 1) for start, _ in times] + [(end, -1) for _, end in times])
    return max(itertools.accumulate(step for _, step in steps))


def draw(grids: Mapping[Path, Mapping[str, Any]], stem: Path, command: str) -> list[Path]:
    """A bar a grid, parted; told apart by hatching as well as by shade."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 1.3 + 0.45 * len(grids)), layout="constrained")
        left = [0.0] * len(grids)
        names = [f"{name(folder)}, {grid['cells']} cells" for folder, grid in grids.items()]
        for i, part in enumerate(PARTS):
            widths = [100 * grid[part] for grid in grids.values()]
            axes.barh(
                names, widths, left=left, label=part, hatch=HATCHES[i], height=0.6,
                color=str(0.45 + 0.16 * i), edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            for y, (x, width) in enumerate(zip(left, widths, strict=True)):
                if width >= 6:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                    middle = x + width / 2
                    axes.text(middle, y, f"{width:.0f} %", ha="center", va="center", bbox=box)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set(xlabel="% of the workers' wall time", xlim=(0, 100))
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=len(PARTS))
    about = {name(folder): {k: grid[k] for k in PARTS} for folder, grid in grids.items()}
    return save(figure, stem, f"Made by: {command}. {json.dumps(about)}")


if __name__ == "__main__":
    main()
