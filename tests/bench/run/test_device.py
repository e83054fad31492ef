"""Devices that are named by number, or are those of another machine."""

import pytest
import torch

from bench.errors import UserError
from bench.run import device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (9, 0))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "may_have_gpu", lambda: False)


@pytest.mark.parametrize("number", ["2", "x", "-1"])
def test_a_gpu_of_a_number_that_is_not_there_is_refused(two_gpus: None, number: str) -> None:
    with pytest.raises(UserError, match=r"not on this machine; it has cuda:0, cuda:1\.$"):
        device.resolve(f"cuda:{number}", "auto")
    assert device.resolve("cuda:1", "auto") == device.Placement("cuda:1", "bf16")


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps"])
def test_another_machines_gpu_need_not_be_here(no_gpu: None, name: str) -> None:
    assert device.resolve(name, "bf16", here=False) == device.Placement(name, "bf16")
    with pytest.raises(UserError, match="choose precision=bf16 or precision=fp32"):
        device.resolve(name, "auto", here=False)
    with pytest.raises(UserError, match="not on this machine"):
        device.resolve(name, "bf16")


def test_what_is_no_device_is_refused_anywhere(no_gpu: None) -> None:
    for here in (True, False):
        with pytest.raises(UserError, match="device=tpu is not on this machine"):
            device.resolve("tpu", "bf16", here=here)
    assert device.resolve("auto", "fp32", here=False) == device.Placement("cpu", "fp32")
