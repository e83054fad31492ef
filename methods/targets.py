"""Which layers and parameters of a model the patterns of a method name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn

from methods.errors import MethodError
from methods.layer import AdapterLinear
from methods.quantised import is_quantised, kind

# The state-space layers of transformers that give no weight but dt_proj's to a kernel.
MAMBA_CALLS = ("JambaMambaMixer", "ZambaMambaMixer")


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` (* and ? allowed) is the whole dotted name or its last components."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def target_layers(
    model: nn.Module, patterns: Sequence[str], *, quantised: bool = False
) -> dict[str, nn.Linear]:
    """The linear layers that the patterns name, in the model's order.

    quantised: those of methods/quantised.py among them.

    Raises MethodError for a pattern that matches nothing, and for a layer that is quantised,
    offloaded, tied to the embedding or another layer, adapted already or of another kind.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    embeddings = {id(m.weight) for m in modules.values() if isinstance(m, nn.Embedding)}
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    tied = {one for one, times in names.items() if times > 1}
    found: dict[str, nn.Linear] = {}
    for pattern in patterns:
        hits = {name: module for name, module in modules.items() if matches(name, pattern)}
        if not hits:
            linear = {n.rsplit(".", 1)[-1] for n, m in modules.items() if isinstance(m, nn.Linear)}
            raise MethodError(
                f"target_modules: {pattern!r} matches no layer of {type(model).__name__}. "
                f"Its linear layers are named: {', '.join(sorted(linear)) or '(it has none)'}."
            )
        for name, module in hits.items():
            found[name] = _checked(name, module, embeddings, tied, quantised)
    return {name: found[name] for name in modules if name in found}


def refuse_uncalled(name: str, parent: nn.Module) -> None:
    """Raise MethodError where ``parent`` uses the weight of its layer ``name`` without calling it.

    An adapter on such a layer would be skipped, at times or always, and nothing would tell.
    """
    child, forward = name.rpartition(".")[2], type(parent).forward
    remedy = "Leave it out of target_modules."
    taken = forward is nn.MultiheadAttention.forward
    if forward is nn.TransformerEncoderLayer.forward and torch.backends.mha.get_fastpath_enabled():
        taken = True
        remedy = (
            "Call torch.backends.mha.set_fastpath_enabled(False) first, or leave it out of "
            "target_modules."
        )
    if hasattr(parent, "A_log") and hasattr(parent, "D"):  # Mamba's, with its fused kernels
        calls = type(parent).__name__ in MAMBA_CALLS
        taken = child in (("dt_proj",) if calls else ("x_proj", "dt_proj", "out_proj"))
    if taken:
        raise MethodError(
            f"layer {name}: {type(parent).__name__} takes its weight without calling the layer, so "
            f"that an adapter on it would be skipped. {remedy}"
        )


def refuse_hooked(name: str, layer: nn.Module) -> None:
    """Raise MethodError where a hook hangs on ``layer``, whose weight is used without a call.

    A quantised layer is called, hooks included.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    if kind(layer) is None and any((*hooks, layer._backward_pre_hooks)):
        raise MethodError(
            f"layer {name} has a hook, which the adapted layer would pass over in silence: remove "
            f"it and register it after attach, on the adapted layer."
        )


def matching_parameters(
    model: nn.Module, patterns: Sequence[str], adapted: Iterable[str]
) -> dict[str, nn.Parameter]:
    """Parameters outside the layers ``adapted`` that the patterns name.

    A tied parameter is found by each of its names and listed once, by its first.
    """
    inside = tuple(f"{name}." for name in adapted)
    candidates = {
        n: p for n, p in model.named_parameters(remove_duplicate=False) if not n.startswith(inside)
    }
    found: set[int] = set()
    for pattern in patterns:
        hits = {
            id(p)
            for n, p in candidates.items()
            if matches(n, pattern) or matches(n.rpartition(".")[0], pattern)
        }
        if not hits:
            raise MethodError(
                f"also_train: {pattern!r} matches no parameter of {type(model).__name__}. "
                f"Name a module or parameter, such as embed_tokens, lm_head or '*norm'."
            )
        found |= hits
    return {n: p for n, p in model.named_parameters() if id(p) in found}


def _checked(
    name: str,
    module: nn.Module,
    embeddings: Container[int],
    tied: Container[int],
    quantised: bool,
) -> nn.Linear:
    if isinstance(module, AdapterLinear):
        raise MethodError(f"layer {name} is adapted already: attach a method to a plain model.")
    if not isinstance(module, nn.Linear) and not hasattr(module, "in_features"):
        raise MethodError(
            f"layer {name} is a {type(module).__name__}, not a linear layer: name linear layers in "
            f"target_modules."
        )
    if is_quantised(name, module, allowed=quantised):
        return cast(nn.Linear, module)
    if not isinstance(module, nn.Linear):
        raise MethodError(
            f"layer {name} is a {type(module).__name__}, not an nn.Linear: leave it out of "
            f"target_modules."
        )
    if id(module.weight) in embeddings:
        raise MethodError(
            f"layer {name} is tied to the embedding: an adapter on it would change the embedding "
            f"when merged. Leave it out of target_modules, or untie the model."
        )
    if module.weight.is_meta and hasattr(module, "_hf_hook"):
        raise MethodError(
            f"layer {name} is offloaded by accelerate, which brings its weight only to its own "
            f"forward pass: load the model without offloading (device_map)."
        )
    if id(module.weight) in tied:
        raise MethodError(
            f"layer {name} shares its weight with another place of the model: each would get an "
            f"adapter of its own, and a merge would change both. Leave it out of target_modules, "
            f"or give each a copy."
        )
    return module
