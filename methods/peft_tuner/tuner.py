"""MoraConfig, MoraLinear and MoraModel, as peft wants a tuner; importing this file registers them.

The mathematics is methods/operators.py: one matrix M (r_hat, r_hat) a layer, delta W = decompress .
M . compress (arXiv 2405.12130).
"""

from __future__ import annotations

import copy
import enum
import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _get_in_out_features,
    _maybe_include_all_linear_layers,
    check_adapters_to_merge,
)
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from methods import operators
from methods.base import check_number, check_rank
from methods.errors import MethodError
from methods.groups import Layout
from methods.operators import Compat, Operator, OperatorName
from methods.targets import refuse_uncalled
from methods.tensors import wide

PREFIX = "mora_"


class MoraType(str, enum.Enum):  # noqa: UP042 - as PeftType is: peft asks for str(type) too
    """The type that peft's enumeration PeftType lacks; equal to its string, as there."""

    MORA = "MORA"


@dataclass
class MoraConfig(PeftConfig):
    """How MoRA adapts a model; the fields that all tuners of peft have mean what they mean there.

    r: LoRA's rank; r_hat = floor(sqrt((d_in + d_out) r)), so that MoRA trains no more than LoRA.
    operator: truncation | sharing | decoupling | rotation.
    input_groups, output_groups: strided | contiguous, of sharing.
    compat: exact | published, see methods/operators.py.
    mora_dropout: of the inputs of delta W.
    target_modules: None adapts every linear layer but the output head, as "all-linear" does.
    layers_to_transform, layers_pattern: of names alone; a pattern of target_modules says it all.
    fan_in_fan_out: weights are stored (d_in, d_out), as in the Conv1D of GPT-2.
    init_weights: M starts at zero; False, for tests, makes it random.

    Raises MethodError (a ValueError) for values that mean nothing.
    """

    r: int = 8
    operator: OperatorName = "rotation"
    input_groups: Layout = "strided"
    output_groups: Layout = "strided"
    compat: Compat = "exact"
    mora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    init_weights: bool = field(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = MoraType.MORA
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
        if self.layers_pattern and self.layers_to_transform is None:
            raise MethodError("layers_pattern has no meaning without layers_to_transform.")
        pattern = isinstance(self.target_modules, str) and not _all_linear(self.target_modules)
        if pattern and self.layers_to_transform is not None:
            raise MethodError(
                f"layers_to_transform and layers_pattern have no meaning with a pattern "
                f"(target_modules={self.target_modules!r}), for which peft ignores them: put the "
                f"layers into the pattern, or give target_modules as a list of names."
            )
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise MethodError(f"r={self.r!r} must be a whole number of at least 1.")
        check_number("mora_dropout", self.mora_dropout)
        if not 0 <= self.mora_dropout < 1:
            raise MethodError(f"mora_dropout={self.mora_dropout} must be at least 0 and below 1.")
        operators.check_names(self.operator, self.input_groups, self.output_groups, self.compat)

    def build(self, d_in: int, d_out: int) -> Operator:
        """The operator of a layer (d_out, d_in). Raises MethodError where there is none."""
        check_rank(self.r, d_in, d_out)
        return operators.build(
            self.operator,
            d_in,
            d_out,
            self.r,
            input_groups=self.input_groups,
            output_groups=self.output_groups,
            compat=self.compat,
        )


def _all_linear(target_modules: Any) -> bool:
    return isinstance(target_modules, str) and target_modules.lower() == "all-linear"


class Square(nn.Module):
    """An M. As a module's weight it is named mora_M.ADAPTER.weight, as the weights of LoRA are.

    TRL's DPOTrainer, for one, finds the parameters of an adapter by its name between dots.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class MoraLinear(nn.Module, BaseTunerLayer):
    """A linear layer, quantised or not, with an M for each adapter.

    "Linear" in its name tells peft to take it for one when it looks for "all-linear".
    """

    adapter_layer_names = ("mora_M",)
    other_param_names = ("r", "mora_operator", "mora_dropout")

    base_layer: nn.Module
    mora_M: Any  # nn.ModuleDict: {adapter: Square}
    mora_dropout: nn.ModuleDict
    active_adapters: list[str]
    # peft ships no types: methods of its BaseTunerLayer.
    get_base_layer: Any
    get_base_weight: Any
    set_base_weight: Any
    set_adapter: Any
    _move_adapter_to_device_of_base_layer: Any

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: MoraConfig, **kwargs: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass")
        )
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self.fan_in_fan_out = config.fan_in_fan_out
        self.r: dict[str, int] = {}
        self.mora_operator: dict[str, Operator] = {}
        self.mora_dropout = nn.ModuleDict()
        self.mora_M = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: MoraConfig) -> None:
        """Add an adapter, with delta W = 0."""
        operator = config.build(self.in_features, self.out_features)
        self.r[adapter_name], self.mora_operator[adapter_name] = config.r, operator
        dropout = nn.Dropout(config.mora_dropout) if config.mora_dropout else nn.Identity()
        self.mora_dropout[adapter_name] = dropout
        m = torch.zeros(operator.side, operator.side)
        if not config.init_weights:
            nn.init.kaiming_uniform_(m, a=math.sqrt(5))
        self.mora_M[adapter_name] = Square(m)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., d_in) -> (..., d_out), in the base layer's dtype."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for name in self.active_adapters:
            if name in self.mora_M:
                dropped = self.mora_dropout[name](x)
                m = wide(self.mora_M[name].weight)  # turned in fp32, whatever it is held in
                y = y + self.mora_operator[name].apply(dropped, m).to(y.dtype)
        return y

    def get_delta_weight(self, adapter: str) -> Tensor:
        """delta W, as the base weight is stored, in fp32 or wider."""
        with torch.no_grad():
            delta = self.mora_operator[adapter].delta_weight(wide(self.mora_M[adapter].weight))
        return delta.T if self.fan_in_fan_out else delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W <- W + delta W; safe_merge refuses what is not finite.

        A quantised weight is dequantised for it and quantised again, as peft does with its own
        tuners: with a warning, since that rounds the sum. Raises ValueError where the kind of
        quantisation cannot do that.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.mora_M:
                self._add_to_base(name, 1, finite=safe_merge)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take back every merge, the last one first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.mora_M:
                self._add_to_base(name, -1, finite=False)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Always: delta W is added to the weight."""
        return True

    def _add_to_base(self, name: str, sign: int, *, finite: bool) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise ValueError(
                f"delta W cannot be merged into a weight quantised by {backend.backend_name}: keep "
                f"the adapter apart, or merge it into the unquantised model."
            )
        if backend is not None:
            warnings.warn(
                f"Merging into a weight quantised by {backend.backend_name}: the sum is quantised "
                f"again, so that outputs change. Merge into the unquantised model where that "
                f"matters.",
                stacklevel=4,
            )
        with torch.no_grad():
            weight = self.get_base_weight()
            merged = (wide(weight) + sign * self.get_delta_weight(name)).to(weight.dtype)
            if finite and not merged.isfinite().all():
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken; "
                    f"it was not merged."
                )
            self.set_base_weight(merged)

    def __repr__(self) -> str:
        return "mora." + super().__repr__()


class MoraModel(BaseTuner):
    """The model with its MoRA layers; made by get_peft_model."""

    prefix = PREFIX
    tuner_layer_cls = MoraLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - so in peft's base class

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        """Write all-linear out as the names that end the layers' own, where those say it as well.

        The configuration is the user's, who may have a deeper model to come; and peft, which would
        write whole names into it, ignores layers_to_transform for these.
        """
        if peft_config.target_modules is None:
            peft_config.target_modules = "all-linear"
        if not _all_linear(peft_config.target_modules):
            return peft_config
        names = _maybe_include_all_linear_layers(copy.copy(peft_config), self.model).target_modules
        ends = {name.rpartition(".")[2] for name in names}
        others = (name for name, _ in self.model.named_modules() if name not in names)
        same = all(name.rpartition(".")[2] not in ends for name in others)
        if same or peft_config.layers_to_transform is not None:
            peft_config.target_modules = ends
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Refuse a layer before the first is replaced: half adapted, a model would train whole."""
        config = _maybe_include_all_linear_layers(copy.copy(peft_config), model)
        inside: tuple[str, ...] = ()  # of adapted layers, which peft does not look into either
        for name, module in model.named_modules():
            targeted = name and self._check_target_module_exists(config, name)
            if targeted and not name.startswith(inside):
                _check(name, module, model.get_submodule(name.rpartition(".")[0]), config)
            if isinstance(module, BaseTunerLayer):
                inside += (f"{name}.",)

    def _create_and_replace(
        self,
        config: MoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, MoraLinear):
            target.update_layer(adapter_name, config)
            return
        _fit_orientation(target, config)
        layer = MoraLinear(target, adapter_name, config, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter does not train by itself
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Files from before M was the weight of a module, too, name it without .weight."""
        state_dict = {
            f"{key}.weight" if key.endswith(".mora_M") else key: value
            for key, value in state_dict.items()
        }
        renamed: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        return renamed

    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """Refuse batches with an adapter for each row, which peft would run with the active one."""
        if kwargs.get("adapter_names") is not None:
            raise MethodError(
                "MoRA has no mixed batches (adapter_names): give each adapter a batch of its own, "
                "with set_adapter before it."
            )
        return nullcontext()


def _base(target: nn.Module) -> nn.Module:
    base: nn.Module = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    return base


def _check(name: str, target: nn.Module, parent: nn.Module, config: MoraConfig) -> None:
    """Raise MethodError where MoRA cannot adapt the layer ``name``.

    It must be a linear layer, plain or of a quantisation that peft knows, which is called.
    """
    refuse_uncalled(name, parent)
    base = _base(target)
    if not isinstance(base, nn.Linear | Conv1D):
        backend = resolve_quantization_backend(base)
        if backend is None or backend.layer_type != "linear":
            raise MethodError(
                f"layer {name}: it is a {type(base).__name__}, and MoRA adapts linear layers "
                f"alone: name those in target_modules."
            )
    try:
        config.build(*_get_in_out_features(base))
    except MethodError as error:
        raise MethodError(f"layer {name}: {error}") from None


def _fit_orientation(target: nn.Module, config: MoraConfig) -> None:
    """Set fan_in_fan_out as the layer has it, with a warning where the user said otherwise."""
    base = _base(target)
    if isinstance(base, Conv1D) != config.fan_in_fan_out:
        config.fan_in_fan_out = isinstance(base, Conv1D)
        warnings.warn(
            f"fan_in_fan_out is set to {config.fan_in_fan_out}, as {type(base).__name__} has it.",
            stacklevel=3,
        )


def register() -> None:
    """What peft's register_peft_method does, for a type that is no member of its enumeration.

    Raises ImportError where peft has a MORA of its own.
    """
    known = PEFT_TYPE_TO_CONFIG_MAPPING.setdefault(MoraType.MORA, MoraConfig)
    if known is not MoraConfig:
        raise ImportError(
            f"the installed peft has a MORA of its own ({known.__module__}): use that one, or an "
            f"earlier peft."
        )
    PEFT_TYPE_TO_TUNER_MAPPING[MoraType.MORA] = MoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[MoraType.MORA] = PREFIX


register()
