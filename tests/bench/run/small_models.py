"""Configurations of models as Hydra composes them, and how they are loaded and refused."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from bench.errors import UserError
from bench.run import models

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


def conf(name: str, **changes: Any) -> DictConfig:
    """conf/model/<name>.yaml under the key `model`, as Hydra composes it."""
    root = OmegaConf.create({"model": OmegaConf.load(ROOT / f"conf/model/{name}.yaml")})
    for key, value in changes.items():
        OmegaConf.update(root, f"model.{key}", value)
    return root.model


def load(cfg: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> models.LoadedModel:
    return models.load(cfg, dtype=dtype, device=CPU, seed=seed)


def refusal(cfg: Any) -> str:
    """The message with which `check` refuses, which must be one line and quick to come."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        models.check(cfg)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)
