"""Where a cell runs and in which precision; both are resolved before a model is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from bench.errors import UserError
from bench.run.products import ThroughFp32

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Placement:
    """The device of a cell and the precision of its matrix products."""

    device: torch.device
    precision: str  # bf16 | fp32

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products, and of a frozen base model."""
        return PRECISIONS[self.precision]

    def autocast(self) -> torch.autocast:
        """The context that a model computes in, in training as in scoring."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.precision == "bf16")

    @property
    def through_fp32(self) -> bool:
        """Whether bf16 products are computed in fp32, for want of instructions."""
        return self.device.type == "cpu" and self.precision == "bf16" and not fast_bf16("cpu")

    def products(self) -> AbstractContextManager[Any]:
        """The context of a whole cell: how its matrix products are computed."""
        return ThroughFp32() if self.through_fp32 else nullcontext()

    def describe(self) -> str:
        """For the record: the device's type, and a GPU's name."""
        if self.device.type == "cuda":
            return f"cuda ({torch.cuda.get_device_name(self.device)})"
        return self.device.type


def resolve(device: str, precision: str) -> Placement:
    """``auto`` picks CUDA, MPS, CPU in this order, and bf16 where the device multiplies it fast."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available.get(device.split(":")[0], False):
        raise UserError(
            f"device={device} is not on this machine; choose auto or one of: "
            f"{', '.join(name for name, there in available.items() if there)}."
        )
    if precision == "auto":
        precision = "bf16" if fast_bf16(device) else "fp32"
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is unknown; choose auto, bf16 or fp32.")
    return Placement(torch.device(device), precision)


def fast_bf16(device: str) -> bool:
    """Whether bf16 products have hardware of their own.

    On x86 that is AMX or AVX512-BF16; elsewhere on CPU, and on MPS, bf16 is emulated or no faster.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
