"""scripts/gpu_check.sh: refused at once without a GPU; its steps rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def check(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "gpu_check.sh", *arguments],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def without_gpu(tmp_path: Path) -> str:
    """A PATH on which nvidia-smi finds none."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_without_a_gpu_it_says_how_to_rehearse(root: Path, without_gpu: str) -> None:
    ran = check(root, PATH=without_gpu)
    assert ran.returncode == 2 and "--rehearse" in ran.stderr


@pytest.mark.parametrize("arguments", [["--nope"], ["--rehearse", "--wheels", "/nowhere"]])
def test_wrong_arguments_are_named(root: Path, without_gpu: str, arguments: list[str]) -> None:
    ran = check(root, *arguments, PATH=without_gpu)
    assert ran.returncode == 2 and arguments[-1] in ran.stderr


def test_steps_that_time_does_not_allow_are_named(root: Path, tmp_path: Path) -> None:
    ran = check(root, "--rehearse", "--out", str(tmp_path), GPU_CHECK_SECONDS="0")
    assert ran.returncode == 1 and ran.stdout.count("LEFT ") == 8
    assert "failed: tests selfcheck calls adapters" in ran.stdout


@pytest.mark.slow
def test_all_steps_run_on_a_cpu_and_it_says_so(root: Path, tmp_path: Path) -> None:
    ran = check(root, "--rehearse", "--out", str(tmp_path), PYTHON=sys.executable)
    assert ran.returncode == 0, ran.stdout
    assert "REHEARSED ON A CPU ONLY" in ran.stdout and ran.stdout.count("ok ") == 8
    expected = {"smollm2": (None, {"peft DoRA", "FFT"}), "llama_1b3-compiled": ("eager", {"LoRA"})}
    for name, (compiled, contestants) in expected.items():
        file = tmp_path / f"training-{name}" / "training.json"
        (measured,) = json.loads(file.read_text())
        assert measured["about"]["compiled"] == compiled
        assert contestants | {"peft LoRA"} <= {row["contestant"] for row in measured["rows"]}
