"""How the cells of one command ended, printed at its end, and the exit status."""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bench.records.redact import redact
from bench.run import distributed

# Exit status, worst last: what the caller should look at first.
STATUS = {"ok": 0, "elsewhere": 3, "diverged": 1, "failed": 1, "refused": 2, "stopped": 75}
SEVERITY = list(STATUS)


@dataclass(frozen=True)
class Outcome:
    """How one cell ended.

    status: ok, diverged, failed (there is a record, unless it broke down before it began);
    refused (a mistake in the configuration), stopped (asked to leave; the same command goes on),
    elsewhere (another process runs it).
    fresh: run now, not found complete. note: its score, in a few words.
    whole: it is about the command, and no cell. No text of it holds a secret: it goes to logs.
    """

    title: str
    status: str
    reason: str | None
    command: str
    fresh: bool = True
    note: str = ""
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("title", "reason", "command"):
            object.__setattr__(self, name, redact(getattr(self, name)))


def of_record(
    title: str, command: str, record: Mapping[str, Any], *, fresh: bool = True
) -> Outcome:
    """How a cell ended that has this record."""
    note = ", ".join(f"{k} {m['value']:.3g}" for k, m in list(record["metrics"].items())[:2])
    return Outcome(title, record["status"], record["reason"], command, fresh, note)


_outcomes: list[Outcome] = []


def add(outcome: Outcome) -> None:
    """Keep how a cell ended until ``conclude`` prints it."""
    _outcomes.append(outcome)


def refuse(arguments: Sequence[str]) -> str | None:
    """What is wrong with the command line where Hydra says nothing, or only a traceback."""
    for argument in arguments:
        if argument.lstrip("+").startswith(("experiment=", "scale=")) and "," in argument:
            return f"{argument}: name one experiment a command, at one scale; each has its grid."
        group, _, chosen = argument.lstrip("+").partition("=")
        if group == "experiment":
            continue
        if not group.isidentifier() or not (folder := files("conf") / group).is_dir():
            continue
        for name in chosen.split(","):
            if name.lower() in ("null", "true", "false", "") or name.lstrip("+-").isdigit():
                found = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
                known = [file.removesuffix(".yaml") for file in found if file[0] != "_"]
                return f"{argument}: there is no {group} '{name}'; choose {' | '.join(known)}"
    elsewhere = ("--config-", "-cd", "-cp", "hydra.searchpath", "+hydra.searchpath")
    return None if any(a.startswith(elsewhere) for a in arguments) else _experiment(arguments)


def _experiment(arguments: Sequence[str]) -> str | None:
    """What is wrong with the experiment that is named: its folder, the scale's file, its name."""
    chosen = dict(argument.lstrip("+").partition("=")[::2] for argument in arguments)
    name, scale = chosen.get("experiment", "none"), chosen.get("scale", "laptop")
    root = Path(str(files("conf"))) / "experiment"
    known = experiments(root)
    if name not in known:
        return f"experiment={name}: there is no such experiment; choose {' | '.join(known)}"
    if not (file := root / name / f"{scale}.yaml").is_file():
        return (
            f"experiment={name} has no scale={scale}, which conf/experiment/{name}/{scale}.yaml "
            f"would be; it has {' | '.join(known[name])}"
        )
    text = file.read_text(encoding="utf-8")
    where = f"conf/experiment/{name}/{scale}.yaml"
    if name != "none" and not re.search(rf"^experiment_name: {re.escape(name)}\s", text, re.M):
        return f"{where}: it must say `experiment_name: {name}`, under which its records are kept."
    if re.search(r"^arms:", text, re.M) and "/arms@method: ${method}" not in text:
        return f"{where}: it has arms, and must take `- optional /arms@method: ${{method}}`."
    return None


def experiments(root: Path) -> dict[str, list[str]]:
    """The experiments below a folder, by name such as study/uuid, each with its scales."""
    found: dict[str, list[str]] = {}
    for file in sorted(root.glob("**/*.yaml")):
        found.setdefault(file.parent.relative_to(root).as_posix(), []).append(file.stem)
    return found


def command_line(overrides: Sequence[str]) -> str:
    """The command for one cell, as one would type it in a shell."""
    return shlex.join([*distributed.starter(), "-m", "bench", *overrides])


def searchpath(config: DictConfig) -> list[str]:
    """The override that finds the configuration files of --config-dir and the like again."""
    paths = [
        "'" + f"{source.schema}://{source.path}".replace("'", r"\'") + "'"
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")
    ]
    return [f"hydra.searchpath=[{','.join(paths)}]"] if paths else []


def conclude() -> int:
    """Print what happened; the exit status. Forgets the outcomes."""
    outcomes = list(_outcomes)
    _outcomes.clear()
    bad = [o for o in outcomes if STATUS[o.status]]
    worst = max((SEVERITY.index(o.status) for o in outcomes), default=0)
    status = STATUS[SEVERITY[worst]]
    if not distributed.first():  # the first process prints for all
        return status
    cells = [o for o in outcomes if not o.whole]
    counts = Counter(o.status if o.fresh else "done before" for o in cells)
    several = len(outcomes) > 1
    if cells and (several or not bad):
        word = "cells" if len(cells) > 1 else "cell"
        print(f"{len(cells)} {word}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for outcome in bad:
        print(f"{outcome.title} {outcome.status}: {outcome.reason}", file=sys.stderr)
        if several or outcome.status == "stopped":
            print(f"  again: {outcome.command}", file=sys.stderr)
    return status
