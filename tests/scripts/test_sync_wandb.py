"""Sending W&B's offline runs: a call of wandb that went wrong is told of, whichever way it did."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import sync_wandb


@pytest.mark.parametrize(
    ("returned", "status"), [([0, 0], 0), ([1, 0], 1), ([0, -9], 137), ([-15, 0], 143)]
)
def test_a_call_that_a_signal_ended_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: list[int], status: int
) -> None:
    for i in range(2):
        name = f"offline-run-20260101_00000{i}-{i:016x}-{i:08x}"
        (tmp_path / "wandb" / name).mkdir(parents=True)
    ends = iter(returned)

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, next(ends))

    monkeypatch.setattr(sync_wandb, "AT_ONCE", 1)
    monkeypatch.setattr(sync_wandb.subprocess, "run", run)
    assert sync_wandb.main([str(tmp_path)]) == status
