"""One adapted layer for every method: a frozen linear layer and a delta W made from parameters.

Ways to compute y = x (W + delta W)^T:

- plain: the base product plus the method's own path through activations. The test oracle, the
  way under dropout, and the cheaper one for few tokens.
- fused: delta W is formed in the weight, then one dense product forward and one for the input
  gradient; the parameters' gradients come from compressed activations. Nothing but x is kept for
  backward: the formed weight is made again there.
- cached: as fused and bit for bit the same, but the formed weight is kept until a parameter
  changes. Micro-batches, backward and checkpointing share it; it takes as much memory as the base
  weight (methods/kept.py). A compiled graph forms its own, as fused does. Whoever changes
  parameters through ``.data``, past ``torch.optim``, says so: ``methods.kept.changed()``.

auto is plain below the break-even (methods/break_even.py), above it cached where the memory is
there to spare and a ``torch.optim`` optimiser trains the layer, and fused where not.

Under bf16 the formed weight W + delta W is rounded to bf16, as a merged weight would be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from methods import break_even, kept
from methods.errors import MethodError
from methods.tensors import rows

Compute = Literal["auto", "cached", "fused", "plain"]


class Formed(NamedTuple):
    """W + delta W (d_out, d_in), and what the pullback needs of it beside the activations."""

    weight: Tensor
    working: tuple[Tensor, ...] = ()


class Delta(ABC):
    """How parameters make delta W: all the mathematics of a method, and no state.

    ``tensors`` are a layer's parameters in fp32 or wider, then its constants.
    """

    needs_output: ClassVar[bool] = False  # whether the pullback takes y, which is then kept

    @property
    def kind(self) -> str:
        """What its break-even is measured as (methods/break_even.py)."""
        return "lora"

    @abstractmethod
    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        """W + delta W in ``dtype``, a new tensor, from the base weight W (d_out, d_in).

        Called without gradients.
        """

    @abstractmethod
    def pullback(
        self, x: Tensor, dy: Tensor, y: Tensor | None, *working: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradient of sum(dy * (x (W + delta W)^T)) for each parameter, in its shape.

        x (n, d_in), dy (n, d_out); y (n, d_out) before the bias where ``needs_output``, else None;
        working: what ``form`` gave beside the weight.
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
        return self.form(torch.zeros_like(weight), weight.dtype, *tensors).weight


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
        self._cache: tuple[Any, Formed, tuple[Tensor, ...]] | None = None
        self._granted: bool | None = None  # whether there is memory to keep the weight; not asked
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

    @property
    def kept_bytes(self) -> int:
        """What the formed weight takes that is kept at present, as printed with the layer."""
        return 0 if self._cache is None else self._cache[1].weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out), in autocast's dtype where it is on, else the base weight's.

        Evaluation without gradients multiplies by W + delta W, formed once where there is memory
        to keep it and else each time, unless compute is plain.
        """
        weight, bias, tensors = self.base.weight, self.bias, self.tensors
        x = x.to(compute_dtype(x, weight))
        if bias is not None:
            bias = bias.to(x.dtype)
        if self.compute != "plain" and self._evaluates():
            formed = self._kept(x.dtype) or form(self.delta, weight, x.dtype, tensors)
            return F.linear(x, formed.weight, bias)
        if self._fused(x):
            return _FusedLinear.apply(self.delta, self._kept(x.dtype), x, weight, bias, *tensors)
        drops = self.training and self.dropout > 0
        dropped = F.dropout(x, self.dropout) if drops else x
        return self.delta.plain(x, dropped, weight, bias, *tensors)

    def effective_weight(self) -> Tensor:
        """W + delta W (d_out, d_in) in the base weight's dtype."""
        with torch.no_grad():
            weight = self.base.weight
            return form(self.delta, weight, weight.dtype, self.tensors).weight

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

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """The original too: without it a checkpoint would not tell that the base has changed."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.original is not None:
            destination[f"{prefix}original"] = self.original

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """A state without an original leaves one that is here: it is the base model's own."""
        original = state_dict.pop(f"{prefix}original", None)
        if original is not None:
            self.original = original.to("cpu", copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def merged(self) -> nn.Linear:
        """The plain layer with the same output: the base layer, its weight now W + delta W."""
        self.base.weight.data.copy_(self.effective_weight())
        return self.base

    def train(self, mode: bool = True) -> AdapterLinear:
        if mode != self.training:
            self._forget()
        return super().train(mode)

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{n}{tuple(p.shape)}" for n, p in self.named_parameters(recurse=False))
        keeps = f", keeps {self.kept_bytes:,} bytes" if self.kept_bytes else ""
        return f"{shapes}, {type(self.delta).__name__}, compute={self.compute}{keeps}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None, "_granted": None}

    def _apply(self, *args: Any, **kwargs: Any) -> AdapterLinear:
        self._forget()  # moved to another device or dtype
        return super()._apply(*args, **kwargs)

    def _forget(self) -> None:
        self._cache = self._granted = None
        kept.give_back(self)

    def _evaluates(self) -> bool:
        return not self.training and not torch.is_grad_enabled()

    def _fused(self, x: Tensor) -> bool:
        if self.training and self.dropout > 0:
            return False
        if self.compute != "auto":
            return self.compute != "plain"
        shape = self.in_features, self.out_features
        least = break_even.tokens(self.delta.kind, *shape, x.dtype, x.device.type)
        return x.numel() // self.in_features >= least

    def _keeps(self, dtype: torch.dtype) -> bool:
        """Whether the formed weight is kept until a change; never changes a number."""
        if self.compute == "fused" and not self._evaluates():
            return False
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or _capturing()
        if recorded or "_is_replica" in self.__dict__:
            return False  # a graph forms its own; a replica of nn.DataParallel is gone after use
        if any(tensor.is_inference() for tensor in (self.base.weight, *self.tensors)):
            return False  # made in inference mode: they do not count their changes
        if kept.sharded():
            if self.compute == "cached":
                raise MethodError(
                    "compute=cached keeps each weight whole on every device, and FSDP2 gathers and "
                    "frees them behind its back: use compute=fused."
                )
            return False
        if self.compute == "cached":
            return True
        trained = (p for p in self.adapter_parameters if p.requires_grad)
        if not self._evaluates() and not kept.trained(trained):
            return False
        if self._granted is None:
            size = self.base.weight.numel() * dtype.itemsize
            self._granted = kept.grant(self, size, self.base.weight.device)
        return self._granted

    def _kept(self, dtype: torch.dtype) -> Formed | None:
        """W + delta W where it is kept, made anew if a tensor that it is made of has changed."""
        if not self._keeps(dtype):
            return None
        tensors = (self.base.weight, *self.tensors)
        key = (dtype, self.delta, kept.changes(), *((t.data_ptr(), t._version) for t in tensors))
        cache = self._cache  # another thread may change it meanwhile
        if cache is None or cache[0] != key:
            self._cache = cache = None  # freed before the new one is made
            with torch.inference_mode(False):
                formed = form(self.delta, tensors[0], dtype, tensors[1:])
            # The tensors are held with it: no other could come to lie at an address of the key.
            self._cache = cache = key, formed, tuple(tensor.detach() for tensor in tensors)
        return cache[1]


class _FusedLinear(torch.autograd.Function):
    """y = x (W + delta W)^T + b, keeping x (and the layer's tensors) for backward.

    formed: W + delta W where the layer keeps it, or None: it is made here, and again in backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        delta: Delta,
        formed: Formed | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.delta, ctx.formed = delta, formed
        if formed is None:
            formed = form(delta, weight, x.dtype, tensors)
        y = F.linear(x, formed.weight, None if delta.needs_output else bias)
        ctx.save_for_backward(x, weight, y if delta.needs_output else None, *tensors)
        if not delta.needs_output:
            return y
        # Another tensor than the kept y, as the next module may change it in place (nn.ReLU(True),
        # the residual of Falcon). Without a bias that is a copy: n x d_out values held till
        # backward beside what the next module keeps; without y, dm would take a dense product.
        return y.clone() if bias is None else y + bias

    @staticmethod
    @once_differentiable  # the gradient below is no function that autograd could see through
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *tensors = ctx.saved_tensors
        dy, delta, formed = grads[0].to(x.dtype), ctx.delta, ctx.formed
        if formed is None:
            formed = form(delta, weight, x.dtype, tensors)
        dx = dy @ formed.weight if ctx.needs_input_grad[2] else None
        pulled = delta.pullback(rows(x), rows(dy), None if y is None else rows(y), *formed.working)
        constants = (None,) * (len(tensors) - len(pulled))
        pulled = tuple(
            g if g is None else g.to(p.dtype) for g, p in zip(pulled, tensors, strict=False)
        )
        return (None, None, dx, None, None, *pulled, *constants)


def form(delta: Delta, weight: Tensor, dtype: torch.dtype, tensors: Any) -> Formed:
    """W + delta W in ``dtype``, a new tensor, without gradient."""
    with torch.no_grad():
        return delta.form(weight.detach(), dtype, *(t.detach() for t in tensors))


def _capturing() -> bool:
    """Whether a CUDA graph is being captured, which would hold a kept weight as it is now."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype a linear layer computes in here: autocast's where it is on, else the weight's."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype
