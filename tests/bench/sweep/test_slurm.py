"""A real SLURM on this machine: arrays, requeues, preemption, cancelling; submitit."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import records

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_lab")]

ROOT = Path(__file__).resolve().parents[3]
MOVES = {"environment.git_commit", "environment.git_dirty"}  # the checkout may move on meanwhile


@pytest.fixture(autouse=True)
def empty_queue() -> Iterator[None]:
    yield
    subprocess.run(["scancel", "--user=root"])
    wait_for(lambda: not slurm("squeue", "-h"))


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_for(what: Callable[[], Any], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, slurm("squeue")
        time.sleep(0.1)


def bench(*arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "bench", "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def submitted(output: str) -> str:
    (job,) = re.findall(r"submitted job (\d+)", output)
    return str(job)


def logs(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("slurm/*/*.out")))


def running(folder: Path) -> list[Path]:
    """Checkpoints of a cell at work."""
    return list(folder.glob("*.checkpoints/checkpoint-*"))


LONG = ["method=remora", "method.restart_every=50", "trainer.max_steps=500"]
LONG += ["trainer.checkpoint_every=20", "method.restart_warmup=0"]


def assert_calm(run: Any, folder: Path, *grid: str) -> None:
    """The folder's one record is that of a calm run in this process."""
    (file,) = folder.glob("*.json")
    assert not list(folder.glob("*.lease")) and not running(folder)
    disturbed = records.read(file)
    file.unlink()
    assert run("-m", *grid).status == 0
    assert set(records.differences(records.read(file), disturbed)) <= MOVES


def test_an_array_runs_a_grid_to_its_table(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "run" of 100%, $HOME'
    quoted = str(folder).replace('"', '\\"')
    grid = [*tiny[:-1], f'results_dir="{quoted}"', "method=fft,lora,mora", "seed=0,1"]
    launcher = ["hydra/launcher=sbatch", "hydra.launcher.cells_per_task=2"]
    launcher += ["hydra.launcher.array_parallelism=1", "hydra.launcher.time=10"]
    job = submitted(bench(*grid, *launcher))
    assert slurm("squeue", "-h", "-j", job)  # the command did not wait
    wait_for(lambda: not slurm("squeue", "-h"))
    assert len(list(folder.glob("*.json"))) == 6, logs(folder)
    assert logs(folder).count("2 cells: 2 ok") == 3
    report = [sys.executable, "-m", "bench.report", str(folder), "--out", str(tmp_path / "report")]
    done = subprocess.run(report, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("FFT", "LoRA", "MoRA"))
    again = bench(*grid, *launcher)
    assert "6 cells, 6 done before" in again and "submitted" not in again


def test_a_list_without_submitting(tiny: list[str], tmp_path: Path) -> None:
    launcher = ["hydra/launcher=sbatch", "hydra.launcher.submit=false"]
    launcher += ["+hydra.launcher.options={nice: 5, exclusive: true}", "hydra.launcher.gres=gpu:1"]
    launcher += ["+hydra.launcher.options.signal=B:USR1@60"]
    output = bench(*tiny, "method=lora", "seed=0,1,2", *launcher)
    line = next(line for line in output.splitlines() if line.startswith("sbatch "))
    assert "--array=1-3 " in line and "--nice=5 --exclusive" in line and "--gres=gpu:1" in line
    assert not slurm("squeue", "-h")
    (cells,) = tmp_path.glob("runs/slurm/*/cells-1.jsonl")
    overrides = [json.loads(text) for text in cells.read_text().splitlines()]
    assert [o[-1] for o in overrides] == ["seed=0", "seed=1", "seed=2"]
    subprocess.run(["bash", "-c", line], check=True, cwd=ROOT)  # by hand
    wait_for(lambda: len(list(tmp_path.glob("runs/*.json"))) == 3)


def test_preempted_in_the_middle_it_comes_back_and_ends_right(
    run: Any, tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    job = submitted(bench(*tiny, *LONG, "hydra/launcher=sbatch"))
    wait_for(lambda: running(folder))
    hog = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null"]
    slurm(*hog, "--wrap=sleep 1")
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job))
    wait_for(lambda: not slurm("squeue", "-h"))
    assert "stopped: received SIGTERM" in logs(folder), logs(folder)
    assert_calm(run, folder, *LONG)


def test_near_its_time_limit_it_is_requeued(run: Any, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    job = submitted(bench(*tiny, *LONG, "hydra/launcher=sbatch"))
    wait_for(lambda: running(folder))
    slurm("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@120 does
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job))
    wait_for(lambda: not slurm("squeue", "-h"))
    assert "stopped: received SIGUSR1" in logs(folder), logs(folder)
    assert_calm(run, folder, *LONG)


def test_cancelled_it_can_be_resumed(run: Any, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    job = submitted(bench(*tiny, *LONG, "hydra/launcher=sbatch"))
    wait_for(lambda: running(folder))
    slurm("scancel", job)
    wait_for(lambda: not slurm("squeue", "-h"))
    assert "stopped: received SIGTERM" in logs(folder), logs(folder)
    assert running(folder) and not list(folder.glob("*.json")) + list(folder.glob("*.lease"))
    begin = max(int(folder.name.split("-")[1]) for folder in running(folder))
    assert begin > 20 and run("-m", *LONG).status == 0
    assert_calm(run, folder, *LONG)


def test_a_refusal_is_one_message(tiny: list[str]) -> None:
    for launcher in ("sbatch", "slurm"):
        output = bench(
            *tiny, f"hydra/launcher={launcher}", "hydra.launcher.partition=none", status=2
        )
        assert "sbatch refused the job" in output and "invalid partition" in output


SUBMITIT = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]


def test_submitit_waits_and_tells_what_failed(tiny: list[str], tmp_path: Path) -> None:
    grid = ["method=lora", "seed=0,1", "trainer.optimizer=adamw_torch,lomo"]
    output = bench(*tiny, *grid, *SUBMITIT, status=1)
    assert re.search(r"^4 cells: (2 ok, 2 failed|2 failed, 2 ok)$", output, re.MULTILINE), output
    assert output.count("  again: python -m bench model=tiny") == 2
    assert len(list(tmp_path.glob("runs/*.json"))) == 4


def test_submitit_job_preempted_signalled_and_killed(
    run: Any, tiny: list[str], tmp_path: Path
) -> None:
    """Preempted and requeued, sent submitit's own signal and requeued, each from its checkpoint."""
    folder = tmp_path / "runs"
    command = [sys.executable, "-m", "bench", "-m", *tiny, *LONG, *SUBMITIT]
    command += ["hydra.launcher.timeout_min=20"]
    waiting = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    wait_for(lambda: running(folder))
    job = slurm("squeue", "-h", "--array", "-o", "%i")
    hog = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null"]
    slurm(*hog, "--wrap=sleep 1")
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job))
    wait_for(lambda: slurm("squeue", "-h", "-j", job, "-o", "%T") == "RUNNING")
    before = {checkpoint.name for checkpoint in running(folder)}
    wait_for(lambda: {checkpoint.name for checkpoint in running(folder)} - before)
    slurm("scancel", "--signal=USR2", job)
    wait_for(lambda: "Restarts=2" in slurm("scontrol", "show", "job", job))
    output = waiting.communicate(timeout=280)[0]
    assert waiting.returncode == 0, output
    assert "1 cell: 1 ok" in output
    assert_calm(run, folder, *LONG)


def test_submitit_does_not_wait_for_the_dead(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    command = [sys.executable, "-m", "bench", "-m", *tiny, *LONG, *SUBMITIT]
    waiting = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    wait_for(lambda: running(folder))
    slurm("scancel", "--full", "--signal=KILL", slurm("squeue", "-h", "--array", "-o", "%i"))
    output = waiting.communicate(timeout=280)[0]
    assert waiting.returncode == 1, output
    assert "ended without a record" in output and "Traceback" not in output
