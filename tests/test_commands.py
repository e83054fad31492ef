"""Every command that the README and the experiments' files name is one that composes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from bench.run.plan import plan
from bench.sweep import dryrun
from bench.sweep.grid import Composer

ROOT = Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"(?:-m bench|\.sbatch \S+python) (-?\S.*=.*)$")
# What a reader is to fill in, and names of files that the README has just had them write.
THEIRS = re.compile(r"^(\.\.\.|key=value|CELLS|(method|experiment)=mine)$")


def commands(text: str) -> list[list[str]]:
    """The overrides of each command in indented or commented lines, comments aside."""
    text = re.sub(r" *\\\n#? *", " ", text)
    lines = [line[5:] for line in text.splitlines() if line.startswith(("    ", "#   "))]
    found = [match[1] for line in lines if (match := COMMAND.search(line))]
    words = [shlex.split(re.split(" {3}| --", line)[0]) for line in found]
    return [
        [word for word in line if not THEIRS.match(word)]
        for line in words
        if not any(THEIRS.match(word) and word.endswith("=mine") for word in line)
    ]


README = commands((ROOT / "README.md").read_text())
FILES = [
    command
    for file in sorted((ROOT / "conf" / "experiment").rglob("*.yaml"))
    for command in commands(file.read_text())
]


def test_commands_are_found() -> None:
    assert len(README) >= 12 and len(FILES) >= 20
    assert any("distributed=fsdp2" in command for command in README)
    assert any("hydra/launcher=sbatch" in command for command in README)


@pytest.mark.parametrize("words", README + FILES, ids=" ".join)
def test_the_first_and_the_last_cell_compose(words: list[str]) -> None:
    overrides = [word for word in words if word != "-m"]
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
        jobs = dryrun.combinations(loader, master)
        composer = Composer(loader, master)
        for job in {tuple(job): job for job in (jobs[0], jobs[-1])}.values():
            assert plan(composer.compose(job)).cell
