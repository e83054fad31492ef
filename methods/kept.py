"""Formed weights that layers keep between forward passes: how much memory, and until when.

A kept weight takes as many bytes as the base weight in the dtype that the layer computes in: for
LLaMA-2 7B's seven linear layers a block in bf16, 12 GiB. ``compute=cached`` takes them. With
``compute=auto`` layers are granted them in the order of their first use, as long as all of them on
a device stay below SHARE of its free memory.

A change of a parameter shows in its version, which autograd counts, or in its address. What neither
shows are writes through ``.data`` and those of fused optimisers (torch's own among them): so every
step of a ``torch.optim`` optimiser counts as a change as well.
"""

from __future__ import annotations

import sys
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

SHARE = 0.1
_granted: WeakKeyDictionary[nn.Module, tuple[torch.device, int]] = WeakKeyDictionary()
_steps = 0


def grant(layer: nn.Module, size: int, device: torch.device) -> bool:
    """Whether ``layer`` may keep ``size`` bytes; they are booked until it is gone."""
    _granted.pop(layer, None)  # what it had before it was moved
    held = sum(n for where, n in _granted.values() if where == device)
    if held + size > SHARE * free_memory(device):
        return False
    _granted[layer] = device, size
    return True


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, 0 where that cannot be told."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return 0
    try:
        with open("/proc/meminfo") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    return 1024 * int(available.split()[1])


def sharded() -> bool:
    """Whether FSDP2 shards a model in this process: it changes parameters without a trace."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else fsdp.FSDPModule.__subclasses__()
    return any(issubclass(kind, nn.Module) for kind in kinds)  # it gives modules another class


def steps() -> int:
    """How many optimiser steps this process has made."""
    return _steps


def _count(*_: object) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count)
