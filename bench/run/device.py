"""Where a cell runs and in which precision; both are resolved before a model is loaded.

A cell's id needs the precision, and importing torch takes seconds: it is asked only where nothing
cheaper answers.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.run import imports

if TYPE_CHECKING:
    import torch

PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}  # torch's names
GPUS = ("cuda", "mps")
# Linux shows a GPU that torch's CUDA (or ROCm) could use as one of these.
GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "nvgpu", "kfd", "dxg")
# x86's instructions that multiply bf16, as the kernel calls them.
BF16_FLAGS = {"amx_tile", "avx512_bf16"}


@dataclass(frozen=True)
class Placement:
    """The device of a cell, by torch's name for it, and the precision of its matrix products."""

    where: str
    precision: str  # bf16 | fp32

    @property
    def device(self) -> torch.device:
        """The device, for torch."""
        import torch

        return torch.device(self.where)

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products, and of a frozen base model."""
        return dtype(self.precision)

    def autocast(self) -> torch.autocast:
        """The context that a model computes in, in training as in scoring."""
        import torch

        return torch.autocast(self.device.type, self.dtype, enabled=self.precision == "bf16")

    @property
    def through_fp32(self) -> bool:
        """Whether bf16 products are computed in fp32, for want of instructions."""
        return self.device.type == "cpu" and self.precision == "bf16" and not fast_bf16("cpu")

    def products(self) -> AbstractContextManager[Any]:
        """The context of a whole cell: how its matrix products are computed."""
        if not self.through_fp32:
            return nullcontext()
        from bench.run.products import ThroughFp32

        return ThroughFp32()

    def describe(self) -> str:
        """For the record: the device's type, and a GPU's name."""
        if self.device.type == "cuda":
            import torch

            return f"cuda ({torch.cuda.get_device_name(self.device)})"
        return self.device.type


def dtype(precision: str) -> torch.dtype:
    """torch's dtype of a key of PRECISIONS."""
    import torch

    found: torch.dtype = getattr(torch, PRECISIONS[precision])
    return found


def resolve(device: str, precision: str, *, here: bool = True) -> Placement:
    """``auto`` picks CUDA, MPS, CPU in this order, and bf16 where the device multiplies it fast.

    here: this machine will run it; another's device need not be on this one, where it is named.
    """
    kind, _, number = str(device).partition(":")
    if kind == "cuda" and number not in ("", "0"):  # which the Trainer would pass over
        raise UserError(
            f"device={device}: a process trains on the first GPU that it sees, so leave "
            f"device=cuda, and choose that GPU by CUDA_VISIBLE_DEVICES={number} before the command."
        )
    if not here and kind in GPUS:
        if precision == "auto":
            raise UserError(
                f"precision=auto depends on the {device} of the machine that runs the cell, which "
                "is not this one: choose precision=bf16 or precision=fp32."
            )
    elif device != "cpu":
        device = _present(str(device))
    if precision == "auto":
        precision = "bf16" if fast_bf16(device) else "fp32"
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is unknown; choose auto, bf16 or fp32.")
    return Placement(device, precision)


def _present(device: str) -> str:
    """The device, after auto. Raises UserError for one that is not on this machine."""
    found = ["cpu"]
    if may_have_gpu():
        imports.ahead("torch")
        import torch

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        found = [name for name, available in there.items() if available] + found
    if device == "auto":
        return found[0]
    if device.partition(":")[0] not in found:
        raise UserError(
            f"device={device} is not on this machine; choose auto or one of: {', '.join(found)}."
        )
    return device


def may_have_gpu(files: Path = Path("/dev")) -> bool:
    """False only where torch would find none: on Linux, without a device file of a GPU."""
    if not sys.platform.startswith("linux"):
        return True
    return any(next(files.glob(pattern), None) is not None for pattern in GPU_FILES)


def fast_bf16(device: str) -> bool:
    """Whether bf16 products have hardware of their own.

    On x86 that is AMX or AVX512-BF16; elsewhere on CPU, and on MPS, bf16 is emulated or no faster.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.split(":")[0] != "cpu":
        return False
    if (known := cpu_flags()) is not None:
        return bool(known & BF16_FLAGS)
    import torch

    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str] | None:
    """What the kernel says that an x86 CPU can do; None where it says nothing."""
    try:
        for line in file.read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return None
