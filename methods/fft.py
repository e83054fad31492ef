"""Full fine-tuning: every weight trains, as it is held. The yardstick of all other methods.

Hold the model in fp32 and train it under autocast, as the harness does: in bf16 or fp16 the small
steps of an optimiser are rounded away.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import LLAMA_LINEARS, Method, Start, unwrapped
from methods.errors import MethodError
from methods.files import check_fit, refuse_leftovers
from methods.layer import Compute
from methods.targets import target_layers


class FFT(Method):
    """All parameters train.

    ``target_modules`` names the layers whose delta W is reported, so that spectra compare with the
    adapters'. The shared settings of the adapters (rank, alpha, dropout, ...) have no meaning here.
    delta W counts from the weights at ``attach``, of one model at a time.
    """

    name, label = "fft", "FFT"
    trains_base = fp32_base = True

    def __init__(
        self,
        *,
        learning_rate: float | None = None,
        target_modules: Sequence[str] = LLAMA_LINEARS,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float = 0.0,
        also_train: Sequence[str] = (),
        compute: Compute = "auto",
        name: str | None = None,
    ):
        super().__init__(learning_rate=learning_rate, target_modules=target_modules, name=name)
        self._start: dict[str, Tensor] = {}
        self._keeps: Start = "copy"
        self._model: weakref.ref[nn.Module] | None = None  # the one that _start is of

    def settings(self) -> dict[str, Any]:
        return {"learning_rate": self._learning_rate, "target_modules": list(self.target_modules)}

    def keep_start(self, how: Start) -> None:
        self._keeps = how

    def attach(self, model: nn.Module) -> None:
        """Warns where a weight is held below fp32, unless whoever says keep_start widens it."""
        model = unwrapped(model)
        layers = target_layers(model, self.target_modules)
        if self._keeps == "copy":
            _warn_of_narrow(model)
        model.requires_grad_(True)
        self._model = weakref.ref(model)
        self._start = {  # kept off the accelerator; a model on the meta device has nothing to keep
            n: m.weight.detach().to("cpu", copy=self._keeps == "copy")
            for n, m in layers.items()
            if not m.weight.is_meta and self._keeps != "no"
        }

    def delta_weights(self, model: nn.Module) -> dict[str, Tensor]:
        if self._keeps == "no":
            raise MethodError("FFT has not kept the weights it began with: keep_start said no.")
        model = unwrapped(model)
        if self._model is None or self._model() is not model:
            raise MethodError(
                "delta W counts from the weights of the model that this FFT was attached to last, "
                "and this is another: give each model an FFT of its own."
            )
        return {
            name: module.weight.detach().to(torch.promote_types(module.weight.dtype, torch.float32))
            - self._start[name].to(module.weight.device)
            for name, module in target_layers(model, self.target_modules).items()
        }

    def merge(self, model: nn.Module) -> nn.Module:
        return model

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in _saved(model).items()}

    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """A state without buffers, as they all were at first, leaves the model's as they are."""
        tensors = _saved(model)
        refuse_leftovers(name for name in state if name not in tensors)
        for name, tensor in list(tensors.items()):
            if name not in state and not isinstance(tensor, nn.Parameter):
                del tensors[name]
            else:
                check_fit(tensor, state.get(name), name)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return d_in * d_out

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(d_in, d_out)


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, and the buffers that the model saves, such as running statistics."""
    model = unwrapped(model)
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return dict(model.named_parameters()) | buffers


def _warn_of_narrow(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        dtype = parameter.dtype
        narrow = dtype.is_floating_point and torch.promote_types(dtype, torch.float32) != dtype
        if narrow and not parameter.is_meta:
            warnings.warn(
                f"FFT trains weights held in {str(dtype).removeprefix('torch.')}, such as {name}, "
                f"in which small steps are rounded away: hold the model in fp32 (model.float()) "
                f"and train it under autocast.",
                stacklevel=3,
            )
            return
