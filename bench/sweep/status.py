"""`python -m bench.status PATH`: which cells are done, running, stopped, failed, ...

Records say what has ended. A cell at work has a lease beside its record's place,
`<cell>.lease`: JSON with cell, host, pid, boot_id, token, started, heartbeat, step, total_steps.
Its owner touches the file again and again; one whose owner is gone is stale, and the next sweep
takes the cell over. One that was stopped has neither, and checkpoints to go on from.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import records
from bench.errors import UserError, in_words, quiet
from bench.records.files import holds_none
from bench.sweep import leases

STATES = ("done", "running", "stale", "failed", "diverged", "stopped", "skipped", "broken")
LISTED = 50  # more done cells than these are only counted, unless --all

_STATE_OF = {"ok": "done", "diverged": "diverged", "failed": "failed", "skipped": "skipped"}
_LEASE = re.compile(r"[0-9a-f]{16}\.lease")
_CHECKPOINTS = re.compile(r"[0-9a-f]{16}\.checkpoints")


@dataclass(frozen=True)
class CellStatus:
    """One cell; `about` says what it is, `detail` why or how far."""

    state: str
    cell: str
    file: str
    about: str = ""
    detail: str = ""


def survey(path: str | Path, now: float | None = None) -> list[CellStatus]:
    """Every cell with a record, a lease or checkpoints at or below the path, by state and cell.

    `now`: seconds since 1970, for tests. Raises UserError where there is no such path.
    """
    now = time.time() if now is None else now
    cells = {file.with_suffix(""): _of_record(file) for file in records.find(path)}
    leased, left = _beside(Path(path))
    for file in leased:
        known = cells.get(file.with_suffix(""))
        found = _of_lease(file, now)
        # The lease of a cell that has ended may outlive its owner; a live one runs it again.
        if found is not None and (known is None or found.state == "running"):
            cells[file.with_suffix("")] = found
    for file in left:
        detail = "the same command goes on from its checkpoint"
        stopped = CellStatus("stopped", file.stem, str(file), detail=detail)
        cells.setdefault(file.with_suffix(""), stopped)
    return sorted(cells.values(), key=lambda c: (STATES.index(c.state), c.about, c.cell, c.file))


def is_stale(owner: Mapping[str, Any], age: float) -> bool:
    """Whether the lease's owner is gone: as a sweep would judge it (leases.owner_gone), and where
    only its age can tell, by no sign of life for STALE_AFTER seconds.
    """
    gone = leases.owner_gone(owner)
    return age > leases.STALE_AFTER if gone is None else gone


def _of_record(file: Path) -> CellStatus:
    try:
        record = records.read(file, head_only=True)
    except UserError as error:
        return CellStatus("broken", file.stem, str(file), detail=str(error))
    method = record["method"]
    rank = "" if method["rank"] is None else f" r={method['rank']}"
    rate = "" if method["learning_rate"] is None else f" lr={method['learning_rate']:g}"
    about = (
        f"{record['task']['name']} {record['model']['name']} "
        f"{method['label']}{rank}{rate} seed={record['seed']}"
    )
    reason = " ".join((record["reason"] or "").split())
    return CellStatus(_STATE_OF[record["status"]], record["cell"], str(file), about, reason)


def _beside(path: Path) -> tuple[list[Path], list[Path]]:
    """Leases, and folders of checkpoints, at or below the path."""
    leased, left = list[Path](), list[Path]()
    for folder, folders, names in os.walk(path) if path.is_dir() else ():
        leased += [Path(folder, name) for name in names if _LEASE.fullmatch(name)]
        left += [Path(folder, name) for name in folders if _CHECKPOINTS.fullmatch(name)]
        folders[:] = [name for name in folders if not holds_none(name)]
    return leased, left


def _of_lease(file: Path, now: float) -> CellStatus | None:
    """None: the lease was given back while we looked."""
    try:
        modified = file.stat().st_mtime
        try:
            lease = json.loads(file.read_bytes())
        except ValueError:
            lease = None
        lease = lease if isinstance(lease, dict) else {}  # torn: its age still counts
        state = "stale" if is_stale(lease, now - modified) else "running"
    except OSError:
        return None
    words = []
    if isinstance(lease.get("step"), int):
        words.append(f"step {lease['step']} of {lease.get('total_steps') or '?'}")
    words.append(f"{lease.get('host', 'unknown host')}, process {lease.get('pid', '?')}")
    if (seconds := _seconds_since(lease.get("started"), now)) is not None:
        words.append(f"started {_ago(seconds)}")
    words.append(f"last sign {_ago(now - modified)}")
    return CellStatus(state, file.stem, str(file), detail=", ".join(words))


def _seconds_since(moment: Any, now: float) -> float | None:
    try:
        at = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    return now - (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _ago(seconds: float) -> str:
    """A clock may have been set back: what lies ahead counts as now."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"


def counts(cells: Iterable[CellStatus]) -> dict[str, int]:
    """Cells in each state, states without any included."""
    found = dict.fromkeys(STATES, 0)
    for cell in cells:
        found[cell.state] += 1
    return found


def text(path: str | Path, cells: list[CellStatus], *, everything: bool = False) -> str:
    """A line of counts, then the cells state by state."""
    number = counts(cells)
    said = [f"{n:,} {state}" for state, n in number.items() if n or state in STATES[:5]]
    lines = [f"{path}: {len(cells):,} {'cell' if len(cells) == 1 else 'cells'}: {', '.join(said)}"]
    for state in STATES:
        if not number[state]:
            continue
        lines += ["", state]
        if state == "done" and number[state] > LISTED and not everything:
            lines.append(f"  {number[state]:,} cells (--all lists them)")
            continue
        of_state = [cell for cell in cells if cell.state == state]
        width = max(len(cell.about) for cell in of_state)
        lines += [
            f"  {cell.cell}  {cell.about:<{width}}  {cell.detail}".rstrip() for cell in of_state
        ]
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


@quiet
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 a file is no whole record; 2 there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.status",
        description="Tell which cells are done, running, stopped, stale, failed or diverged.",
    )
    parser.add_argument("path", type=Path, help="a folder of records")
    parser.add_argument("--all", action="store_true", help="list every done cell as well")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a cell")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        cells = survey(options.path)
    except (UserError, OSError) as error:
        print(in_words(error), file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"counts": counts(cells), "cells": [asdict(cell) for cell in cells]}))
    elif cells:
        print(text(options.path, cells, everything=options.all))
    else:
        print(f"{options.path}: no cells here, neither records nor leases", file=sys.stderr)
        return 2
    return 1 if any(cell.state == "broken" for cell in cells) else 0
