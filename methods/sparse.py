"""Sparse: as many trained values as LoRA, at fixed random places of the weight: a control.

    delta W[i, j] = v_k where (i, j) is the k-th place, 0 elsewhere;  r (d_in + d_out) places

MoRA's paper (arXiv 2405.12130) explains its gains over LoRA by the higher rank of delta W. This
delta W has LoRA's number of parameters and a high rank as well, but no structure at all: where
MoRA gains and this does not, it is the structure; where both gain, the rank. Fixed random masks as
a way of fine-tuning: Xu and Zhang 2024, arXiv 2405.02596.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import AdapterMethod, adapted_layers
from methods.errors import MethodError
from methods.layer import AdapterLinear, Delta, Formed
from methods.tensors import copied, wide

BLOCK = 2**24  # entries of the dense gradient that are formed at a time: 64 MB in fp32


class Sparse(AdapterMethod):
    """The values start at zero, and there is no scaling factor: alpha does not apply.

    seed: of the places, together with the layer's name; no global generator is touched. It is the
        run's, so no setting of the method. A saved adapter holds its places and is refused where
        its seed is another.
    """

    name, label = "sparse", "Sparse"

    def __init__(self, *, seed: int = 0, alpha: float | None = None, **shared: Any):
        super().__init__(**shared)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise MethodError(f"seed={seed!r} must be a whole number.")
        self.seed = seed

    def forward_settings(self) -> dict[str, Any]:
        return super().forward_settings() | {"seed": self.seed}

    def check_shape(self, d_in: int, d_out: int) -> None:
        super().check_shape(d_in, d_out)
        count = self.trainable_parameters(d_in, d_out)
        if count > d_in * d_out:
            raise MethodError(
                f"rank={self.rank} gives LoRA {count:,} parameters on a layer of {d_in} inputs and "
                f"{d_out} outputs, whose weight has {d_in * d_out:,} places. Lower rank or leave "
                f"the layer out of target_modules."
            )

    def adapt(self, linear: nn.Linear, name: str) -> AdapterLinear:
        d_in, d_out = linear.in_features, linear.out_features
        count = self.trainable_parameters(d_in, d_out)
        return AdapterLinear(
            linear,
            {"values": torch.zeros(count)},
            Scatter(),
            constants={"places": places(d_in * d_out, count, f"{self.seed}/{name}")},
            dropout=self.dropout,
            compute=self.compute,
        )

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        held = {f"{n}.places": layer.get_buffer("places") for n, layer in adapted_layers(model)}
        return super().state(model) | held

    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """The saved places count, not those drawn here: another torch may draw others."""
        state, found = dict(state), []
        for name, layer in adapted_layers(model):
            own, saved = layer.get_buffer("places"), state.pop(f"{name}.places", None)
            size = layer.in_features * layer.out_features
            if saved is None or saved.shape != own.shape or not _usable(saved, size):
                raise MethodError(
                    f"the saved adapter has no usable {name}.places: it is not Sparse at "
                    f"rank={self.rank}, or not of this model."
                )
            found.append((own, saved))
        super().load_state(model, state)
        for own, saved in found:
            own.copy_(saved)

    def trainable_parameters(self, d_in: int, d_out: int) -> int:
        return (d_in + d_out) * self.rank

    def max_rank(self, d_in: int, d_out: int) -> int:
        return min(d_in, d_out)  # reached where rows and columns have places enough


@dataclass(frozen=True)
class Scatter(Delta):
    """delta W is zero but for ``values`` at ``places``, flat indices i * d_in + j, ascending."""

    @property
    def kind(self) -> str:
        return "sparse"

    def form(self, weight: Tensor, dtype: torch.dtype, *tensors: Tensor) -> Formed:
        values, at = tensors
        formed = copied(weight, dtype)
        # No place occurs twice, so that nothing has to be added up.
        formed.view(-1)[at] = (weight.reshape(-1)[at] + values).to(dtype)
        return Formed(formed, (at,))

    def pullback(
        self, x: Tensor, dy: Tensor, y: Tensor | None, *working: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (gradient_at(working[0], x, dy),)

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        values, at = tensors
        y = F.linear(x, weight.to(x.dtype), bias)
        flat = x.new_zeros(weight.numel()).index_put((at,), values.to(x.dtype))
        return y + F.linear(dropped, flat.view(weight.shape))


def places(size: int, count: int, key: str) -> Tensor:
    """``count`` of the numbers below ``size``, drawn without replacement: ascending, int64.

    They are a function of the arguments alone.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    few = min(count, size - count)  # the smaller part is drawn: the places, or those left out
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < few:
        more = torch.randint(size, (few - len(drawn) + few // 8 + 8,), generator=generator)
        drawn = torch.cat([drawn, more]).unique()
    drawn = drawn[torch.randperm(len(drawn), generator=generator)[:few]]
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[drawn] = True
    return (chosen if few == count else ~chosen).nonzero().squeeze(1)


def gradient_at(at: Tensor, x: Tensor, dy: Tensor, block: int = BLOCK) -> Tensor:
    """(dy^T x) at flat places: x (n, d_in), dy (n, d_out) -> (places,) in fp32 or wider.

    dy^T x (d_out, d_in) is formed in rows of ``block`` entries at a time, as one product of
    matrices is much faster than a sum over gathered columns.
    """
    d_in, d_out = x.shape[1], dy.shape[1]
    rows = max(1, block // d_in)
    if rows >= d_out:
        return wide((dy.T @ x).flatten()[at])
    result = x.new_zeros(at.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    for start in range(0, d_out, rows):
        dense = wide(dy[:, start : start + rows].T @ x).flatten()
        within = at - start * d_in
        inside = (within >= 0) & (within < len(dense))
        result = torch.where(inside, dense[within.clamp(0, len(dense) - 1)], result)
    return result


def _usable(saved: Tensor, size: int) -> bool:
    """Whether these are ascending indices below ``size``, none of them twice."""
    if saved.dtype != torch.int64 or not len(saved):
        return False
    ascending = bool((saved.diff() > 0).all())
    return ascending and int(saved[0]) >= 0 and int(saved[-1]) < size
