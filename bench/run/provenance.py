"""What a result rests on: commit, versions, machine. No secrets, no host name, no user name."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.run import installed
from bench.run.device import Placement

PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "peft", "safetensors", "tokenizers",
    "hydra-core", "lm-eval", "wandb", "numpy", "mora-bench",
)  # fmt: skip


def environment(placement: Placement) -> dict[str, Any]:
    """Commit, versions of PACKAGES, device, precision and CPU, as the record holds them.

    Commit and dirtiness are None where the code lies in no git checkout.
    """
    commit, dirty = _git()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {name: found for name in PACKAGES if (found := installed.version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": placement.describe(),
        "precision": placement.precision,
        "bf16_products": "through fp32" if placement.through_fp32 else None,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


@cache
def _git() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code lies in, and whether tracked files differ from it.

    As of the process's first cell: its code was read before, and stays what it is.
    """
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
