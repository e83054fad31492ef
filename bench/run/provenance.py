"""What a result rests on: commit, versions, machine. No secrets, no host name, no user name."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.run.device import Placement

PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "peft", "safetensors", "tokenizers",
    "hydra-core", "lm-eval", "wandb", "numpy", "mora-bench",
)  # fmt: skip
STATUS = Path("/proc/self/status")
# Environment variables that hold secrets, by name; a shorter value than that is a flag or a number.
SECRET = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)(_|$)", re.IGNORECASE)
SHORTEST = 8


def environment(placement: Placement) -> dict[str, Any]:
    commit, dirty = _git()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": placement.describe(),
        "precision": placement.precision,
        "threads": torch.get_num_threads(),
    }


def redact(value: Any) -> Any:
    """The value without any secret of this process's environment, should one have got into it."""
    secrets = [
        text for name, text in os.environ.items() if SECRET.search(name) and len(text) >= SHORTEST
    ]
    return _without(value, secrets) if secrets else value


def _without(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    return value


def start_memory_watch(placement: Placement) -> None:
    """Begin a new peak, so that a cell does not inherit the one before it, nor its garbage."""
    if gc.get_freeze_count():
        gc.collect()
    else:
        # The first cell has no garbage before it. What the imports left, a million objects, is kept
        # out of all collections from here on: each would take half a second to walk it.
        gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    if placement.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(placement.device)
    elif STATUS.exists():
        with contextlib.suppress(OSError):  # then the peak is the whole process's, an upper bound
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(placement: Placement) -> int:
    """Highest memory in use since the watch began: the GPU's, or this process's resident set."""
    if placement.device.type == "cuda":
        return torch.cuda.max_memory_allocated(placement.device)
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code lies in, and whether tracked files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
