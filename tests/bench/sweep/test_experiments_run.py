"""Experiments at laptop scale run for two steps, on the tiny model instead of SmolLM2.

One in the fast suite, all of them in the slow one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.sweep import outcomes

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = [
    experiment
    for experiment, scales in outcomes.experiments(ROOT / "conf/experiment").items()
    if experiment != "none" and "laptop" in scales
]
# Ranks that the tiny model has; and one cell of what repeats.
ONE = ["method.rank=8", "seed=0"]
ONCE = {
    "lr_fairness": ["trial=1"],
    "learn_forget": ["trial=1"],
}


SHORT = ("trainer.max_steps=2", "trainer.warmup_steps=0", "trainer.score_steps=[]")


def test_a_cell_of_an_experiment_runs_once_all_is_given(run: Any, records_of: Any) -> None:
    """From the file to the record: a method that the file's table does not name."""
    cell = ("experiment=table2_uuid", "method=dora", *SHORT)
    refused = run(*cell)
    assert refused.status == 2 and "method.learning_rate=..." in refused.err
    assert "Traceback" not in refused.err and records_of() == []
    assert run(*cell, "method.learning_rate=1e-3").status == 0
    (record,) = records_of()
    assert (record["status"], record["experiment"]) == ("ok", "table2_uuid")
    assert record["method"]["learning_rate"] == 1e-3
    assert record["config"]["arms"]["operator"] == {"8": "rotation", "64": "sharing"}


def test_a_grid_of_an_experiment_runs(run: Any, records_of: Any) -> None:
    ended = run(
        "-m", "experiment=lr_fairness", "method=fft,mora", "method.rank=8", "trial=2,3", *SHORT
    )
    assert ended.status == 0, ended.err
    rates = {(r["method"]["name"], r["method"]["learning_rate"]) for r in records_of()}
    assert rates == {("fft", 5e-4), ("fft", 1e-3), ("mora", 4e-3), ("mora", 8e-3)}
    assert {r["seed"] for r in records_of()} == {100}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_laptop_grid_runs(experiment: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "-m", f"experiment={experiment}", "scale=laptop"]
    command += ["model=tiny", "trainer.max_steps=2", "trainer.warmup_steps=0", "tracker=none"]
    command += [
        "trainer.score_steps=[]",
        f"results_dir={tmp_path}",
        *ONE,
        *ONCE.get(experiment, []),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [records.read(file) for file in records.find(tmp_path)]
    assert found
    assert {record["status"] for record in found} == {"ok"}
    assert all(record["metrics"] for record in found)
    assert {record["experiment"] for record in found} == {experiment}
