"""LoRA: delta W = (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685, Eq. 3).

rsLoRA scales by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from methods import peft_format
from methods.base import AdapterMethod, check_number
from methods.errors import MethodError
from methods.files import ADAPTER_FILE, CONFIG_FILE, METHOD_FILE, as_json, read_weights
from methods.layer import AdapterLinear, Delta, Formed
from methods.quantised import layer_class
from methods.tensors import copied, rows, shaped, wide


class LoRA(AdapterMethod):
    """alpha: None means 2 * rank (Biderman et al. 2024); A starts Kaiming-uniform, B at zero.

    Saves in peft's own format, so that PeftModel.from_pretrained reads it (also_train has no place
    there: with it, the folder holds this package's format alone).
    """

    name, label = "lora", "LoRA"
    over_quantised = True

    def __init__(self, *, alpha: float | None = None, rslora: bool = False, **shared: Any):
        super().__init__(**shared)
        alpha = 2 * self.rank if alpha is None else alpha
        check_number("alpha", alpha)
        self.alpha = float(alpha)
        if not self.alpha > 0:
            raise MethodError(f"alpha={alpha} must be above 0.")
        self.rslora = bool(rslora)

    @property
    def scale(self) -> float:
        """The factor of B A: alpha / rank, or alpha / sqrt(rank) with rslora (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"alpha": self.alpha, "rslora": self.rslora}

    def forward_settings(self) -> dict[str, Any]:
        return super().forward_settings() | {"alpha": self.alpha, "rslora": self.rslora}

    def adapt(self, linear: nn.Linear, name: str) -> AdapterLinear:
        return layer_class(linear)(
            linear, self.start(linear), self.delta(), dropout=self.dropout, compute=self.compute
        )

    def start(self, linear: nn.Linear) -> dict[str, Tensor]:
        """The parameters of a layer before the first step; delta W is zero."""
        return {
            "lora_A": self.new_a(linear.in_features),
            "lora_B": torch.zeros(linear.out_features, self.rank),
        }

    def new_a(self, d_in: int, generator: torch.Generator | None = None) -> Tensor:
        """A random A (rank, d_in)."""
        a = torch.empty(self.rank, d_in)
        return nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)

    def delta(self) -> Delta:
        """How A and B of a layer make delta W; the same object fits every layer."""
        return LowRank(self.scale)

    def peft_fields(self) -> dict[str, Any]:
        """The settings, as fields of peft's LoraConfig."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
        }

    def _files(self, model: nn.Module) -> dict[str, Callable[[Path], Any]]:
        files = super()._files(model)
        if self.also_train:
            return files
        weights = peft_format.to_peft({k: v.contiguous() for k, v in self.state(model).items()})
        config = peft_format.config(model, self.peft_fields())
        return files | {
            ADAPTER_FILE: lambda path: save_file(weights, path),
            CONFIG_FILE: as_json(config),
        }

    def check_saved(self, model: nn.Module, folder: str | Path) -> None:
        """By method.json, adapter_config.json, or both: a folder of peft has the latter alone."""
        config = Path(folder) / CONFIG_FILE
        if config.exists():
            peft_format.check_config(config, model, self.peft_fields())
        if not config.exists() or (Path(folder) / METHOD_FILE).exists():
            super().check_saved(model, folder)

    def load(self, model: nn.Module, folder: str | Path) -> None:
        weights = peft_format.from_peft(read_weights(folder))
        self.check_saved(model, folder)
        self.load_state(model, weights)

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return (d_in + d_out) * self.rank

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(self.rank, d_in, d_out)


@dataclass(frozen=True)
class LowRank(Delta):
    """delta W = scale B A, with A (rank, d_in) and B (d_out, rank)."""

    scale: float
    train_a: bool = True

    @property
    def kind(self) -> str:
        return "lora"

    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        a, b = (p.to(weight.dtype) for p in tensors)
        # In place, as autocast would have torch.addmm round the weight first.
        formed = copied(weight, weight.dtype).addmm_(b, a, alpha=self.scale)
        return Formed(formed.to(dtype), (a, b))

    def pullback(
        self, x: Tensor, dy: Tensor, y: Tensor | None, *working: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b = (p.to(x.dtype) for p in working)
        da = wide((dy @ b).T @ x) * self.scale if self.train_a else None
        db = wide(dy.T @ (x @ a.T)) * self.scale
        return da, db

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        a, b = (p.to(x.dtype) for p in tensors)
        y = F.linear(rows(x), weight.to(x.dtype), bias)
        y = torch.addmm(y, F.linear(rows(dropped), a), b.T, alpha=self.scale)
        return shaped(y, x)

    def added(self, dropped: Tensor, *tensors: Tensor) -> Tensor:
        a, b = (p.to(dropped.dtype) for p in tensors)
        return F.linear(F.linear(dropped, a), b) * self.scale
