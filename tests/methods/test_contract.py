"""The contract of methods/contract.py, for every YAML of conf/method.

A new YAML is tested without a new line here; VARIANTS adds settings worth a test of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from methods import Method
from methods.contract import CHECKS, ContractBroken, Subject, llama, run_llama
from methods.layer import Formed
from methods.lora import LoRA, LowRank
from tests.methods.conftest import inputs

CONF = Path(__file__).resolve().parents[2] / "conf" / "method"
NAMES = sorted(f.stem for f in CONF.glob("*.yaml") if f.stem != "_base")
RESTARTS = {"restart_every": 2, "restart_warmup": 1}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"rslora": True}, {"alpha": 3, "compute": "plain"}, {"compute": "fused"}],
    "asylora": [{"freeze_a": True}],
    "dora": [{"compute": "plain"}, {"compute": "fused", "rslora": True}],
    "mora": [
        {"operator": "truncation", "compute": "fused"},
        {"operator": "sharing"},
        {"operator": "sharing", "input_groups": "contiguous", "output_groups": "contiguous"},
        {"operator": "sharing", "compat": "published", "output_groups": "contiguous"},
        {"operator": "decoupling"},
        {"operator": "rotation", "compat": "published"},
        {"compute": "plain"},
    ],
    "relora": [RESTARTS, RESTARTS | {"reset_optimizer": "prune", "prune_ratio": 0.5}],
    "remora": [RESTARTS, RESTARTS | {"layouts": 4, "compat": "published"}],
}
CASES = [(name, settings) for name in NAMES for settings in [{}, *VARIANTS.get(name, [])]]


def label(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(value)


def build(name: str, **overrides: Any) -> Method:
    """The method as its YAML has it, through Hydra."""
    cfg = OmegaConf.merge(
        OmegaConf.load(CONF / "_base.yaml"), OmegaConf.load(CONF / f"{name}.yaml")
    )
    root = OmegaConf.create({"seed": 0, "method": OmegaConf.merge(cfg, overrides)})
    assert root.method.name == name and root.method.pop("defaults")
    return instantiate(root.method)


every_case = pytest.mark.parametrize(("name", "settings"), CASES, ids=label)
every_check = pytest.mark.parametrize("check", CHECKS)


def run_shapes(model: nn.Module) -> dict[str, Tensor]:
    return model(inputs(5, next(model.parameters()).dtype))


@every_check
@every_case
def test_every_shape(name: str, settings: dict[str, Any], check: str, shapes: Callable) -> None:
    CHECKS[check](
        Subject(
            lambda: build(name, learning_rate=1e-2, target_modules=["layers.*"], **settings),
            lambda: shapes(bias=True),
            run_shapes,
        )
    )


BF16 = ("identity", "delta_weights", "merge", "save_and_load")


@pytest.mark.parametrize("check", BF16)
@pytest.mark.parametrize(
    ("name", "settings"), [c for c in CASES if c[0] not in ("relora", "remora")], ids=label
)
def test_every_shape_in_bf16(name, settings, check, shapes) -> None:
    """Restarts need fp32: test_restarts.py."""
    CHECKS[check](
        Subject(
            lambda: build(name, learning_rate=1e-2, target_modules=["layers.*"], **settings),
            lambda: shapes(torch.bfloat16),
            run_shapes,
            tolerance=2e-2,  # bf16 has 8 bits: a few roundings of 1/256
        )
    )


IN_A_MODEL = [(name, {}) for name in NAMES] + [(n, RESTARTS) for n in ("relora", "remora")]
FAST = ("fft", "dora", "mora")  # and restarts; the others with the slow tests


@every_check
@pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param(*case, marks=() if case[1] or case[0] in FAST else pytest.mark.slow)
     for case in IN_A_MODEL],
    ids=label,
)  # fmt: skip
def test_llama(name: str, settings: dict[str, Any], check: str) -> None:
    CHECKS[check](
        Subject(
            lambda: build(name, learning_rate=1e-2, **settings),
            llama,
            run_llama,
            tolerance=2e-5,  # two layers deep
        )
    )


@pytest.mark.parametrize("check", [c for c in CHECKS if c not in ("counts", "gradients")])
@pytest.mark.parametrize("name", ["lora", "remora"])
def test_llama_with_embeddings_and_norms_trained_beside(name: str, check: str) -> None:
    settings = {"also_train": ["embed_tokens", "lm_head", "*norm"], "dropout": 0.1}
    CHECKS[check](
        Subject(lambda: build(name, learning_rate=1e-2, **settings), llama, run_llama, 2e-5)
    )


@pytest.mark.parametrize("widened", [False, True])
def test_merging_gives_what_trained_beside_its_dtype_back(widened: bool) -> None:
    """Else a bf16 model would stop at its first norm in fp32."""
    model, method = llama().bfloat16(), build("mora", also_train=["*norm"])
    method.attach(model)
    assert model.get_parameter("model.norm.weight").dtype == torch.float32
    dtype = torch.float32 if widened else torch.bfloat16
    merged = method.merge(model.to(dtype) if widened else model)
    assert {p.dtype for p in merged.parameters()} == {dtype}
    assert run_llama(merged)["logits"].dtype == dtype


@dataclass(frozen=True)
class Half(LowRank):
    """Forms only half of what it sends through activations."""

    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        return LowRank(self.scale / 2).form(weight, dtype, *tensors)


class HalfFormed(LoRA):
    def delta(self) -> LowRank:
        return Half(self.scale)


@pytest.mark.parametrize("check", ["merge", "delta_weights", "saves_pretrained", "gradients"])
def test_a_weight_that_is_not_what_the_activations_say_is_noticed(check: str) -> None:
    """Merging and evaluating form the same weight: comparing these would notice nothing."""
    subject = Subject(lambda: HalfFormed(rank=8, learning_rate=1e-2), llama, run_llama)
    with pytest.raises(ContractBroken):
        CHECKS[check](subject)
