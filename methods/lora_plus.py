"""LoRA+: LoRA whose B learns faster than its A (Hayou et al. 2024, arXiv 2402.12354).

B starts at zero and A does not, so that at one common rate A's change hardly counts in a wide
layer. The paper's lambda = rate of B / rate of A; it recommends about 16, the MoRA paper tries
2 and 4.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from methods.base import adapted_layers, check_number, trainable
from methods.errors import MethodError
from methods.lora import LoRA


class LoRAPlus(LoRA):
    """lr_ratio: lambda. learning_rate is A's, and that of also_train."""

    name, label = "lora_plus", "LoRA+"

    def __init__(self, *, lr_ratio: float = 4.0, **shared: Any):
        super().__init__(**shared)
        check_number("lr_ratio", lr_ratio)
        if not lr_ratio > 0:
            raise MethodError(f"lr_ratio={lr_ratio} must be above 0.")
        self.lr_ratio = float(lr_ratio)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"lr_ratio": self.lr_ratio}

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        b = [layer.get_parameter("lora_B") for _, layer in adapted_layers(model)]
        faster = {id(p) for p in b}
        rest = [p for p in trainable(model) if id(p) not in faster]
        return [
            {"params": rest, "lr": self.learning_rate},
            {"params": b, "lr": self.learning_rate * self.lr_ratio},
        ]
