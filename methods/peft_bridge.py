"""Any tuner of the installed peft as a method, measured like our own.

delta W is what merging adds to the original weight, on a copy of the layer in fp32, so that it
holds for every tuner that can be merged. ``python -m methods.peft_tuners`` prints which tuners
keep the contract of methods/contract.py.
"""

from __future__ import annotations

import copy
import enum
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import LLAMA_LINEARS, Method, unwrapped
from methods.errors import MethodError
from methods.files import (
    CONFIG_FILE,
    METHOD_FILE,
    check_fit,
    read_json,
    read_settings,
    refuse_difference,
    refuse_leftovers,
)
from methods.loading import unchanged_on_error
from methods.peft_format import PREFIX
from methods.targets import adaptable_layers

ATTACHED = "_peft_attached"  # under this name a model keeps what it needs to save and to merge
# Fields of a PeftConfig that say where it was made and not what it does.
PROVENANCE = (
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "inference_mode",
)
# Fields that say which layers, how they start or how they are trained, and not what their trained
# weights mean; as well as those that begin with init_ or speak of dropout.
NOT_THE_FORWARD = (
    "task_type",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "d_initial",
)


class Peft(Method):
    """peft.get_peft_model, in place.

    peft_config: a PeftConfig, or a mapping of its fields with peft_type. Where it names no
        target_modules, those of the method apply, with this package's patterns.
    rank, alpha, dropout, also_train, compute: of our own methods. A tuner has its own fields for
        them in peft_config, so that a value here is refused.
    """

    name = "peft"
    reads_base = True  # PiSSA, for one, starts from them

    def __init__(
        self,
        *,
        peft_config: Any,
        learning_rate: float | None = None,
        target_modules: Sequence[str] = LLAMA_LINEARS,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float = 0.0,
        also_train: Sequence[str] = (),
        compute: str = "auto",
        name: str | None = None,
    ):
        self.config = _read(peft_config)
        named = self.config.target_modules
        if named is not None:
            target_modules = [named] if isinstance(named, str) else sorted(named)
        super().__init__(learning_rate=learning_rate, target_modules=target_modules, name=name)
        self.rank = getattr(self.config, "r", None)
        refused = {"alpha": alpha, "dropout": dropout, "also_train": also_train}
        if rank != self.rank:
            refused["rank"] = rank
        for key, value in refused.items():
            if value:
                raise MethodError(
                    f"{key}={value} does not reach a tuner of peft: set the tuner's own "
                    f"field in peft_config, such as r."
                )
        self.label = f"{type(self.config).__name__.removesuffix('Config')} (peft)"

    def settings(self) -> dict[str, Any]:
        fields = {k: v for k, v in self.config.to_dict().items() if k not in PROVENANCE}
        return {
            "rank": self.rank,
            "learning_rate": self._learning_rate,
            "target_modules": list(self.target_modules),
            "peft_config": _plain(fields),
        }

    def attach(self, model: nn.Module) -> None:
        import peft

        model = unwrapped(model)
        layers = adaptable_layers(model, self.target_modules)
        config = copy.deepcopy(self.config)
        config.target_modules = set(layers)
        before = {
            n: m.weight.detach().to("cpu", copy=True)
            for n, m in layers.items()
            if not m.weight.is_meta
        }
        try:
            with unchanged_on_error(model):
                wrapper = peft.get_peft_model(model, config)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not before:
                return  # a model on the meta device, and a start that needs the weights themselves
            raise MethodError(f"peft cannot attach {self.label}: {error}") from error
        moved = {}  # some initialisations (PiSSA) take their start out of the base weight
        for name, layer in tuner_layers(model):
            if name in before:
                now = layer.get_base_layer().weight.detach().cpu()
                if not torch.equal(now, before[name]):
                    moved[name] = before[name]
        # Not as a submodule: the wrapper holds the model.
        object.__setattr__(model, ATTACHED, _Attached(wrapper, moved))

    def delta_weights(self, model: nn.Module) -> dict[str, Tensor]:
        deltas = {}
        for name, layer in tuner_layers(model):
            base = layer.get_base_layer().weight
            alone = copy.deepcopy(layer).to(torch.promote_types(base.dtype, torch.float32))
            with torch.no_grad():
                self._merge(alone.merge)
                merged = alone.get_base_layer().weight
                deltas[name] = merged - _attached(model).moved.get(name, base).to(merged)
        return deltas

    def merge(self, model: nn.Module) -> nn.Module:
        """What trains beside the tuner, such as modules_to_save, takes its place as well."""
        plain = unwrapped(model)
        if hasattr(plain, ATTACHED):
            with torch.no_grad():
                self._merge(_attached(plain).wrapper.merge_and_unload)
            delattr(plain, ATTACHED)
        return model

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        import peft

        attached = _attached(model)
        state = peft.get_peft_model_state_dict(attached.wrapper, save_embedding_layers=False)
        for name, layer in tuner_layers(model):
            if name in attached.moved:
                state[f"{PREFIX}{name}.base_layer.weight"] = layer.get_base_layer().weight
        return _unshared({name: value.detach() for name, value in state.items()})

    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        import peft

        state, attached = dict(state), _attached(model)
        moved = {}
        for name, layer in tuner_layers(model):
            if name in attached.moved:
                key, weight = f"{PREFIX}{name}.base_layer.weight", layer.get_base_layer().weight
                moved[key] = (weight, check_fit(weight, state.pop(key, None), key))
        expected = peft.get_peft_model_state_dict(attached.wrapper, save_embedding_layers=False)
        # MoraConfig's M was no module's weight at first; see MoraModel.
        state = {f"{k}.weight" if f"{k}.weight" in expected else k: v for k, v in state.items()}
        refuse_leftovers(name for name in state if name not in expected)
        for key, value in expected.items():
            check_fit(value, state.get(key), key)
        with torch.no_grad():
            for weight, value in moved.values():
                weight.copy_(value)
        peft.set_peft_model_state_dict(attached.wrapper, state)

    def check_saved(self, model: nn.Module, folder: str | Path) -> None:
        """By method.json or, where peft wrote the folder, by its adapter_config.json."""
        file, own = Path(folder) / METHOD_FILE, _forward(_plain(self.config.to_dict()))
        if file.exists() or not (Path(folder) / CONFIG_FILE).exists():
            saved = read_settings(folder)[1].get("peft_config", {})
        else:
            file = Path(folder) / CONFIG_FILE
            saved = read_json(file)
            own = {key: value for key, value in own.items() if key in saved}
        refuse_difference(str(file), saved, own)

    def _files(self, model: nn.Module) -> dict[str, Callable[[Path], Any]]:
        """In peft's own format, which PeftModel.from_pretrained reads, and method.json."""
        config = _attached(model).wrapper.peft_config["default"]

        def write(path: Path) -> None:
            with tempfile.TemporaryDirectory() as folder:
                config.save_pretrained(folder)
                path.write_bytes((Path(folder) / CONFIG_FILE).read_bytes())

        return super()._files(model) | {CONFIG_FILE: write}

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        """Counted on such a layer alone: peft states no formula."""
        model = self._alone(d_in, d_out)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    def max_rank(self, d_in: int, d_out: int) -> int:
        """Measured on such a layer alone: the rank of delta W with random parameters."""
        model = self._alone(d_in, d_out).double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        return int(torch.linalg.matrix_rank(self.delta_weights(model)["layer"]))

    def _alone(self, d_in: int, d_out: int) -> nn.Module:
        model = nn.Sequential()
        method = copy.copy(self)
        method.config, method.target_modules = copy.deepcopy(self.config), ("layer",)
        for field in ("modules_to_save", "layers_to_transform", "layers_pattern"):
            if hasattr(method.config, field):
                setattr(method.config, field, None)
        with torch.random.fork_rng(devices=[]):
            model.add_module("layer", nn.Linear(d_in, d_out, bias=False))
            method.attach(model)
        return model

    def _merge(self, merge: Callable[..., Any]) -> None:
        try:
            merge(safe_merge=True)
        except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            raise MethodError(f"peft cannot merge {self.label}: {error}") from error


@dataclass
class _Attached:
    wrapper: Any  # peft.PeftModel: it alone can save tuners whose layers share tensors
    moved: dict[str, Tensor]  # original weights that attaching has changed


def tuner_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each linear layer that a tuner of peft has replaced."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    beside: tuple[str, ...] = ()  # what trains beside them, such as the rows of chosen tokens
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            beside += (f"{name}.",)
        if isinstance(module, BaseTunerLayer) and not name.startswith(beside):
            yield name, module


def _attached(model: nn.Module) -> _Attached:
    attached = getattr(unwrapped(model), ATTACHED, None)
    if attached is None:
        raise MethodError("no tuner of peft is attached to this model (any more).")
    return attached


def _read(config: Any) -> Any:
    """A private copy of a PeftConfig, or one made of its fields."""
    try:
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as KINDS
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
    except ImportError as error:
        raise MethodError(f"the bridge needs the package peft ({error}).") from None
    if isinstance(config, Mapping):
        kind = KINDS.get(config.get("peft_type"))
        if kind is None:
            raise MethodError(
                f"peft_config.peft_type={config.get('peft_type')!r} is unknown to peft; "
                f"choose {' | '.join(sorted(KINDS))}, or give a PeftConfig."
            )
        try:
            config = kind(**config)
        except (TypeError, ValueError) as error:
            raise MethodError(f"peft_config: {error}") from None
    if not isinstance(config, peft.PeftConfig):
        raise MethodError(
            f"peft_config is a {type(config).__name__}, not a configuration of peft: give a "
            f"PeftConfig, such as peft.VeraConfig, or its fields with peft_type."
        )
    if config.is_prompt_learning or not hasattr(config, "target_modules"):
        raise MethodError(
            f"{type(config).__name__} changes no weight of a linear layer, so that it has no "
            f"delta W: choose a tuner with target_modules."
        )
    allocates = hasattr(TUNERS[config.peft_type], "update_and_allocate")
    if allocates and getattr(config, "use_asa", True):
        remedy = "set use_asa=False" if hasattr(config, "use_asa") else "choose another tuner"
        raise MethodError(
            f"{type(config).__name__} shares ranks out anew at each step (update_and_allocate), "
            f"which nothing here calls, so that it would train as something else: {remedy}."
        )
    config = copy.deepcopy(config)
    if config.target_modules is not None and not isinstance(config.target_modules, str):
        config.target_modules = set(config.target_modules)
    return config


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that several names share (RandLoRA), which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, value in state.items():
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result


def _forward(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a PeftConfig that determine delta W of given weights."""
    return {
        key: value
        for key, value in fields.items()
        if key not in PROVENANCE + NOT_THE_FORWARD
        and not key.startswith("init_")
        and "dropout" not in key
    }


def _plain(value: Any) -> Any:
    """Sets, enums and tuples as JSON has them."""
    if isinstance(value, Mapping):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(v) for v in value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.value if isinstance(value, enum.Enum) else value
