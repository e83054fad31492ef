"""How MoRA's sharing operator shares out coordinates over groups (arXiv 2405.12130, App. B)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from methods.tensors import fit, outside_inference, summed, tile

Layout = Literal["strided", "contiguous"]


@dataclass(frozen=True)
class Groups:
    """``size`` coordinates shared out over ``side`` groups (Eq. 6, App. B).

    strided:    coordinate j belongs to group j mod side (Algorithm 1, the published type 1);
    contiguous: the first groups hold ceil(size / side) neighbours, the rest floor(size / side)
                (Algorithm 2). The paper's sentence about "adjacent" rows names this one, its
                algorithm for the main results the other; ``strided`` is therefore the default.
    wrap:       the published padding: the last stride is filled up with the first coordinates,
                which then belong to two groups.
    """

    size: int
    side: int
    layout: Layout
    wrap: bool = False

    @property
    def padding(self) -> int:
        """Coordinates that the last stride is short of ``side``; 0 where contiguous."""
        return -self.size % self.side if self.layout == "strided" else 0

    @property
    def split(self) -> tuple[int, int, int]:
        """Contiguous: how many groups are long, the length of those, the length of the others."""
        short, long_groups = divmod(self.size, self.side)
        return long_groups, short + 1, short

    def index(self, device: torch.device) -> Tensor:
        """(size,): the group of each coordinate."""
        return _group_index(self.size, self.side, self.layout, device)

    def gather(self, x: Tensor) -> Tensor:
        """Sum over each group: (..., size) -> (..., side)."""
        if self.layout == "strided":
            whole = self.size - self.size % self.side
            whole_strides = summed(x[..., :whole].unflatten(-1, (-1, self.side)), -2)
            if not self.padding:
                return whole_strides
            rest = x[..., whole:]  # padding all of x first would copy it
            if self.wrap:
                return whole_strides + torch.cat([rest, x[..., : self.padding]], dim=-1)
            return whole_strides + fit(rest, self.side)
        count, long, short = self.split
        head, tail = x[..., : count * long], x[..., count * long :]
        sums = [head.unflatten(-1, (count, long)).sum(-1)] if count else []
        if short:
            sums.append(tail.unflatten(-1, (self.side - count, short)).sum(-1))
        return fit(torch.cat(sums, dim=-1), self.side)

    def spread(self, y: Tensor) -> Tensor:
        """Give each coordinate its group's value: (..., side) -> (..., size)."""
        if self.layout == "strided":
            return tile(y, self.size)
        return y.index_select(-1, self.index(y.device))

    def used(self) -> int:
        """The rank of ``gather`` as a (side, size) matrix: a bound on the rank of delta W."""
        return min(self.side, self.size)


@lru_cache(maxsize=256)
@outside_inference
def _group_index(size: int, side: int, layout: Layout, device: torch.device) -> Tensor:
    j = torch.arange(size, device=device)
    if layout == "strided":
        return j % side
    short, long_groups = divmod(size, side)
    boundary = long_groups * (short + 1)
    return torch.where(
        j < boundary, j // (short + 1), long_groups + (j - boundary) // max(short, 1)
    )
