"""Small helpers on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

Function = TypeVar("Function", bound=Callable)


def fit(x: Tensor, size: int) -> Tensor:
    """Cut the last dimension to ``size``, or fill it up with zeros."""
    return x[..., :size] if x.shape[-1] >= size else pad(x, (0, size - x.shape[-1]))


def wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outside_inference(function: Function) -> Function:
    """Make tensors that may be kept: one made in inference mode can never be trained with."""
    return torch.inference_mode(False)(function)
