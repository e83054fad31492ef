"""The highest memory in use while something is watched: the GPU's, or this process's."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from functools import cache
from pathlib import Path

import torch

from bench.run.device import Placement

STATUS = Path("/proc/self/status")


@cache
def _freeze() -> None:
    """Keep what the imports left, a million objects, out of all collections from here on.

    Each would take half a second to walk it.
    """
    gc.freeze()


def collect_garbage() -> None:
    """Before a cell, which does not inherit that of the one before it; and after its training.

    A Trainer and its callbacks hold each other, and with them the optimiser's moments.
    """
    _freeze()  # before the first cell, which has no garbage before it
    gc.collect()
    torch.cuda.empty_cache()  # nothing where no GPU is in use


def start_watch(placement: Placement) -> None:
    """Begin a new peak, at what is in use now.

    Where the system can't (only Linux can, for a process), the peak is the whole process's, an
    upper bound.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    if placement.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(placement.device)
    elif STATUS.exists():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(placement: Placement) -> int:
    """Highest memory in use since the watch began: the GPU's, or this process's resident set."""
    if placement.device.type == "cuda":
        return torch.cuda.max_memory_allocated(placement.device)
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
