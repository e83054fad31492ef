"""AsyLoRA: LoRA whose A is a random matrix with orthonormal rows (Zhu et al. 2024, 2402.16842).

A only extracts features and B makes the output, so that a random A serves as well as a trained
one. The original therefore freezes A (``freeze_a: true``: half the parameters, or less). The MoRA
paper's baseline takes the initialisation alone and trains A as well (``freeze_a: false``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.base import check_flag
from methods.layer import Delta
from methods.lora import LoRA, LowRank


class AsyLoRA(LoRA):
    """A starts as ``rank`` random orthonormal rows, B at zero."""

    name, label = "asylora", "AsyLoRA"

    def __init__(self, *, freeze_a: bool = False, **shared: Any):
        super().__init__(**shared)
        check_flag("freeze_a", freeze_a)
        self.freeze_a = freeze_a

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"freeze_a": self.freeze_a}

    def start(self, linear: nn.Linear) -> dict[str, Tensor]:
        parameters = super().start(linear)
        parameters["lora_A"] = nn.Parameter(parameters["lora_A"], requires_grad=not self.freeze_a)
        return parameters

    def new_a(self, d_in: int, generator: torch.Generator | None = None) -> Tensor:
        return nn.init.orthogonal_(torch.empty(self.rank, d_in), generator=generator)

    def delta(self) -> Delta:
        return LowRank(self.scale, train_a=not self.freeze_a)

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return (d_out if self.freeze_a else d_in + d_out) * self.rank
