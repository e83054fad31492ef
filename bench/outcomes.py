"""How the cells of one command ended, told at its end, with the exit status."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

STATUS = {"ok": 0, "diverged": 1, "failed": 1, "refused": 2}


@dataclass(frozen=True)
class Outcome:
    title: str
    status: str
    reason: str | None
    command: str
    fresh: bool


_outcomes: list[Outcome] = []


def add(title: str, status: str, reason: str | None, command: str, *, fresh: bool = True) -> None:
    """Note how a cell ended (ok, diverged, failed, refused); ``fresh``: run now, not found done."""
    _outcomes.append(Outcome(title, status, reason, command, fresh))


def refuse_unsweepable(arguments: list[str]) -> None:
    """Hydra silently expands neither grid of experiment=a,b: exit with the remedy instead."""
    for argument in arguments:
        if argument.lstrip("+").startswith("experiment=") and "," in argument:
            sys.exit(f"{argument}: name one experiment a command; each has a grid of its own.")


def conclude() -> int:
    """Print what happened; 0, 1 (a cell failed or diverged) or 2 (a configuration was refused)."""
    bad = [o for o in _outcomes if STATUS[o.status]]
    counts = Counter(o.status if o.fresh else "done before" for o in _outcomes)
    if _outcomes and (len(_outcomes) > 1 or not bad):
        print(f"{len(_outcomes)} cells: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for outcome in bad:
        print(f"{outcome.title} {outcome.status}: {outcome.reason}", file=sys.stderr)
        if len(_outcomes) > 1:
            print(f"  again: {outcome.command}", file=sys.stderr)
    return max((STATUS[o.status] for o in _outcomes), default=0)
