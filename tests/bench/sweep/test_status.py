"""Status: every cell in its right state, from records and leases of living and dead owners."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.sweep import leases, status
from tests.bench.studies import make_record


def make(cell: str, state: str = "ok", reason: str | None = None, seed: int = 1) -> records.Record:
    model = {"name": "tiny", "label": "Tiny", "source": None, "revision": None}
    return make_record(seed=seed, cell=cell, status=state, reason=reason, model=model)


def lease(folder: Path, cell: str, age: float = 0.0, **known: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{cell}.lease"
    content = {
        "cell": cell,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": leases.boot_id(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "process_start": leases.process_start(os.getpid()),
        "token": "t",
        "started": "2026-01-01T00:00:00+00:00",
        "heartbeat": "2026-01-01T00:00:00+00:00",
        "total_steps": 60,
        "step": 12,
    }
    path.write_text(json.dumps(content | known))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def states(folder: Path) -> dict[str, str]:
    return {cell.cell[0]: cell.state for cell in status.survey(folder)}


def test_every_state(tmp_path: Path, dead: int) -> None:
    records.write(make("a" * 16), tmp_path)
    records.write(make("b" * 16, "failed", "out of memory"), tmp_path)
    records.write(make("c" * 16, "diverged", "loss"), tmp_path / "below")
    records.write(make("d" * 16, "skipped", "no data"), tmp_path)
    lease(tmp_path, "e" * 16)
    lease(tmp_path, "f" * 16, age=121)  # silent, and yet its process lives
    lease(tmp_path, "0" * 16, pid=dead)
    lease(tmp_path, "1" * 16, boot_id="another boot")  # another machine, for all we know
    lease(tmp_path, "2" * 16, boot_id="elsewhere", pid=dead)
    lease(tmp_path, "3" * 16, boot_id="elsewhere", age=121)
    (tmp_path / f"{'4' * 16}.json").write_text('{"torn')
    assert states(tmp_path) == {
        "a": "done", "b": "failed", "c": "diverged", "d": "skipped",
        "e": "running", "f": "running", "0": "stale", "1": "running", "2": "running", "3": "stale",
        "4": "broken",
    }  # fmt: skip


def test_a_sweep_and_status_have_one_rule_for_a_stale_lease(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start times, pid namespaces and SLURM's restarts count in both."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lease(tmp_path, "a" * 16, process_start=1)  # its id was given to another process since
    lease(tmp_path, "b" * 16, pid_namespace="pid:[1]", pid=dead)  # means nothing here
    lease(tmp_path, "c" * 16, boot_id="elsewhere", slurm_job="/7", slurm_restarts=0)
    lease(tmp_path, "d" * 16, boot_id="elsewhere", slurm_job="/7", slurm_restarts=1)
    assert states(tmp_path) == {"a": "stale", "b": "running", "c": "stale", "d": "running"}
    for file in sorted(tmp_path.glob("*.lease")):
        found = leases.Seen(json.loads(file.read_text()), file, file.stat().st_mtime)
        dead_to_a_sweep = leases.Watcher().dead(found, time.time())
        assert dead_to_a_sweep == (states(tmp_path)[file.stem[0]] == "stale")


def test_a_lease_beside_a_record(tmp_path: Path, dead: int) -> None:
    for cell in "abc":
        records.write(make(cell * 16), tmp_path)
    lease(tmp_path, "a" * 16, pid=dead)  # left behind: the cell has ended
    lease(tmp_path, "b" * 16)  # run again
    assert states(tmp_path) == {"a": "done", "b": "running", "c": "done"}


def test_a_cell_that_was_stopped_has_its_checkpoints_alone(tmp_path: Path, dead: int) -> None:
    records.write(make("a" * 16), tmp_path)
    lease(tmp_path, "b" * 16)
    lease(tmp_path, "c" * 16, pid=dead)
    for cell in "abcd":
        (tmp_path / f"{cell * 16}.checkpoints" / "checkpoint-3").mkdir(parents=True)
    assert states(tmp_path) == {"a": "done", "b": "running", "c": "stale", "d": "stopped"}


def test_a_folder_one_may_not_enter_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    assert status.main([str(tmp_path / "x")]) == 2
    assert f"{tmp_path / 'x'}: Permission denied" in capsys.readouterr().err


def test_clocks_and_torn_leases(tmp_path: Path) -> None:
    lease(tmp_path, "a" * 16, age=-5000, boot_id="elsewhere")  # its clock is ahead of ours
    torn = lease(tmp_path, "b" * 16)
    torn.write_text('{"cell"')
    old = lease(tmp_path, "c" * 16)
    old.write_text("[]")
    os.utime(old, (0, 0))
    assert states(tmp_path) == {"a": "running", "b": "running", "c": "stale"}
    ahead = next(cell for cell in status.survey(tmp_path) if cell.cell == "a" * 16)
    assert ahead.detail.endswith("last sign 0 seconds ago")


def test_the_printed_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(make("a" * 16), tmp_path)
    records.write(make("b" * 16, "failed", "out\nof \x1b memory", seed=2), tmp_path)
    lease(tmp_path, "e" * 16, started="2100-01-01T00:00:00")
    assert status.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: 3 cells: 1 done, 1 running, 0 stale, 1 failed, 0 diverged"
    assert f"  {'a' * 16}  uuid tiny MoRA r=8 lr=0.001 seed=1" in lines
    assert f"  {'b' * 16}  uuid tiny MoRA r=8 lr=0.001 seed=2  out of   memory" in lines
    running = next(line for line in lines if "e" * 16 in line)
    assert f"step 12 of 60, {socket.gethostname()}, process {os.getpid()}" in running


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(make("a" * 16), tmp_path)
    assert status.main([str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["done"] == 1
    assert told["cells"][0]["file"] == str(tmp_path / f"{'a' * 16}.json")


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 2
    assert "no cells here" in capsys.readouterr().err
    assert status.main([str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / f"{'4' * 16}.json").write_text("")
    assert status.main([str(tmp_path)]) == 1
    assert f"{'4' * 16}.json: not a complete JSON file" in capsys.readouterr().out


@pytest.mark.slow
def test_ten_thousand_records(tmp_path: Path) -> None:
    """Under 10 s and 1 GiB."""
    point = {"loss": 1.2345678, "learning_rate": 1e-3, "grad_norm": 0.987654, "seconds": 12.5}
    train = [{"step": i, **point} for i in range(60)]
    text = json.dumps(make("0" * 16) | {"curves": {"train": train, "scores": []}})
    for i in range(10_000):
        (tmp_path / f"{i:016x}.json").write_text(text.replace("0" * 16, f"{i:016x}"))
    shown = tmp_path / "shown.txt"
    with shown.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "bench.status", tmp_path], stdout=out)
        _, status, used = os.wait4(process.pid, 0)  # of this child alone
    assert status == 0 and "10,000 cells: 10,000 done" in shown.read_text()
    assert used.ru_utime + used.ru_stime < 10
    assert used.ru_maxrss < 1024 * 1024  # KiB
