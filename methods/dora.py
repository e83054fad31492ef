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

from methods.layer import Delta, Formed
from methods.lora import LoRA
from methods.tensors import copied, rows, shaped, wide

SHORTEST = 1e-12  # as torch.nn.functional.normalize has it


class DoRA(LoRA):
    """LoRA and one more parameter an output: d_out beyond LoRA's budget."""

    name, label = "dora", "DoRA"
    over_quantised = False  # delta W depends on W
    reads_base = True

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

    needs_output = True

    @property
    def kind(self) -> str:
        return "dora"

    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        a, b, m = tensors
        v = self._turned(weight, a, b)
        ratio = m / lengths(v)
        return Formed(v.mul_(ratio.unsqueeze(1)).to(dtype), (a.to(dtype), b.to(dtype), m, ratio))

    def pullback(
        self, x: Tensor, dy: Tensor, y: Tensor | None, *working: Tensor
    ) -> tuple[Tensor | None, ...]:
        """A and B as in LoRA, with W' instead of V = W + scale B A turned by m / ||V||.

        The magnitude: y = m / ||V|| (V x), so that dm = sum of dy y over the rows, over m. It costs
        no product, but y is kept for backward.
        """
        assert y is not None
        a, b, m, ratio = working
        da = wide((dy @ (b * ratio.unsqueeze(1)).to(x.dtype)).T @ x) * self.scale
        db = wide(dy.T @ (x @ a.T)) * (ratio * self.scale).unsqueeze(1)
        dm = (dy * y).sum(0, dtype=ratio.dtype) / torch.where(m == 0, SHORTEST, m)
        return da, db, dm

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        """Under dropout as in peft: y = W x, and delta W x of the dropped x."""
        a, b, m = tensors
        with torch.no_grad():
            norm = lengths(self._turned(weight, a, b))
        ratio, base = m / norm, weight.to(x.dtype)
        y, low = F.linear(rows(x), base), F.linear(rows(dropped), a.to(x.dtype))
        b = b.to(x.dtype)
        if dropped is x:
            y = ratio * torch.addmm(y, low, b.T, alpha=self.scale)
        else:
            y = y + (ratio - 1) * F.linear(rows(dropped), base)
            y = y + ratio * F.linear(low * self.scale, b)
        return shaped((y if bias is None else y + bias).to(x.dtype), x)

    def delta_weight(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        return self.form(weight, weight.dtype, *tensors).weight - weight

    def _turned(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """V (d_out, d_in), a new tensor in fp32 or wider, without gradient."""
        v = copied(weight.detach(), torch.promote_types(weight.dtype, torch.float32))
        return v.addmm_(b.detach().to(v.dtype), a.detach().to(v.dtype), alpha=self.scale)


def lengths(weight: Tensor) -> Tensor:
    """Euclidean length of each row, summed up in fp32 or wider: (d_out, d_in) -> (d_out,).

    At least SHORTEST: a row of zeros, as pruning and padding leave them, has a direction to gain.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight, dim=1, dtype=dtype).clamp_min(SHORTEST)
