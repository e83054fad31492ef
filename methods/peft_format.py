"""The files of peft, so that its PeftModel.from_pretrained reads a LoRA trained here, and back.

peft need not be installed for it. Layers are named in full, so that no pattern is left to
interpretation; what this package needs beyond that lies in method.json, which peft ignores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from methods.base import adapted_layers

PREFIX, CONFIG_FILE = "base_model.model.", "adapter_config.json"
# In peft's files A and B are the weights of modules, the magnitude of DoRA is a bare parameter.
WEIGHTS = (".lora_A", ".lora_B")


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


def write_config(model: nn.Module, folder: str | Path, **fields: Any) -> None:
    """Write adapter_config.json with the fields of peft's LoraConfig."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "target_modules": sorted(name for name, _ in adapted_layers(model)),
        "bias": "none",
        **fields,
    }
    (Path(folder) / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
