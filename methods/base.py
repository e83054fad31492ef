"""What every method is: which weights of a model may change, and in what form.

method.attach(model)          freeze, inject; the logits stay as they are
... train with method.parameter_groups(model), calling method.after_step after each step ...
method.delta_weights(model)   what changed, layer by layer
method.merge(model)           a plain model again, with the same logits
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.errors import MethodError
from methods.layer import AdapterLinear, Compute

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The second file holds the method's class and settings; see load_adapter. Where peft can read the
# weights, its own adapter_config.json lies beside them (methods/peft_format.py).
ADAPTER_FILE, METHOD_FILE = "adapter_model.safetensors", "method.json"


class Method(ABC):
    """A way of fine-tuning. Holds settings only; everything trained lives in the model."""

    name: ClassVar[str]
    label: str
    trains_base: ClassVar[bool] = False  # the base weights are what trains
    # The base weights change in training (also by restarts, which add delta W to them), so that
    # they must be held in fp32: in bf16 small changes would be rounded away.
    fp32_base: ClassVar[bool] = False

    def __init__(self, *, learning_rate: float, target_modules: Sequence[str] = LLAMA_LINEARS):
        if not learning_rate > 0:
            raise MethodError(f"method.learning_rate={learning_rate} must be above 0.")
        if isinstance(target_modules, str) or not target_modules:
            raise MethodError(
                "method.target_modules must be a list of layer names or patterns, such as "
                "[q_proj, v_proj]."
            )
        self.learning_rate = float(learning_rate)
        self.target_modules = tuple(target_modules)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values: exactly what determines this method's result, its defaults included."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Freeze and inject, in place. Identity at step 0: the logits are unchanged.

        Raises MethodError naming the layer and the remedy, before anything is changed.
        """

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Optimiser groups: every trainable parameter exactly once, with its learning rate."""
        return [{"params": trainable(model), "lr": self.learning_rate}]

    def after_step(  # noqa: B027 - a hook, empty for most methods
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, last: bool = False
    ) -> None:
        """Called after optimiser step ``step`` (from 1): restarts merge and reset here.

        last: no step follows, so that a restart would serve nothing.
        """

    @abstractmethod
    def delta_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """{layer name: delta W (d_out, d_in) since the original base, fp32 or wider}."""

    @abstractmethod
    def merge(self, model: nn.Module) -> nn.Module:
        """A plain model with the same logits, made in place; merging twice merges once."""

    @abstractmethod
    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """All that differs from the base model, by name: what a checkpoint must hold."""

    @abstractmethod
    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Put ``state`` back into a model that this method is attached to."""

    @abstractmethod
    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        """Parameters trained on a layer (d_out, d_in), by formula."""

    @abstractmethod
    def max_rank(self, d_in: int, d_out: int) -> int:
        """The highest rank that delta W of a layer (d_out, d_in) can reach."""

    def side(self, d_in: int, d_out: int) -> int | None:
        """MoRA's r_hat for a layer (d_out, d_in); None for a method that has no square matrix."""
        return None

    def check_shape(self, d_in: int, d_out: int) -> None:  # noqa: B027 - most can adapt any
        """Raises MethodError where the method cannot adapt a layer (d_out, d_in)."""

    def save(self, model: nn.Module, folder: str | Path) -> Path:
        """Write adapter_model.safetensors and method.json; return the former's path."""
        self._write(self.state(model), folder)
        return Path(folder) / ADAPTER_FILE

    def load(self, model: nn.Module, folder: str | Path) -> None:
        """Put saved weights back into a model that this method is attached to."""
        self.load_state(model, self._read(folder))

    def _write(self, weights: dict[str, Tensor], folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / ADAPTER_FILE)
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        content = {"method": target, "settings": self.settings()}
        (folder / METHOD_FILE).write_text(json.dumps(content, indent=2) + "\n")

    def _read(self, folder: str | Path) -> dict[str, Tensor]:
        file = Path(folder) / ADAPTER_FILE
        if not file.is_file():
            raise MethodError(f"{file} does not exist: {folder} holds no saved adapter.")
        return load_file(file)


class AdapterMethod(Method):
    """A method that freezes the base model and wraps each targeted linear layer.

    A subclass says how one layer is adapted (``adapt``); everything else is here.

    rank: LoRA's rank, for every method, so that equal ranks mean equal budgets.
    also_train: names or patterns of parameters outside the adapters that train in full beside
        them (pretraining: embeddings, head, norms); they are held in fp32, so that a narrower
        model runs under autocast.
    compute: auto | fused | plain, see methods/layer.py.
    """

    def __init__(
        self,
        *,
        rank: int,
        learning_rate: float,
        dropout: float = 0.0,
        target_modules: Sequence[str] = LLAMA_LINEARS,
        also_train: Sequence[str] = (),
        compute: Compute = "auto",
    ):
        super().__init__(learning_rate=learning_rate, target_modules=target_modules)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise MethodError(f"method.rank={rank!r} must be a whole number of at least 1.")
        if not 0 <= dropout < 1:
            raise MethodError(f"method.dropout={dropout} must be at least 0 and below 1.")
        if compute not in ("auto", "fused", "plain"):
            raise MethodError(
                f"method.compute={compute!r} is unknown; choose auto | fused | plain."
            )
        if compute == "fused" and dropout > 0:
            raise MethodError(
                f"method.compute=fused has no dropout (method.dropout={dropout}): a dropped input "
                f"cannot be folded into the weight. Use method.compute=auto or method.dropout=0."
            )
        self.rank = rank
        self.dropout = float(dropout)
        self.also_train = tuple(also_train)
        self.compute: Compute = compute

    @abstractmethod
    def adapt(self, linear: nn.Linear) -> AdapterLinear:
        """The adapted layer in place of ``linear``, with delta W = 0."""

    def settings(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "learning_rate": self.learning_rate,
            "dropout": self.dropout,
            "target_modules": list(self.target_modules),
            "also_train": list(self.also_train),
            "compute": self.compute,
        }

    def attach(self, model: nn.Module) -> None:
        layers = target_layers(model, self.target_modules)
        for name, linear in layers.items():
            try:
                self.check_shape(linear.in_features, linear.out_features)
            except MethodError as error:
                raise MethodError(f"layer {name}: {error}") from None
        beside = matching_parameters(model, self.also_train, layers)
        model.requires_grad_(False)
        for name, linear in layers.items():
            model.set_submodule(name, self.adapt(linear))
        for parameter in beside.values():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)

    def check_shape(self, d_in: int, d_out: int) -> None:
        check_rank(self.rank, d_in, d_out)

    def delta_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: layer.delta_weight() for name, layer in adapted_layers(model)}

    def merge(self, model: nn.Module) -> nn.Module:
        for name, layer in list(adapted_layers(model)):
            model.set_submodule(name, layer.merged())
        return model

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        state = {}
        for name, layer in adapted_layers(model):
            for key in layer.names:
                state[f"{name}.{key}"] = getattr(layer, key).detach()
            if layer.original is not None:
                state[f"{name}.base.weight"] = layer.base.weight.detach()
        for name, parameter in self._beside(model).items():
            state[name] = parameter.detach()
        return state

    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        state = dict(state)
        for name, layer in adapted_layers(model):
            restarted = state.pop(f"{name}.base.weight", None)
            if restarted is not None:
                if layer.original is None:
                    layer.original = layer.base.weight.detach().to("cpu", copy=True)
                with torch.no_grad():
                    layer.base.weight.copy_(restarted)
            for key in layer.names:
                copy_into(getattr(layer, key), state.pop(f"{name}.{key}", None), f"{name}.{key}")
        for name, parameter in self._beside(model).items():
            copy_into(parameter, state.pop(name, None), name)
        refuse_leftovers(state)

    def _beside(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of also_train in an attached model."""
        adapted = [name for name, _ in adapted_layers(model)]
        return matching_parameters(model, self.also_train, adapted)


def adapted_layers(model: nn.Module) -> Iterable[tuple[str, AdapterLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, AdapterLinear):
            yield name, module


def check_rank(rank: int, d_in: int, d_out: int) -> None:
    """Raises MethodError for a rank that no weight (d_out, d_in) can have."""
    highest = min(d_in, d_out)
    if rank > highest:
        raise MethodError(
            f"method.rank={rank} is above the rank that a weight of {d_in} inputs and {d_out} "
            f"outputs can have, {highest}. Lower method.rank or leave the layer out of "
            f"method.target_modules."
        )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` (* and ? allowed) is the whole dotted name or its last components."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def target_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers that the patterns name, in the model's order.

    Raises MethodError for a pattern that matches nothing, and for a layer that is quantised, tied
    to the embedding, adapted already or of another kind.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    embeddings = {id(m.weight) for m in modules.values() if isinstance(m, nn.Embedding)}
    found: dict[str, nn.Linear] = {}
    for pattern in patterns:
        hits = {name: module for name, module in modules.items() if matches(name, pattern)}
        if not hits:
            linear = {n.rsplit(".", 1)[-1] for n, m in modules.items() if isinstance(m, nn.Linear)}
            raise MethodError(
                f"method.target_modules: {pattern!r} matches no layer of {type(model).__name__}. "
                f"Its linear layers are named: {', '.join(sorted(linear)) or '(it has none)'}."
            )
        for name, module in hits.items():
            found[name] = _checked(name, module, embeddings)
    return {name: found[name] for name in modules if name in found}


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
                f"method.also_train: {pattern!r} matches no parameter of {type(model).__name__}. "
                f"Name a module or parameter, such as embed_tokens, lm_head or '*norm'."
            )
        found |= hits
    return {n: p for n, p in model.named_parameters() if id(p) in found}


def copy_into(parameter: Tensor, value: Tensor | None, name: str) -> None:
    """Copy a saved tensor into a parameter of the same shape, in place."""
    if value is None:
        raise MethodError(f"the saved adapter has no {name}: it belongs to another configuration.")
    if value.shape != parameter.shape:
        raise MethodError(
            f"the saved {name} has shape {tuple(value.shape)}, the model's is "
            f"{tuple(parameter.shape)}: it belongs to another rank or model."
        )
    with torch.no_grad():  # not through .data: the change must show in the version that caches see
        parameter.copy_(value)


def refuse_leftovers(state: dict[str, Tensor]) -> None:
    if state:
        raise MethodError(
            f"the saved adapter holds {len(state)} tensors that this method does not know, such as "
            f"{next(iter(state))}: it belongs to another method or configuration."
        )


def _checked(name: str, module: nn.Module, embeddings: set[int]) -> nn.Linear:
    if isinstance(module, AdapterLinear):
        raise MethodError(f"layer {name} is adapted already: attach a method to a plain model.")
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) and not hasattr(module, "in_features"):
        raise MethodError(
            f"layer {name} is a {type(module).__name__}, not a linear layer: name linear layers in "
            f"method.target_modules."
        )
    if (
        not isinstance(weight, Tensor)
        or not weight.is_floating_point()
        or hasattr(weight, "quant_state")
    ):
        raise MethodError(
            f"layer {name} is quantised ({type(module).__name__}): delta W cannot be added to its "
            f"weight. Load the model unquantised (model.dtype bf16 or fp32)."
        )
    if not isinstance(module, nn.Linear):
        raise MethodError(
            f"layer {name} is a {type(module).__name__}, not an nn.Linear: leave it out of "
            f"method.target_modules."
        )
    if id(weight) in embeddings:
        raise MethodError(
            f"layer {name} is tied to the embedding: an adapter on it would change the embedding "
            f"when merged. Leave it out of method.target_modules, or untie the model."
        )
    return module
