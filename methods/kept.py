"""Formed weights that layers keep between forward passes: how much memory, and until when.

A kept weight takes as many bytes as the base weight in the dtype that the layer computes in: for
LLaMA-2 7B's seven linear layers a block in bf16, 12 GiB. ``compute=cached`` takes them. Otherwise
layers are granted them in the order of their first use, as long as all of them on a device stay
below a share of its free memory: SHARE with ``compute=auto`` in training, where gradients and
activations are to come, and SHARE_IN_EVALUATION in evaluation.

A change of a parameter shows in its version, which autograd counts, or in its address. What neither
shows are writes through ``.data`` and those of fused optimisers (torch's own among them). So every
step of a ``torch.optim`` optimiser counts as a change as well, ``auto`` keeps the weights of such
layers alone in training as one of these optimisers trains, and nothing is kept from training to
evaluation or back. Whoever writes through ``.data`` in between calls ``changed``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from methods import memory

SHARE = 0.1
SHARE_IN_EVALUATION = 0.5
_granted: WeakKeyDictionary[nn.Module, tuple[torch.device, int]] = WeakKeyDictionary()
_trained: WeakKeyDictionary[Optimizer, set[int]] = WeakKeyDictionary()  # ids of its parameters
_lock = Lock()
_changes = 0


def grant(layer: nn.Module, size: int, device: torch.device) -> bool:
    """Whether ``layer`` may keep ``size`` bytes; they are booked until it gives them back."""
    share = SHARE if layer.training else SHARE_IN_EVALUATION
    with _lock:
        _granted.pop(layer, None)
        held = sum(n for where, n in _granted.values() if where == device)
        if held + size > share * (memory.free(device) + held):
            return False
        _granted[layer] = device, size
        return True


def give_back(layer: nn.Module) -> None:
    """Book nothing for ``layer`` any more."""
    with _lock:
        _granted.pop(layer, None)


def trained(parameters: Iterable[Tensor]) -> bool:
    """Whether a ``torch.optim`` optimiser that has made a step trains them all."""
    wanted = {id(parameter) for parameter in parameters}
    return any(wanted <= ids for ids in _trained.values())


def sharded() -> bool:
    """Whether FSDP2 shards a model in this process: it changes parameters without a trace."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else fsdp.FSDPModule.__subclasses__()
    return any(issubclass(kind, nn.Module) for kind in kinds)  # it gives modules another class


def changes() -> int:
    """Grows whenever parameters may have changed without a trace."""
    return _changes


def changed() -> None:
    """Say that parameters were changed in a way that autograd does not count (``.data``)."""
    global _changes
    _changes += 1


def _after_step(optimizer: Optimizer, *_: object) -> None:
    changed()
    if optimizer not in _trained:
        groups = optimizer.param_groups
        _trained[optimizer] = {id(p) for group in groups for p in group["params"]}


register_optimizer_step_post_hook(_after_step)
