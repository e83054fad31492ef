"""What every method is: which weights of a model may change, and in what form.

method.attach(model)          freeze, inject; the logits stay as they are
... train with method.parameter_groups(model), calling method.after_step after each step ...
method.delta_weights(model)   what changed, layer by layer
method.merge(model)           a plain model again, with the same logits
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from methods.errors import MethodError
from methods.files import (
    ADAPTER_FILE,
    METHOD_FILE,
    as_json,
    check_fit,
    read_settings,
    read_weights,
    refuse_difference,
    refuse_leftovers,
    write_together,
)
from methods.layer import AdapterLinear, Compute
from methods.quantised import QuantisedLinear, dtype_beside, forget_quantiser
from methods.targets import adaptable_layers, matching_parameters, refuse_hooked

# How the weights that delta W counts from are kept where the base itself trains: a copy on the CPU;
# the very tensors, for whoever puts others in their place before training; or not at all.
Start = Literal["copy", "as loaded", "no"]
NARROW = "_narrow_beside"  # under this name a model keeps the dtypes that also_train has widened
LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Method(ABC):
    """A way of fine-tuning. Holds settings only; everything trained lives in the model."""

    name: ClassVar[str]
    label: str
    trains_base: ClassVar[bool] = False  # the base weights are what trains
    # The base weights change in training (also by restarts, which add delta W to them), so that
    # they must be held in fp32: in bf16 small changes would be rounded away.
    fp32_base: ClassVar[bool] = False
    # Attaching computes with the base weights, which must be in their final precision by then.
    reads_base: ClassVar[bool] = False

    def __init__(
        self,
        *,
        learning_rate: float | None = None,
        target_modules: Sequence[str] = LLAMA_LINEARS,
        name: str | None = None,
    ):
        """learning_rate: of the optimiser groups; None for those who never ask for them.

        name: the class's own or None; a configuration carries it. Raises MethodError for another.
        """
        if name is not None and name != self.name:
            raise MethodError(f"name={name!r} is not {type(self).__name__}'s: it is {self.name!r}.")
        if learning_rate is not None:
            check_number("learning_rate", learning_rate)
            if not learning_rate > 0:
                raise MethodError(f"learning_rate={learning_rate} must be above 0.")
        if isinstance(target_modules, str) or not target_modules:
            raise MethodError(
                "target_modules must be a list of layer names or patterns, as [q_proj, v_proj]."
            )
        self._learning_rate = None if learning_rate is None else float(learning_rate)
        self.target_modules = tuple(target_modules)

    @property
    def learning_rate(self) -> float:
        """Of the optimiser groups. Raises MethodError where none was given."""
        if self._learning_rate is None:
            raise MethodError(
                f"{self.label} was made without a learning rate: give learning_rate=... to have "
                f"optimiser groups."
            )
        return self._learning_rate

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values: exactly what determines this method's result, its defaults included."""

    def forward_settings(self) -> dict[str, Any]:
        """Plain values: what trained weights mean, those settings that determine delta W of them.

        ``load`` refuses weights that were saved under others.
        """
        return {}

    def keep_start(self, how: Start) -> None:  # noqa: B027 - adapters hold their delta W themselves
        """Before ``attach``: how the weights are kept that delta W counts from; see Start."""

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
        write_together(folder, self._files(model))
        return Path(folder) / ADAPTER_FILE

    def load(self, model: nn.Module, folder: str | Path) -> None:
        """Put saved weights back into a model that this method is attached to.

        Raises MethodError, before anything is changed, where they were saved under settings that
        give them another meaning (``forward_settings``), or for other layers.
        """
        weights = read_weights(folder)
        self.check_saved(model, folder)
        self.load_state(model, weights)

    def check_saved(self, model: nn.Module, folder: str | Path) -> None:
        """Raise MethodError where ``folder`` was saved under other settings than this method's."""
        saved = read_settings(folder)[1]
        refuse_difference(str(Path(folder) / METHOD_FILE), saved, self.forward_settings())

    def _files(self, model: nn.Module) -> dict[str, Callable[[Path], Any]]:
        """{file name: writer} of what ``save`` writes."""
        state = {k: v.contiguous() for k, v in self.state(model).items()}
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = self.settings() | self.forward_settings()
        return {
            ADAPTER_FILE: lambda path: save_file(state, path),
            METHOD_FILE: as_json({"method": target, "settings": settings}),
        }


class AdapterMethod(Method):
    """A method that freezes the base model and wraps each targeted linear layer.

    A subclass says how one layer is adapted (``adapt``); everything else is here.

    rank: LoRA's rank, for every method, so that equal ranks mean equal budgets.
    also_train: names or patterns of parameters outside the adapters that train in full beside
        them (pretraining: embeddings, head, norms); they are held in fp32, so that a narrower
        model runs under autocast, until ``merge`` gives them their dtype back.
    compute: auto | cached | fused | plain, see methods/layer.py.
    """

    over_quantised: ClassVar[bool] = False  # adapts layers of methods/quantised.py

    def __init__(
        self,
        *,
        rank: int,
        learning_rate: float | None = None,
        dropout: float = 0.0,
        target_modules: Sequence[str] = LLAMA_LINEARS,
        also_train: Sequence[str] = (),
        compute: Compute = "auto",
        name: str | None = None,
    ):
        super().__init__(learning_rate=learning_rate, target_modules=target_modules, name=name)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise MethodError(f"rank={rank!r} must be a whole number of at least 1.")
        check_number("dropout", dropout)
        if not 0 <= dropout < 1:
            raise MethodError(f"dropout={dropout} must be at least 0 and below 1.")
        if isinstance(also_train, str):
            raise MethodError(
                f"also_train must be a list of names or patterns, as ['*norm'], not {also_train!r}."
            )
        if compute not in get_args(Compute):
            raise MethodError(
                f"compute={compute!r} is unknown; choose {' | '.join(get_args(Compute))}."
            )
        if compute in ("cached", "fused") and dropout > 0:
            raise MethodError(
                f"compute={compute} has no dropout (dropout={dropout}): a dropped input "
                f"cannot be folded into the weight. Use compute=auto or dropout=0."
            )
        self.rank = rank
        self.dropout = float(dropout)
        self.also_train = tuple(also_train)
        self.compute: Compute = compute

    @abstractmethod
    def adapt(self, linear: nn.Linear, name: str) -> AdapterLinear:
        """The adapted layer in place of ``linear``, the model's layer ``name``; delta W = 0."""

    def settings(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "learning_rate": self._learning_rate,
            "dropout": self.dropout,
            "target_modules": list(self.target_modules),
            "also_train": list(self.also_train),
            "compute": self.compute,
        }

    def forward_settings(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def attach(self, model: nn.Module) -> None:
        model = unwrapped(model)
        quantised = self.over_quantised and self.compute in ("auto", "plain")
        layers = adaptable_layers(model, self.target_modules, quantised=quantised)
        for name, linear in layers.items():
            refuse_hooked(name, linear)
            try:
                self.check_shape(linear.in_features, linear.out_features)
            except MethodError as error:
                raise MethodError(f"layer {name}: {error}") from None
        beside = matching_parameters(model, self.also_train, layers)
        model.requires_grad_(False)
        for name, linear in layers.items():
            model.set_submodule(name, self.adapt(linear, name))
        object.__setattr__(model, NARROW, {n: p.dtype for n, p in beside.items()})
        for parameter in beside.values():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)

    def check_shape(self, d_in: int, d_out: int) -> None:
        check_rank(self.rank, d_in, d_out)

    def delta_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: layer.delta_weight() for name, layer in adapted_layers(model)}

    def merge(self, model: nn.Module) -> nn.Module:
        plain, held = unwrapped(model), set()
        beside = dtype_beside(plain, plain.__dict__.get(NARROW, {}))
        for name, layer in list(adapted_layers(plain)):
            merged = layer.merged()
            if isinstance(layer, QuantisedLinear):  # it comes in the dtype of its library
                merged.to(beside)
            plain.set_submodule(name, merged)
            held.add(merged.weight.dtype)
        for name, dtype in plain.__dict__.pop(NARROW, {}).items():
            if dtype in held:  # else the whole model has been widened since
                parameter = plain.get_parameter(name)
                parameter.data = parameter.data.to(dtype)
        forget_quantiser(plain)
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
        state, found = dict(state), []

        def take(tensor: Tensor, name: str) -> None:
            found.append((tensor, check_fit(tensor, state.pop(name, None), name)))

        layers = dict(adapted_layers(model))
        restarted = {name for name in layers if f"{name}.base.weight" in state}
        for name, layer in layers.items():
            if name in restarted:
                take(layer.base.weight, f"{name}.base.weight")
            for key in layer.names:
                take(getattr(layer, key), f"{name}.{key}")
        for name, parameter in self._beside(model).items():
            take(parameter, name)
        refuse_leftovers(state)
        for name, layer in layers.items():
            layer.rewind()  # what the model merged itself is no part of the state
            if name in restarted:
                layer.keep_original()
        with torch.no_grad():  # not through .data: the change must show in what caches see
            for tensor, value in found:
                tensor.copy_(value)

    def _beside(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of also_train in an attached model."""
        adapted = [name for name, _ in adapted_layers(model)]
        return matching_parameters(unwrapped(model), self.also_train, adapted)


def adapted_layers(model: nn.Module) -> Iterable[tuple[str, AdapterLinear]]:
    """(dotted name, layer) of each adapted layer, in the model's order, wrapped or not."""
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, AdapterLinear):
            yield name, module


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, inside torch.compile, nn.DataParallel and DDP: they prefix its names."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def check_number(name: str, value: Any) -> None:
    """Raises MethodError for a setting that is no number, such as one that YAML took for text."""
    if not isinstance(value, Real):
        raise MethodError(
            f"{name}={value!r} must be a number, not a {type(value).__name__} (YAML takes 1e-3 for "
            f"text: write 1.0e-3)."
        )


def check_flag(name: str, value: Any) -> None:
    """Raises MethodError for a switch that is no truth value, such as the text 'false'."""
    if not isinstance(value, bool):
        raise MethodError(f"{name}={value!r} must be true or false, not a {type(value).__name__}.")


def check_rank(rank: int, d_in: int, d_out: int) -> None:
    """Raises MethodError for a rank that no weight (d_out, d_in) can have."""
    highest = min(d_in, d_out)
    if rank > highest:
        raise MethodError(
            f"rank={rank} is above the rank that a weight of {d_in} inputs and {d_out} "
            f"outputs can have, {highest}. Lower rank or leave the layer out of "
            f"target_modules."
        )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, in the model's order, each once."""
    return [p for p in model.parameters() if p.requires_grad]
