"""MoRA: one square matrix M per layer, trained in place of LoRA's A and B (arXiv 2405.12130).

    delta W x = decompress(M compress(x)),  M (r_hat, r_hat),  r_hat = floor(sqrt((d_in + d_out) r))

At LoRA's budget of (d_in + d_out) r parameters, delta W can reach a rank of r_hat (truncation,
sharing) or the full rank (decoupling, rotation) instead of r. The operators are in
methods/operators.py. The paper uses rotation at r = 8 and sharing at r = 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods import operators
from methods.base import AdapterMethod
from methods.groups import Layout
from methods.layer import AdapterLinear, Delta, Formed
from methods.operators import Compat, Operator, OperatorName
from methods.quantised import layer_class
from methods.tensors import rows, shaped


class MoRA(AdapterMethod):
    """M starts at zero, and there is no scaling factor: the paper's alpha does not apply."""

    name, label = "mora", "MoRA"
    over_quantised = True

    def __init__(
        self,
        *,
        operator: OperatorName = "rotation",
        input_groups: Layout = "strided",
        output_groups: Layout = "strided",
        compat: Compat = "exact",
        alpha: float | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        operators.check_names(operator, input_groups, output_groups, compat)
        self.operator = operator
        self.input_groups, self.output_groups = input_groups, output_groups
        self.compat = compat

    def settings(self) -> dict[str, Any]:
        return super().settings() | self.forward_settings()

    def forward_settings(self) -> dict[str, Any]:
        settings = super().forward_settings() | {"operator": self.operator, "compat": self.compat}
        if self.operator == "sharing":
            settings |= {"input_groups": self.input_groups, "output_groups": self.output_groups}
        return settings

    def build(self, d_in: int, d_out: int) -> Operator:
        """The operator of a layer (d_out, d_in)."""
        return operators.build(
            self.operator,
            d_in,
            d_out,
            self.rank,
            input_groups=self.input_groups,
            output_groups=self.output_groups,
            compat=self.compat,
        )

    def check_shape(self, d_in: int, d_out: int) -> None:
        super().check_shape(d_in, d_out)
        self.build(d_in, d_out)

    def adapt(self, linear: nn.Linear, name: str) -> AdapterLinear:
        operator = self.build(linear.in_features, linear.out_features)
        return layer_class(linear)(
            linear,
            {"M": torch.zeros(operator.side, operator.side)},
            Square(operator),
            dropout=self.dropout,
            compute=self.compute,
        )

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return self.build(d_in, d_out).side ** 2

    def side(self, d_in: int, d_out: int) -> int:
        return self.build(d_in, d_out).side

    def max_rank(self, d_in: int, d_out: int) -> int:
        return self.build(d_in, d_out).max_rank()


@dataclass(frozen=True)
class Square(Delta):
    """delta W = decompress . M . compress, for one operator."""

    operator: Operator

    @property
    def kind(self) -> str:
        return f"mora_{type(self.operator).__name__.lower()}"

    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        return Formed(self.operator.form(weight, tensors[0], dtype))

    def pullback(
        self, x: Tensor, dy: Tensor, y: Tensor | None, *working: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (self.operator.pullback(x, dy),)

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        y = F.linear(rows(x), weight.to(x.dtype), bias)
        return shaped(y + self.operator.apply(rows(dropped), tensors[0]), x)

    def added(self, dropped: Tensor, *tensors: Tensor) -> Tensor:
        return self.operator.apply(dropped, tensors[0])
