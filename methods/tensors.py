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


def tile(x: Tensor, size: int) -> Tensor:
    """Cut the last dimension to ``size``, or fill it up with itself, again and again."""
    if x.shape[-1] < size:
        x = x.repeat(*(1,) * (x.dim() - 1), -(-size // x.shape[-1]))
    return x[..., :size]


def copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A new contiguous tensor of the same values in ``dtype``, in one pass."""
    return x.to(dtype, copy=True, memory_format=torch.contiguous_format)


def add_(formed: Tensor, weight: Tensor, delta: Tensor) -> None:
    """formed = weight + delta, rounded once; ``formed`` holds ``weight`` in its own dtype."""
    if formed.dtype == weight.dtype:
        formed.add_(delta)
    else:
        formed.copy_(weight + delta)


def summed(x: Tensor, dim: int) -> Tensor:
    """x.sum(dim); two are added, which is the same and far cheaper in half precision on a CPU."""
    if x.shape[dim] == 2:
        first, second = x.unbind(dim)
        return first + second
    return x.sum(dim)


ONE_BY_ONE = 1024  # summed over, from which a CPU takes products in half precision singly


def products(a: Tensor, b: Tensor) -> Tensor:
    """(count, m, n) @ (count, n, k) -> (count, m, k), of views whose n goes by rows.

    On a CPU torch.bmm lays such operands out anew in half precision, and is slow at it.
    """
    if a.device.type == "cpu" and a.dtype in (torch.bfloat16, torch.float16):
        if a.shape[2] >= ONE_BY_ONE:
            return torch.stack([one @ other for one, other in zip(a, b, strict=True)])
        a, b = a.transpose(1, 2).contiguous().transpose(1, 2), b.contiguous()
    return torch.bmm(a, b)


def rows(x: Tensor) -> Tensor:
    """(..., size) -> (n, size)."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def shaped(y: Tensor, x: Tensor) -> Tensor:
    """(n, size) -> (..., size), the leading dimensions as x has them."""
    return y.view(*x.shape[:-1], y.shape[-1])


def wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outside_inference(function: Function) -> Function:
    """Make tensors that may be kept: one made in inference mode can never be trained with."""
    return torch.inference_mode(False)(function)
