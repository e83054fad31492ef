"""DoRA: the length and the direction of each output's weights train apart (Liu et al. 2024).

    W' = m * (W + scale B A) / ||W + scale B A||        (arXiv 2402.09353, Eq. 5)

The norm is taken over the inputs of each output, as peft does (the paper writes W as (d_in, d_out)
and calls it column-wise). It is a constant to the gradient, as the paper proposes in section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.layer import Delta
from methods.lora import LoRA
from methods.tensors import wide


class DoRA(LoRA):
    """LoRA and one more parameter an output: d_out beyond LoRA's budget."""

    name, label = "dora", "DoRA"
    over_quantised = False  # delta W depends on W

    def start(self, linear: nn.Linear) -> dict[str, Tensor]:
        return super().start(linear) | {"lora_magnitude_vector": lengths(linear.weight.detach())}

    def delta(self) -> Delta:
        return Directed(self.scale)

    def peft_fields(self) -> dict[str, Any]:
        return super().peft_fields() | {"use_dora": True}

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return super().trainable_parameters(d_in, d_out) + d_out

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(d_in, d_out)  # scaling the rows of a full-rank W: a full-rank change


@dataclass(frozen=True)
class Directed(Delta):
    """Row i of V = W + scale B A is brought to the length m_i: W' = diag(m / ||V||) V.

    V and the ratio m / ||V|| are formed in fp32 or wider: in bf16 a ratio of 1.003 would be 1. Over
    a base held in bf16 the formed weight, or the output, is still rounded to bf16 in the end, so
    that of a ratio within 0.4 % of 1 a part is lost; over a base in fp32 nothing is.
    """

    scale: float

    def apply_(self, weight: Tensor, *tensors: Tensor) -> None:
        a, b, m = tensors
        v = self._turned(weight, a, b)
        weight.copy_(v.mul_((m / lengths(v)).unsqueeze(1)))

    def pullback(
        self, x: Tensor, dy: Tensor, weight: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        """From G = dy^T x (d_out, d_in), the gradient of W'; the magnitude needs all of it."""
        a, b, m = tensors
        v = self._turned(weight, a, b)
        norm = lengths(v)
        g = wide(dy.T @ x).to(v.dtype)
        dm = (g * v).sum(1) / norm
        g = g.mul_((m / norm).unsqueeze(1)).mul_(self.scale)
        return b.T @ g, g @ a.T, dm

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        """Under dropout as in peft: y = W x, and delta W x of the dropped x."""
        a, b, m = tensors
        with torch.no_grad():
            ratio = lengths(self._turned(weight, a, b)).reciprocal()
        ratio = m * ratio
        base = weight.to(x.dtype)
        y = F.linear(x, base)
        low_rank = F.linear(F.linear(dropped, a.to(x.dtype)), b.to(x.dtype)) * self.scale
        if dropped is x:
            y = ratio * (y + low_rank)
        else:
            y = y + (ratio - 1) * F.linear(dropped, base) + ratio * low_rank
        return (y if bias is None else y + bias).to(x.dtype)

    def delta_weight(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        formed = weight.clone()
        self.apply_(formed, *tensors)
        return formed - weight

    def _turned(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """V (d_out, d_in), a new tensor in fp32 or wider, without gradient."""
        v = wide(weight.detach().clone())
        return v.addmm_(b.detach().to(v.dtype), a.detach().to(v.dtype), alpha=self.scale)


def lengths(weight: Tensor) -> Tensor:
    """Euclidean length of each row, summed up in fp32 or wider: (d_out, d_in) -> (d_out,)."""
    return torch.linalg.vector_norm(
        weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32)
    )
