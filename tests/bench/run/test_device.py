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


@pytest.mark.parametrize("here", [True, False])
def test_a_gpu_is_chosen_by_what_the_process_sees(two_gpus: None, here: bool) -> None:
    """The Trainer takes the first one, whatever the device's number."""
    with pytest.raises(UserError, match=r"by CUDA_VISIBLE_DEVICES=1 before the command\.$"):
        device.resolve("cuda:1", "bf16", here=here)
    assert device.resolve("cuda:0", "bf16", here=here) == device.Placement("cuda:0", "bf16")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
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
