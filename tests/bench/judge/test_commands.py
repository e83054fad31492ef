"""The commands that add missing seeds: in today's words, for the very row that lacks them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from bench import records
from bench.judge.cells import Result, collect
from bench.judge.settings import again, commands
from bench.records import identity
from bench.run.plan import plan
from bench.sweep import outcomes

RESULTS = Path(__file__).parents[3] / "results"
STUDIES = sorted(
    folder.parent.relative_to(RESULTS).as_posix()
    for folder in RESULTS.rglob("records")
    if "runs" not in folder.parts
)


def cells(root: Path, study: str) -> dict[str, Result]:
    """One cell for each command of a study's records, seeds apart."""
    found = collect(root / "results" / study / "records").cells
    return {shlex.join(again(cell)): cell for cell in found}


def row_of(words: list[str], precision: str) -> dict[str, Any]:
    """What the command's cells are today, their seed apart."""
    assert words[:3] == ["python", "-m", "bench"]
    assert outcomes.refuse(words[3:]) is None
    with initialize_config_module("conf", version_base="1.3"):
        made = plan(compose("config", [*words[3:], "seed=7", f"precision={precision}"]))
    what = identity.identity(made.config, made.method.settings, made.placement.precision)
    return identity.row(what)


def same(root: Path, study: str, most: int | None = None) -> None:
    for words, cell in [*cells(root, study).items()][:most]:
        today = row_of(shlex.split(words), cell.precision)
        assert today == identity.row(identity.of_record(records.read(cell.file))), words


@pytest.mark.parametrize("study", STUDIES)
def test_a_command_of_a_committed_record_is_its_row_today(root: Path, study: str) -> None:
    same(root, study, most=1)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_every_command_of_the_committed_records(root: Path, study: str) -> None:
    same(root, study)


def test_old_words_are_said_in_todays(tmp_path: Path, make: Callable[..., Any]) -> None:
    old = "python -m bench method=mora seed=3 protocol.trial=b task=laptop/math experiment=x"
    records.write(make(rate=2.5e-4, command=old), tmp_path)
    (cell,) = collect(tmp_path).cells
    assert again(cell) == [
        "python", "-m", "bench", "method=mora", "task=sums", "experiment=x",
        "method.learning_rate=0.00025",
    ]  # fmt: skip


def test_missing_seeds_come_after_the_highest(tmp_path: Path, make: Callable[..., Any]) -> None:
    """Of an arm with several rates all are run: a tuned rate is chosen among them."""
    for trial, rate in enumerate((1e-3, 2e-3)):
        for seed in (0, 4):
            words = f"python -m bench method=mora trial={trial} seed={seed} experiment=study/steps"
            records.write(make(rate=rate, seed=seed, command=words), tmp_path)
    found = collect(tmp_path).cells
    rates = [[c for c in found if c.learning_rate == rate] for rate in (1e-3, 2e-3)]
    grid = "python -m bench -m method=mora experiment=study/steps method.learning_rate="
    assert commands([rates], 2) == (f"{grid}0.001,0.002 seed=5,6",)
    assert commands([[rates[1]]], 1) == (f"{grid}0.002 seed=5",)
    assert commands([rates], 0) == ()


def test_the_rate_is_said(tmp_path: Path, make: Callable[..., Any]) -> None:
    """A default, and a trial's place among the rates, may have changed since."""
    for seed, word in enumerate(("task=uuid", "trial=2", "method.learning_rate=0.00025")):
        command = f"python -m bench method=mora {word} seed={seed}"
        records.write(make(rate=2.5e-4, seed=seed, command=command), tmp_path)
    said = {cell.seed: again(cell)[4:] for cell in collect(tmp_path).cells}
    assert said == {
        0: ["task=uuid", "method.learning_rate=0.00025"],
        1: ["method.learning_rate=0.00025"],
        2: ["method.learning_rate=0.00025"],
    }
