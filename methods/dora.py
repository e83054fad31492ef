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


class DoRA(LoRA):
    """LoRA and one more parameter an output: d_out beyond LoRA's budget."""

    name, label = "dora", "DoRA"

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
    """Row i of V = W + scale B A is brought to the length m_i: W' = diag(m / ||V||) V."""

    scale: float

    def apply_(self, weight: Tensor, *parameters: Tensor) -> None:
        a, b, m = parameters
        self._turn_(weight, a, b)
        weight.mul_((m / lengths(weight)).to(weight.dtype).unsqueeze(1))

    def pullback(
        self, x: Tensor, dy: Tensor, weight: Tensor, *parameters: Tensor
    ) -> tuple[Tensor | None, ...]:
        """From G = dy^T x (d_out, d_in), the gradient of W'; the magnitude needs all of it."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        a, b, m = (p.to(dtype) for p in parameters)
        v = weight.detach().clone()
        self._turn_(v, a, b)
        norm = lengths(v)
        g = (dy.T @ x).to(dtype)
        dm = (g * v).sum(1) / norm
        g = g.mul_((m / norm).unsqueeze(1)).mul_(self.scale)
        return b.T @ g, g @ a.T, dm

    def plain(self, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        a, b, m = parameters
        with torch.no_grad():
            v = weight.detach().clone()
            self._turn_(v, a, b)
            norm = lengths(v).to(m.dtype)
        ratio = m / norm
        low_rank = F.linear(F.linear(x, a), b) * self.scale
        return (ratio - 1) * F.linear(x, weight) + ratio * low_rank

    def delta_weight(self, weight: Tensor, *parameters: Tensor) -> Tensor:
        formed = weight.clone()
        self.apply_(formed, *parameters)
        return formed - weight

    def _turn_(self, weight: Tensor, a: Tensor, b: Tensor) -> None:
        weight.addmm_(b.detach().to(weight.dtype), a.detach().to(weight.dtype), alpha=self.scale)


def lengths(weight: Tensor) -> Tensor:
    """Euclidean length of each row, summed up in fp32 or wider: (d_out, d_in) -> (d_out,)."""
    return torch.linalg.vector_norm(
        weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32)
    )
