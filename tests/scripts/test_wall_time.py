"""Shares of wall time, on grids whose answer is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.wall_time import at_once, shares, sweeps
from tests.bench.studies import make_record


def cell(start: int, end: int, training: float, scoring: float = 0.0, setup: float = 0.0) -> Any:
    def when(seconds: int) -> str:
        return f"2026-11-24T10:{seconds // 60:02}:{seconds % 60:02}+00:00"

    cost = {"training_seconds": training, "scoring_seconds": scoring, "setup_seconds": setup}
    return {"started": when(start), "finished": when(end), "cost": cost}


def test_two_workers_without_a_gap() -> None:
    """Two workers of 60 s each: 120 worker seconds, 90 of them training."""
    cells = [cell(0, 30, 24, 6), cell(0, 60, 42, 12, 6), cell(30, 60, 24, 6)]
    found = shares(cells)
    assert (found["cells"], found["seconds"]) == (3, 120)
    assert found["training"] == pytest.approx(0.75)
    assert found["scoring"] == pytest.approx(0.2)
    assert found["set-up"] == pytest.approx(0.05)
    assert found["the rest"] == pytest.approx(0)


def test_what_lies_between_cells_is_the_rest_and_a_night_is_not() -> None:
    """A gap of 20 s counts against the grid; one of half an hour parts two sweeps."""
    gap = shares([cell(0, 40, 40), cell(60, 100, 40)])
    assert gap["the rest"] == pytest.approx(0.2)
    night = shares([cell(0, 40, 40), cell(1840, 1880, 40)])
    assert night["the rest"] == pytest.approx(0)
    assert [len(sweep) for sweep in sweeps([(0, 40), (40, 80), (1840, 1880)])] == [2, 1]


def test_a_grid_that_was_through_within_a_second_is_refused_in_words() -> None:
    with pytest.raises(SystemExit, match="2 cells began and ended within one second"):
        shares([cell(7, 7, 0.4), cell(7, 7, 0.3)])


def test_workers_are_the_most_at_once() -> None:
    assert at_once([(0, 10), (10, 20), (20, 30)]) == 1
    assert at_once([(0, 10), (5, 20), (10, 30)]) == 2


def test_the_command_writes_a_table_and_a_figure(tmp_path: Path, root: Path) -> None:
    (tmp_path / "grid").mkdir()
    for seed in (1, 2):
        record = make_record(seed=seed)
        (tmp_path / "grid" / f"{record['cell']}.json").write_text(json.dumps(record))
    again = make_record(seed=2, started="2030-01-01T00:00:00+00:00")
    (tmp_path / "grid" / "again").mkdir()
    (tmp_path / "grid" / "again" / f"{again['cell']}.json").write_text(json.dumps(again))
    (tmp_path / "grid" / "notes.yaml").write_text("times: some were halted\n")
    done = subprocess.run(
        [sys.executable, "scripts/wall_time.py", tmp_path / "grid", "--out", tmp_path],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = (tmp_path / "wall_time.md").read_text()
    assert "| grid | 2 |" in told
    assert "- Of some of them: some were halted." in told
    for suffix in ("md", "svg", "png"):
        assert str(tmp_path / f"wall_time.{suffix}") in done.stdout
