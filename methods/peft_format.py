"""The files of peft, so that its PeftModel.from_pretrained reads a LoRA trained here, and back.

peft need not be installed for it. Layers are named in full, so that no pattern is left to
interpretation; what this package needs beyond that lies in method.json, which peft ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from methods.base import adapted_layers, unwrapped
from methods.errors import MethodError
from methods.files import read_json, refuse_difference

PREFIX = "base_model.model."
# In peft's files A and B are the weights of modules, the magnitude of DoRA is a bare parameter.
WEIGHTS = (".lora_A", ".lora_B")
# The fields of LoraConfig that determine delta W of given weights, as peft has them by default.
DEFAULTS: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 8,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "alora_invocation_tokens": None,
}
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def to_peft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """{layer.lora_A: A} -> {base_model.model.layer.lora_A.weight: A}."""
    return {
        PREFIX + name + (".weight" if name.endswith(WEIGHTS) else ""): value
        for name, value in state.items()
    }


def from_peft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``to_peft``; other names stay as they are."""
    names = {}
    for name, value in state.items():
        if name.startswith(PREFIX):
            name = name.removeprefix(PREFIX).removesuffix(".weight")
        names[name] = value
    return names


def config(model: nn.Module, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The content of adapter_config.json, with these fields of peft's LoraConfig."""
    model = unwrapped(model)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "target_modules": sorted(name for name, _ in adapted_layers(model)),
        "bias": "none",
        **fields,
    }


def check_config(file: Path, model: nn.Module, fields: Mapping[str, Any]) -> None:
    """Raise MethodError where an adapter_config.json means another delta W than ``fields``.

    ``fields`` are this method's, as LoraConfig names them. Compared are rank, alpha, scaling and
    kind, what this package has no counterpart of (patterns of ranks, trained biases, a start that
    changes the base weight), and the layers, as far as a list of names tells.
    """
    saved = DEFAULTS | read_json(file)
    own = DEFAULTS | {k: v for k, v in fields.items() if k in DEFAULTS}
    refuse_difference(str(file), saved, own)
    start = str(saved.get("init_lora_weights", ""))
    if start.lower().startswith(MOVES_BASE):
        raise MethodError(
            f"{file}: init_lora_weights={start!r} has changed the base weights, which the folder "
            f"does not hold. Convert it with peft (save_pretrained with "
            f"path_initial_model_for_weight_conversion) to a plain LoRA first."
        )
    names = saved.get("target_modules")
    if not isinstance(names, list) or saved.get("layers_to_transform") is not None:
        return
    layers = [name for name, _ in adapted_layers(model)]
    for layer in layers:
        if not any(_named(layer, name) for name in names):
            raise MethodError(
                f"{file}: target_modules={names} does not name {layer}, which this method adapts. "
                f"Attach the method with the saved target_modules."
            )
    for name in names:
        if not any(_named(layer, name) for layer in layers):
            raise MethodError(
                f"{file}: target_modules names {name}, which this method does not adapt. Attach "
                f"the method with the saved target_modules."
            )


def _named(layer: str, name: str) -> bool:
    """Whether ``name``, an entry of peft's target_modules, names this layer."""
    return layer == name or layer.endswith(f".{name}")
