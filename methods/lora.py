"""LoRA: delta W = (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685, Eq. 3).

rsLoRA scales by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import AdapterMethod
from methods.errors import MethodError
from methods.layer import AdapterLinear, Delta
from methods.operators import wide


class LoRA(AdapterMethod):
    """alpha: None means 2 * rank (Biderman et al. 2024); A starts Kaiming-uniform, B at zero."""

    name, label = "lora", "LoRA"

    def __init__(self, *, alpha: float | None = None, rslora: bool = False, **shared: Any):
        super().__init__(**shared)
        self.alpha = float(2 * self.rank if alpha is None else alpha)
        if not self.alpha > 0:
            raise MethodError(f"method.alpha={alpha} must be above 0.")
        self.rslora = bool(rslora)

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"alpha": self.alpha, "rslora": self.rslora}

    def adapt(self, linear: nn.Linear) -> AdapterLinear:
        a = torch.empty(self.rank, linear.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        b = torch.zeros(linear.out_features, self.rank)
        return AdapterLinear(
            linear,
            {"lora_A": a, "lora_B": b},
            LowRank(self.scale),
            dropout=self.dropout,
            compute=self.compute,
        )

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return (d_in + d_out) * self.rank

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(self.rank, d_in, d_out)


@dataclass(frozen=True)
class LowRank(Delta):
    """delta W = scale B A, with A (rank, d_in) and B (d_out, rank)."""

    scale: float

    def apply_(self, weight: Tensor, *parameters: Tensor) -> None:
        a, b = (p.to(weight.dtype) for p in parameters)
        weight.addmm_(b, a, alpha=self.scale)

    def pullback(
        self, x: Tensor, dy: Tensor, weight: Tensor, *parameters: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b = (p.to(x.dtype) for p in parameters)
        da = wide((dy @ b).T @ x) * self.scale
        db = wide(dy.T @ (x @ a.T)) * self.scale
        return da, db

    def plain(self, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        a, b = parameters
        return F.linear(F.linear(x, a), b) * self.scale
