"""Which layers and parameters of a model the patterns of a method name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from methods.errors import MethodError
from methods.layer import AdapterLinear
from methods.quantised import is_quantised, is_rounded, kind

# The state-space layers of transformers that give no weight but dt_proj's to a kernel.
MAMBA_CALLS = ("JambaMambaMixer", "ZambaMambaMixer")
# Other classes of transformers that take the weights of these layers without calling them.
TAKEN = {
    "WavLMAttention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "DetrMHAttentionMap": ("k_proj",),
    "ConditionalDetrMHAttentionMap": ("k_proj",),
    "MaskFormerDetrMHAttentionMap": ("k_proj",),
    "DabDetrMHAttentionMap": ("k_linear",),
    "MobileBertLMPredictionHead": ("dense",),
    "LongcatFlashTopkRouter": ("classifier",),
}
# Subclasses of nn.Linear whose own forward is x W^T + b nevertheless.
LINEAR_BY_ANOTHER_WAY = ("FalconLinear",)


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` (* and ? allowed) is the whole dotted name or its last components."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def target_layers(
    model: nn.Module, patterns: Sequence[str], *, quantised: bool = False
) -> dict[str, nn.Linear]:
    """The linear layers that the patterns name, in the model's order.

    quantised: those of methods/quantised.py among them.

    Raises MethodError for a pattern that matches nothing, for a layer that is quantised,
    offloaded, tied to the embedding or another layer or of another kind, and for a model that is
    adapted already.
    """
    _refuse_adapted(model)
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


def adaptable_layers(
    model: nn.Module, patterns: Sequence[str], *, quantised: bool = False
) -> dict[str, nn.Linear]:
    """``target_layers``, each of which can be W x + b of an adapted layer.

    Raises MethodError also for a layer that the model does not call, that computes something else
    from its weight, or whose weight is computed.
    """
    layers = target_layers(model, patterns, quantised=quantised)
    for name, layer in layers.items():
        refuse_uncalled(name, model.get_submodule(name.rpartition(".")[0]))
        if kind(layer) is None:
            _refuse_own_forward(name, layer)
            _refuse_parametrised(name, layer)
    return layers


def refuse_uncalled(name: str, parent: nn.Module) -> None:
    """Raise MethodError where ``parent`` uses the weight of its layer ``name`` without calling it.

    An adapter on such a layer would be skipped, at times or always, and nothing would tell.
    """
    child, forward = name.rpartition(".")[2], type(parent).forward
    remedy = "Leave it out of target_modules."
    taken = forward is nn.MultiheadAttention.forward
    taken |= child in TAKEN.get(type(parent).__name__, ())
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

    A tied parameter is found by each of its names and listed once, by its first. Raises MethodError
    for a pattern that matches nothing, and for a parameter of a quantised layer.
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
    named = {n: p for n, p in model.named_parameters() if id(p) in found}
    for name, parameter in named.items():
        layer = name.rpartition(".")[0]
        if is_rounded(parameter) or kind(model.get_submodule(layer)) is not None:
            raise MethodError(
                f"also_train: {name} is of the quantised layer {layer}, whose weight cannot train: "
                f"leave the layer out of also_train, or load the model unquantised."
            )
    return named


def _refuse_adapted(model: nn.Module) -> None:
    """By us or by a tuner of peft: a second method would freeze what the first one trains."""
    for name, module in model.named_modules():
        by_peft = any(base.__name__ == "BaseTunerLayer" for base in type(module).__mro__)
        if by_peft or isinstance(module, AdapterLinear):
            raise MethodError(
                f"layer {name} is adapted already: attach a method to a plain model. Merge the "
                f"first one, or make the model anew."
            )


def _refuse_own_forward(name: str, layer: nn.Linear) -> None:
    """An adapted layer computes x (W + delta W)^T + b, whatever the forward in its place did."""
    own = type(layer).forward is not nn.Linear.forward
    own &= type(layer).__name__ not in LINEAR_BY_ANOTHER_WAY
    # accelerate puts a forward around the layer's, which only moves tensors between devices.
    if own or ("forward" in vars(layer) and not hasattr(layer, "_hf_hook")):
        raise MethodError(
            f"layer {name}: this {type(layer).__name__} has a forward of its own, which an adapter "
            f"would replace by x W^T + b. Leave it out of target_modules."
        )


def _refuse_parametrised(name: str, layer: nn.Linear) -> None:
    """Its weight is made anew at each access, so that what a merge adds to it would be lost."""
    if parametrize.is_parametrized(layer, "weight"):
        raise MethodError(
            f"layer {name}: its weight is computed by a parametrisation (such as weight_norm), so "
            f"that delta W cannot be merged into it. Call "
            f"torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first, or leave "
            f"it out of target_modules."
        )


def _checked(
    name: str,
    module: nn.Module,
    embeddings: Container[int],
    tied: Container[int],
    quantised: bool,
) -> nn.Linear:
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
