"""Every experiment at laptop scale runs for two steps, on the tiny model instead of SmolLM2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import records
from bench.sweep import outcomes

ROOT = Path(__file__).resolve().parents[2]
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
