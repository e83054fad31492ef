"""Cells of several processes in a sweep, which starts torchrun itself (two gloo processes)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import records
from bench.errors import UserError
from bench.run import distributed
from bench.sweep import attempt, together
from bench.sweep.leases import Watcher

ROOT = Path(__file__).resolve().parents[3]
SPREAD = ["distributed=ddp", "distributed.processes=2", "trainer.batch_size=2"]


def test_only_cells_of_several_processes_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ({"distributed": {"processes": n}} for n in (1, 2))
    assert not together.needed(one) and together.needed(two)
    monkeypatch.setenv("WORLD_SIZE", "2")  # started by torchrun already
    assert not together.needed(two)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config: Any = {"distributed": {"processes": 8}, "device": "auto"}
    ended = together.attempt(config, ["a=1"], "cell", together.Progress(), print)
    assert ended.status == "refused" and "this machine has 2 GPUs" in str(ended.reason)
    assert ended.command == "torchrun --nproc-per-node=8 -m bench a=1"


def test_a_mistake_that_the_first_process_does_not_meet_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a file that another node lacks. The first has a while to tell it, if it has met it"""
    said: list[str] = []

    def lacking(plan: Any) -> None:
        raise UserError("no such file there")

    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "joined", lambda: True)
    monkeypatch.setattr(distributed, "tell", lambda: True)
    monkeypatch.setattr(attempt, "prepare", lacking)
    monkeypatch.setattr(attempt.time, "sleep", lambda _: said.append(capsys.readouterr().err))
    planned: Any = SimpleNamespace(title="cell", command="again")
    ended = attempt.attempt(planned, Watcher(), together.Progress())
    assert (ended.status, ended.reason) == ("refused", "no such file there")
    assert [*said, capsys.readouterr().err] == ["", "process 3: no such file there\n"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "parallel"])
def test_a_grid_of_cells_of_two_processes(
    launcher: str, run: Any, records_of: Any, tmp_path: Path
) -> None:
    """One after the other; one that is alone among them runs as ever; again, nothing is run."""
    grid = [f"hydra/launcher={launcher}", "seed=0,1", "method=lora", *SPREAD]
    ended = run("-m", *grid, "method.rank=4,1000")
    assert ended.status == 2 and "4 cells: 2 ok, 2 refused" in ended.out
    assert ended.err.count("refused: ") == 2 and "rank=1000 is above" in ended.err
    assert "Traceback" not in ended.err
    found = records_of()
    assert len(found) == 2
    for record in found:
        assert record["config"]["distributed"]["processes"] == 2
        assert record["command"].startswith("torchrun --nproc-per-node=2 -m bench ")
    assert "2 done before" in run("-m", *grid, "method.rank=4").out


@pytest.mark.slow
def test_a_task_of_an_array_starts_two_processes(
    tiny: list[str], records_of: Any, tmp_path: Path
) -> None:
    cells = tmp_path / "cells.jsonl"
    lines = [[*tiny, *SPREAD, f"seed={seed}"] for seed in (0, 1)]
    cells.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "bench.sweep.task", str(cells), "1", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 cells: 2 ok" in done.stdout and len(records_of()) == 2


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    steps = ["trainer.max_steps=300", "trainer.checkpoint_every=20"]
    command = [sys.executable, "-m", "bench", "-m", *tiny, *SPREAD, *steps]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 200
    while not list(folder.glob("*.checkpoints/checkpoint-*")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 75 and "it can be resumed" in err, err
    assert "again: torchrun --nproc-per-node=2 -m bench" in err
    (left,) = folder.iterdir()
    assert left.suffix == ".checkpoints"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.json")
    assert records.read(file)["status"] == "ok"
