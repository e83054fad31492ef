"""Adapters over frozen layers that a library has quantised.

bitsandbytes (4 and 8 bit) and torchao (int8 weights); both run on CPU too.

The base layer runs as its library runs it; delta W goes through activations beside it. W + delta W
is formed for merging alone, from the dequantised weight. No library is imported here: what a layer
is, its class tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.errors import MethodError
from methods.layer import AdapterLinear
from methods.tensors import wide


class QuantisedLinear(AdapterLinear):
    """An adapted layer whose base weight is quantised, and stays so."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out), in the dtype of the base layer's output."""
        if x.requires_grad:
            _unpack(self.base)  # the packed product has no gradient
        y = self.base(x)
        drops = self.training and self.dropout > 0
        added = self.delta.added(F.dropout(x, self.dropout) if drops else x, *self.tensors)
        return y + added.to(y.dtype)

    def effective_weight(self) -> Tensor:
        """The dequantised W + delta W (d_out, d_in), in the dtype that dequantising gives.

        Of bitsandbytes, 8 bit, that is fp32 in any model.
        """
        with torch.no_grad():
            weight = dequantised(self.base)
            return (wide(weight) + self.delta_weight()).to(weight.dtype)

    def delta_weight(self) -> Tensor:
        """delta W (d_out, d_in) in fp32."""
        with torch.no_grad():
            like = torch.empty(self.out_features, self.in_features, device=self.tensors[0].device)
            return self.delta.delta_weight(like, *self.tensors)

    def merged(self) -> nn.Linear:
        """A plain, unquantised layer. Its output differs by the rounding of what it computes in."""
        warnings.warn(
            f"Merging into a weight quantised by {kind(self.base)}: the layer is dequantised, so "
            f"that it takes more memory, and its outputs agree with the adapted layer's as far as "
            f"the quantised product was exact.",
            stacklevel=3,
        )
        weight = self.effective_weight()
        shape, biased = (self.in_features, self.out_features), self.bias is not None
        like = {"device": weight.device, "dtype": weight.dtype}
        plain = nn.utils.skip_init(nn.Linear, *shape, bias=biased, **like)
        plain.requires_grad_(False)
        plain.weight.copy_(weight)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        return plain.train(self.training)


def dtype_beside(model: nn.Module, narrow: Mapping[str, torch.dtype]) -> torch.dtype | None:
    """What an adapted model is held in, as its first floating parameter outside adapters says.

    narrow: {name: dtype before} of those that are wider at present; they say it where no others do.
    """
    inside = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, AdapterLinear))
    for name, parameter in model.named_parameters():
        counts = name not in narrow and not name.startswith(inside)
        if counts and parameter.is_floating_point():
            return parameter.dtype
    return next(iter(narrow.values()), None)


def layer_class(linear: nn.Linear) -> type[AdapterLinear]:
    """The class of an adapted layer around ``linear``."""
    return AdapterLinear if kind(linear) is None else QuantisedLinear


def kind(module: nn.Module) -> str | None:
    """Which quantisation that adapters go over a layer has; None for any other layer.

    A layer of bitsandbytes is quantised when it is moved to its device, and not before.
    """
    weight: Any = getattr(module, "weight", None)
    origin = type(module).__module__.partition(".")[0]
    if origin == "bitsandbytes" and isinstance(module, nn.Linear):
        if getattr(weight, "quant_state", None) is not None:
            return "bitsandbytes, 4 bit"
        if isinstance(weight, Tensor) and weight.dtype == torch.int8:
            return "bitsandbytes, 8 bit"
    # Of torchao's, those that also round activations let no gradient through.
    if type(module) is nn.Linear and _of_torchao(weight) and type(weight).__name__ == "Int8Tensor":
        return "torchao, int8 weights" if weight.act_quant_kwargs is None else None
    return None


def is_quantised(name: str, module: nn.Module, *, allowed: bool) -> bool:
    """Whether the model's layer ``name`` is quantised.

    Raises MethodError for a quantisation that adapters do not go over, for any where it is not
    ``allowed``, and for a layer of bitsandbytes that waits to be quantised.
    """
    if kind(module) is not None and allowed:
        return True
    if type(module).__module__.partition(".")[0] == "bitsandbytes" and kind(module) is None:
        raise MethodError(
            f"layer {name} is a {type(module).__name__} of bitsandbytes that is not quantised yet: "
            f"move the model to its device first."
        )
    weight = getattr(module, "weight", None)
    unknown = not isinstance(weight, Tensor) or is_rounded(weight)
    if kind(module) is None and not unknown and not _of_torchao(weight):
        return False
    raise MethodError(
        f"layer {name} is quantised ({_what(module)}): delta W cannot be added to its weight by "
        f"this method. Load the model unquantised, in bf16 or fp32; MoRA and LoRA, with "
        f"compute=auto or plain, go over layers of bitsandbytes (4 and 8 bit) and of torchao (int8 "
        f"weights alone)."
    )


def is_rounded(weight: Tensor) -> bool:
    """Whether a weight is held in integers or in floats of 8 bit, which torch does not add."""
    return not weight.is_floating_point() or weight.dtype.itemsize < 2


def dequantised(module: Any) -> Tensor:
    """The weight (d_out, d_in) that a quantised layer stands for, floating point."""
    weight = module.weight
    if kind(module) == "torchao, int8 weights":
        return weight.dequantize()
    from bitsandbytes import functional

    if kind(module) == "bitsandbytes, 4 bit":
        _unpack(module)
        return functional.dequantize_4bit(weight.data, weight.quant_state)
    # The first forward moves the scales from the weight to the layer.
    scales = weight.SCB if module.state.SCB is None else module.state.SCB
    return functional.int8_vectorwise_dequant(weight.data, scales)


def _unpack(module: nn.Module) -> None:
    """Undo what bitsandbytes does to a 4-bit weight, in place, when it first evaluates on a CPU.

    It lays the weight out for another product there; its ``state_dict`` has the way back.
    """
    state = getattr(module.weight, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        module.state_dict()


def forget_quantiser(model: nn.Module) -> None:
    """After a merge: a model of transformers that has no quantised layer left says so no more.

    It is saved and read as a plain one then. Warns where other layers are still quantised.
    """
    quantiser: Any = getattr(model, "hf_quantizer", None)
    if quantiser is None:
        return
    left = [name for name, module in model.named_modules() if kind(module) is not None]
    if not left:
        quantiser.remove_quantization_config(model)
        return
    warnings.warn(
        f"Not merged, and quantised still: {', '.join(left[:3])}{', ...' if left[3:] else ''}. The "
        f"configuration says that all layers are, so that from_pretrained would not read this "
        f"model as it is now. Adapt those too, or merge into the unquantised model.",
        stacklevel=3,
    )


def _what(module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    own = f"{type(weight).__name__} of torchao" if _of_torchao(weight) else type(module).__name__
    return kind(module) or own


def _of_torchao(weight: Any) -> bool:
    return type(weight).__module__.partition(".")[0] == "torchao"
