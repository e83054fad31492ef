"""One adapted layer for every method: a frozen linear layer and a delta W made from parameters.

Two ways to compute y = x (W + delta W)^T:

- plain: the base product plus the method's own path through activations. The test oracle, the
  way under dropout, and the cheaper one for few tokens.
- fused: delta W is formed in the weight, then one dense product forward and one for the input
  gradient; the parameters' gradients come from compressed activations. Nothing but x is kept for
  backward: the formed weight is made again there.

Under bf16 the fused weight W + delta W is rounded to bf16, as a merged weight would be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Compute = Literal["auto", "fused", "plain"]
BREAK_EVEN_TOKENS = 384


class Delta(ABC):
    """How parameters make delta W: all the mathematics of a method, and no state.

    ``tensors`` are a layer's parameters in fp32 or wider, then its constants.
    """

    @abstractmethod
    def apply_(self, weight: Tensor, *tensors: Tensor) -> None:
        """Turn the base weight (d_out, d_in) into W + delta W, in place."""

    @abstractmethod
    def pullback(
        self, x: Tensor, dy: Tensor, weight: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradient of sum(dy * (x (W + delta W)^T)) for each parameter, in its shape.

        x (n, d_in), dy (n, d_out); weight is W.
        """

    @abstractmethod
    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        """The whole layer through activations: (..., d_in) -> (..., d_out), in x's dtype.

        x W^T + b, and delta W on ``dropped``: x after dropout, or x itself where there is none.
        """

    def added(self, dropped: Tensor, *tensors: Tensor) -> Tensor:
        """What ``plain`` adds to the base layer's output, for a base that computes by itself.

        (..., d_in) -> (..., d_out). Raises NotImplementedError where delta W depends on W.
        """
        raise NotImplementedError(f"{type(self).__name__} adds nothing that is apart from W.")

    def delta_weight(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        """delta W (d_out, d_in) in fp32 or wider, for a base weight in that precision."""
        delta = torch.zeros_like(weight)
        self.apply_(delta, *tensors)
        return delta


class AdapterLinear(nn.Module):
    """A frozen ``nn.Linear`` with a trainable delta W, in place of the linear layer.

    The parameters are held in fp32 (or wider), whatever the base weight's dtype. constants: fixed
    tensors that delta W needs as well, such as places in the weight.
    """

    def __init__(
        self,
        base: nn.Linear,
        parameters: dict[str, Tensor],
        delta: Delta,
        *,
        constants: dict[str, Tensor] | None = None,
        dropout: float = 0.0,
        compute: Compute = "auto",
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.names, self.constants = tuple(parameters), tuple(constants or {})
        for key, value in parameters.items():
            trains = not isinstance(value, nn.Parameter) or value.requires_grad
            dtype = torch.promote_types(base.weight.dtype, torch.float32)
            held = value.detach().to(base.weight.device, dtype)
            self.register_parameter(key, nn.Parameter(held, requires_grad=trains))
        for key, value in (constants or {}).items():
            self.register_buffer(key, value.to(base.weight.device))
        self.delta = delta
        self.dropout = dropout
        self.compute = compute
        self.original: Tensor | None = None  # the base weight before the first restart merged
        self._cache: tuple[Any, Tensor] | None = None
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The base weight W, without delta W, as peft's layers have it: models look at its dtype.

        ``effective_weight`` is W + delta W.
        """
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base.bias

    @property
    def adapter_parameters(self) -> tuple[nn.Parameter, ...]:
        """The method's parameters, frozen ones included, in the order that ``delta`` takes them."""
        return tuple(getattr(self, name) for name in self.names)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters, then the constants: what ``delta`` is a function of."""
        return tuple(getattr(self, name) for name in self.names + self.constants)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out), in autocast's dtype where it is on, else the base weight's.

        Evaluation without gradients multiplies by W + delta W, formed once and kept, unless
        compute is plain.
        """
        weight, bias, tensors = self.base.weight, self.bias, self.tensors
        x = x.to(compute_dtype(x, weight))
        if bias is not None:
            bias = bias.to(x.dtype)
        if self.compute != "plain" and not self.training and not torch.is_grad_enabled():
            return F.linear(x, self._formed_weight(x.dtype), bias)
        if self._fused(x):
            return _FusedLinear.apply(self.delta, x, weight, bias, *tensors)
        drops = self.training and self.dropout > 0
        dropped = F.dropout(x, self.dropout) if drops else x
        return self.delta.plain(x, dropped, weight, bias, *tensors)

    def effective_weight(self) -> Tensor:
        """W + delta W (d_out, d_in) in the base weight's dtype."""
        with torch.no_grad():
            return form(self.delta, self.base.weight, self.base.weight.dtype, self.tensors)

    def delta_weight(self) -> Tensor:
        """delta W (d_out, d_in) since the original base, restarts included, in fp32 or wider."""
        with torch.no_grad():
            weight = self.base.weight.to(torch.promote_types(self.base.weight.dtype, torch.float32))
            delta = self.delta.delta_weight(weight, *self.tensors)
            if self.original is not None:
                delta += weight - self.original.to(weight)
            return delta

    def merge_into_base(self) -> None:
        """W <- W + delta W. The caller resets the parameters; the original is kept on the CPU."""
        self.keep_original()
        with torch.no_grad():
            self.base.weight.copy_(self.effective_weight())

    def keep_original(self) -> None:
        """Before the base weight changes for the first time: a copy of it on the CPU."""
        if self.original is None:
            self.original = self.base.weight.detach().to("cpu", copy=True)

    def rewind(self) -> None:
        """The base weight as it was before the first merge."""
        if self.original is not None:
            with torch.no_grad():
                self.base.weight.copy_(self.original)
            self.original = None

    def merged(self) -> nn.Linear:
        """The plain layer with the same output: the base layer, its weight now W + delta W."""
        self.base.weight.data.copy_(self.effective_weight())
        return self.base

    def train(self, mode: bool = True) -> AdapterLinear:
        if mode:
            self._cache = None
        return super().train(mode)

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{n}{tuple(p.shape)}" for n, p in self.named_parameters(recurse=False))
        return f"{shapes}, {type(self.delta).__name__}, compute={self.compute}"

    def _fused(self, x: Tensor) -> bool:
        if self.training and self.dropout > 0:
            return False
        if self.compute != "auto":
            return self.compute == "fused"
        return worth_forming(x.numel() // self.in_features)

    def _formed_weight(self, dtype: torch.dtype) -> Tensor:
        """W + delta W for evaluation, kept until a tensor that it is made of changes."""
        tensors = (self.base.weight, *self.tensors)
        if any(t.is_inference() for t in tensors):  # these do not count their changes
            return form(self.delta, tensors[0], dtype, tensors[1:])
        key = (dtype, self.delta, *((t.data_ptr(), t._version) for t in tensors))
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, form(self.delta, tensors[0], dtype, tensors[1:]))
        return self._cache[1]


class _FusedLinear(torch.autograd.Function):
    """y = x (W + delta W)^T + b, keeping only x (and the layer's tensors) for backward."""

    @staticmethod
    def forward(
        ctx: Any, delta: Delta, x: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.delta = delta
        ctx.save_for_backward(x, weight, *tensors)
        return F.linear(x, form(delta, weight, x.dtype, tensors), bias)

    @staticmethod
    @once_differentiable  # the gradient below is no function that autograd could see through
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *tensors = ctx.saved_tensors
        dy, delta = grads[0].to(x.dtype), ctx.delta
        dx = dy @ form(delta, weight, x.dtype, tensors) if ctx.needs_input_grad[1] else None
        x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        pulled = delta.pullback(x, dy, weight, *tensors)
        constants = (None,) * (len(tensors) - len(pulled))
        pulled = tuple(
            g if g is None else g.to(p.dtype) for g, p in zip(pulled, tensors, strict=False)
        )
        return (None, dx, None, None, *pulled, *constants)


def form(delta: Delta, weight: Tensor, dtype: torch.dtype, tensors: Any) -> Tensor:
    """W + delta W in ``dtype``, a new tensor."""
    formed = weight.detach().clone()
    delta.apply_(formed, *(t.detach() for t in tensors))
    return formed.to(dtype)


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype a linear layer computes in here: autocast's where it is on, else the weight's."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return weight.dtype


def worth_forming(tokens: int) -> bool:
    """Whether forming delta W in the weight beats sending ``tokens`` rows through the plain path.

    Forming costs the same for any number of rows. On two CPU cores, in bf16 and fp32, layers of
    576 to 2048 break even between 200 and 500 rows, LoRA and MoRA alike.
    """
    return tokens >= BREAK_EVEN_TOKENS
