"""Where the blocks of delta W lie in MoRA's decoupling and rotation, and by what they are turned.

The inputs and outputs of a layer are cut into chunks of ``side``; an input chunk i meets an output
chunk in a block P_i (side, side) of P = [P_0 | P_1 | ...]. Blocks of one size that follow one
another down a diagonal are one strided view, so that delta W is a handful of calls, whatever the
number of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from methods.tensors import outside_inference


@dataclass(frozen=True)
class Run:
    """``count`` blocks down a diagonal, and the same ``times`` times, each ``period`` rows lower.

    Block i: delta W[row + i rows :, col + i cols :][:rows, :cols] = P[:rows, source + i cols :]
    [:, :cols].
    """

    row: int
    rows: int
    col: int
    cols: int
    source: int
    count: int = 1
    times: int = 1
    period: int = 0

    def of_formed(self, formed: Tensor) -> Tensor:
        """A view of the blocks in a new tensor (d_out, d_in): (times, count, rows, cols)."""
        down, right = formed.stride()  # one view: a compiler follows no changes through two
        return formed.as_strided(*self._laid_out(formed), self.row * down + self.col * right)

    def of_weight(self, weight: Tensor) -> Tensor:
        """The same view of any tensor (d_out, d_in), to read."""
        return weight[self.row :, self.col :].as_strided(*self._laid_out(weight))

    def of_blocks(self, blocks: Tensor) -> Tensor:
        """A view of the same in P (side, columns): (count, rows, cols)."""
        down, right = blocks.stride()
        return blocks[:, self.source :].as_strided(
            (self.count, self.rows, self.cols), (self.cols * right, down, right)
        )

    def _laid_out(self, weight: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        down, right = weight.stride()
        return (
            (self.times, self.count, self.rows, self.cols),
            (self.period * down, self.rows * down + self.cols * right, down, right),
        )

    def continued_by(self, other: Run) -> bool:
        """Whether ``other``, a single block, is the next one down the diagonal."""
        return other == replace(
            self,
            row=self.row + self.count * self.rows,
            col=self.col + self.count * self.cols,
            source=self.source + self.count * self.cols,
            count=1,
        )


def shares(chunks: int, cells: int) -> tuple[tuple[int, int], ...]:
    """How neighbouring chunks share cells: (cells, chunks of each), the last cells take one more.

    >>> shares(11, 4)
    ((1, 2), (3, 3))
    """
    few, extra = divmod(chunks, cells)
    return tuple((n, size) for n, size in ((cells - extra, few), (extra, few + 1)) if n)


@lru_cache(maxsize=256)
def runs(d_in: int, d_out: int, side: int, published: bool) -> tuple[Run, ...]:
    """The blocks of delta W (d_out, d_in), see ``methods.operators.Decoupling``."""
    n_in, n_out = -(-d_in // side), -(-d_out // side)
    wrap = -d_in % side if published else 0
    if n_in <= n_out or published:
        sources = [range(o % n_in, o % n_in + 1) for o in range(n_out)]
    else:
        sizes = [size for cells, size in shares(n_in, n_out) for _ in range(cells)]
        starts = [sum(sizes[:o]) for o in range(n_out + 1)]
        sources = [range(a, b) for a, b in pairwise(starts)]
    pieces = []
    for o, chunks in enumerate(sources):
        row, col = o * side, chunks.start * side
        rows, end = min(side, d_out - row), min(chunks.stop * side, d_in)
        pieces.append(Run(row, rows, col, end - col, source=col))
        if wrap and n_in > 1 and chunks.stop == n_in:  # with one chunk, P itself is folded
            pieces.append(Run(row, rows, 0, wrap, source=d_in))
    width = n_in * side
    whole = d_out // width
    if not whole:
        return _merged(pieces)
    first = _merged(p for p in pieces if p.row < width)
    rest = _merged(p for p in pieces if p.row >= whole * width)
    return tuple(replace(run, times=whole, period=width) for run in first) + rest


def _merged(pieces: Iterable[Run]) -> tuple[Run, ...]:
    found: list[Run] = []
    for piece in pieces:
        if found and found[-1].continued_by(piece):
            found[-1] = replace(found[-1], count=found[-1].count + 1)
        else:
            found.append(piece)
    return tuple(found)


@lru_cache(maxsize=256)
@outside_inference
def angles(
    chunks: int, side: int, adjacent: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin of i * theta_j for each coordinate, (chunks, side): a rotated coordinate is
    cos * itself + sin * its partner, so that sin carries the sign of that partner."""
    j = torch.arange(side // 2, dtype=torch.float64)
    angle = torch.outer(torch.arange(chunks, dtype=torch.float64), 10000.0 ** (-2 * j / side))
    pair = torch.stack([angle, angle], dim=-1 if adjacent else 1)
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    sin = pair.sin() * (sign if adjacent else sign.unsqueeze(-1))
    return pair.cos().flatten(1).to(device, dtype), sin.flatten(1).to(device, dtype)


@lru_cache(maxsize=256)
@outside_inference
def phases(
    chunks: int, side: int, inverse: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """exp(i k theta_j), or its inverse, for chunk k and pair j: (chunks, side / 2), complex.

    Neighbours 2j and 2j + 1 are the parts of a complex number, which one product turns.
    """
    cos, sin = angles(chunks, side, True, dtype, device)
    sin = sin[:, 1::2]
    return torch.complex(cos[:, ::2].contiguous(), (-sin if inverse else sin).contiguous())


def pairs_lie_together(x: Tensor) -> bool:
    """Whether neighbours of the last dimension can be seen as complex numbers, and may be.

    Compilers make no code for these, and half precision has none.
    """
    return (
        x.dtype in (torch.float32, torch.float64)
        and x.device.type in ("cpu", "cuda")
        and not torch.compiler.is_compiling()
        and x.stride(-1) == 1
        and not any(step % 2 for step in (x.storage_offset(), *x.stride()[:-1]))
    )


def along(table: Tensor, laid: tuple[int, int, int] | None) -> Tensor:
    """A table (chunks, ...) for chunks (cells, ., size, ...); as it is for chunks (..., chunks, .).

    laid: the first chunk, cells, and chunks of each.
    """
    if laid is None:
        return table
    first, cells, size = laid
    return table[first : first + cells * size].unflatten(0, (cells, size)).unsqueeze(1)
