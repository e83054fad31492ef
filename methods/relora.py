"""ReLoRA: LoRA that is merged and started anew every so often (Lialin et al. 2023, 2307.05695).

After each restart A is random again and B zero; k merges and the adapter in training make a
delta W of rank up to (k + 1) rank. The published code prunes the optimiser's moments
(``reset_optimizer: prune``); forgetting them altogether is the default here, as in MoRA's code.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch

from methods.base import AdapterMethod
from methods.layer import AdapterLinear
from methods.lora import LoRA
from methods.restarts import Restarting


class ReLoRA(Restarting, LoRA):
    """seed: of the matrices A drawn at restarts. It is the run's, so no setting of the method."""

    name, label = "relora", "ReLoRA"

    def __init__(self, *, seed: int = 0, **shared: Any):
        super().__init__(**shared)
        self.seed = int(seed)

    # What a restart left in the base weights has no place in peft's format.
    _files, load = AdapterMethod._files, AdapterMethod.load

    def restart(self, layer: AdapterLinear, name: str, step: int) -> None:
        key = f"{self.seed}/{step}/{name}"  # every layer and every restart draws its own
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        layer.get_parameter("lora_A").copy_(self.new_a(layer.in_features, generator))
        layer.get_parameter("lora_B").zero_()

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(d_in, d_out)  # given enough restarts; one merge adds ``rank`` at most
