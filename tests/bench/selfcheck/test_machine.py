"""What bench.selfcheck finds about a machine; green here, and red with a fault planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.run import device
from bench.selfcheck import cells, machine
from bench.selfcheck.__main__ import main
from methods import Method
from methods.operators import Rotation


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_have_the_error_of_their_precision(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = device.Placement("cpu", precision)
    assert machine.arithmetic(place).ok
    monkeypatch.setattr(device.Placement, "autocast", lambda _: torch.autocast("cpu", torch.half))
    assert machine.arithmetic(place).ok is False


def test_a_disk_that_is_full_or_closed_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOM", 1)
    assert machine.disk(tmp_path / "runs").ok
    monkeypatch.setattr(machine, "ROOM", 1 << 60)
    assert machine.disk(tmp_path / "runs").ok is False
    (tmp_path / "file").touch()
    assert machine.disk(tmp_path / "file").ok is False


def test_more_threads_than_processors_are_off() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert machine._threads().ok
        torch.set_num_threads(1000)
        assert machine._threads().ok is False
    finally:
        torch.set_num_threads(before)


# ---- the command, with real cells --------------------------------------------------------------

Checked = Callable[..., tuple[int, str]]


@pytest.fixture
def checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Checked:
    """Runs the command with these cells; its exit status and what it printed."""

    def run(*names: str) -> tuple[int, str]:
        monkeypatch.setattr(cells, "NAMES", names)
        monkeypatch.setattr(machine, "ROOM", 1)
        monkeypatch.setenv("COLUMNS", "300")
        status = main(["--results", str(tmp_path)])
        return status, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_this_machine_is_right(checked: Checked) -> None:
    status, said = checked(*cells.NAMES)
    assert status == 0 and "is right" in said, said


@pytest.mark.slow
@pytest.mark.parametrize("method", cells.METHODS)
def test_a_wrong_learning_rate_is_seen(
    method: str, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Method.parameter_groups

    def scaled(self: Method, model: torch.nn.Module) -> list[dict[str, Any]]:
        return [group | {"lr": group["lr"] * 1.25} for group in right(self, model)]

    monkeypatch.setattr(Method, "parameter_groups", scaled)
    status, said = checked(f"{method} fp32", f"{method} bf16")
    assert status == 1 and f"off: {method} fp32, {method} bf16" in said, said


@pytest.mark.slow
def test_a_wrong_sign_of_the_rotation_is_seen(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Rotation._rotate

    def turned(self: Rotation, chunks: torch.Tensor, *, inverse: bool) -> torch.Tensor:
        return right(self, chunks, inverse=not inverse)  # R_i^T for R_i, everywhere

    monkeypatch.setattr(Rotation, "_rotate", turned)
    status, said = checked("mora fp32")
    assert status == 1 and "off: mora fp32" in said, said


@pytest.mark.slow
def test_fp16_in_the_place_of_bf16_is_seen(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(device.PRECISIONS, "bf16", "float16")
    status, said = checked()
    assert status == 1 and "off: arithmetic bf16" in said, said
