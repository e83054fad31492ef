"""FSDP2 from the start: each process makes its own part of a model, and none holds all of it.

Weights are mapped from their files in the dtype that they are stored in, so that only what a
process keeps of them is copied into its memory. The method is attached on the CPU; then one layer
after the other is brought to the dtype that it trains in, cut, and moved to the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from bench.run import distributed, models
from bench.run.device import Placement
from bench.run.models import LoadedModel
from methods import Method


def load(
    config: Mapping[str, Any], method: Method, placement: Placement, dtype: torch.dtype
) -> LoadedModel:
    """A cell's base model with the method attached, sharded over all processes. Raises UserError.

    dtype: of the base weights. The card is that of the base, and so is the identity where the
    method leaves it to train itself; under adapters a score may differ in its last digits.
    """
    loaded = models.load(
        config["model"],
        dtype=dtype,
        device=torch.device("cpu"),
        seed=config["seed"],
        perturb=config["perturb"],
        perturb_seed=config["perturb_seed"],
        as_stored=not method.reads_base,
    )
    model: Any = loaded.model
    base = {id(p) for p in model.parameters()}
    set_seed(config["seed"])
    method.attach(model)
    trained = {  # of the base, beside adapters: rounded as the base is, and held in fp32
        id(p) for p in model.parameters() if p.requires_grad and not method.trains_base
    }
    shard(model, base, base & trained, dtype, config["distributed"]["fsdp"], placement.device)
    identity = loaded.identity if method.trains_base else {**loaded.identity, "on": method.name}
    card = loaded.card | {"dtype": str(dtype).removeprefix("torch.")}
    return LoadedModel(model, loaded.tokenizer, card, identity)


def shard(
    model: Any,
    base: set[int],
    beside: set[int],
    dtype: torch.dtype,
    settings: Mapping[str, Any],
    device: torch.device,
) -> None:
    """Cut every parameter (d0, ...) along d0: a unit a decoder layer, one for what is left.

    base: ids of the parameters to bring to ``dtype``; beside: those of them that are held in fp32
    afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def bring(module: nn.Module) -> None:
        for parameter in module.parameters():
            if id(parameter) in base:
                data = parameter.data.to(dtype)
                parameter.data = data.float() if id(parameter) in beside else data

    how = {
        "mesh": init_device_mesh(device.type, (distributed.world(),)),
        "reshard_after_forward": settings["reshard_after_forward"],
    }
    kinds = set(model._no_split_modules or ())
    units = [module for module in model.modules() if type(module).__name__ in kinds]
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        units.append(embedding)
    for unit in units:
        bring(unit)
        fully_shard(unit, **how)
    bring(model)
    fully_shard(model, **how)
    model._is_distributed_loading_by_transformers = True  # the Trainer wraps and moves no part
