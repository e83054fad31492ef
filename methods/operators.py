"""MoRA's compression operators (Jiang et al. 2024, arXiv 2405.12130, Eq. 4-11).

MoRA trains one square matrix M of shape (side, side) for a layer W of shape (d_out, d_in):

    y = W x + decompress(M compress(x)),        side = floor(sqrt((d_in + d_out) rank))

An operator is a choice of ``compress`` and ``decompress``, both free of parameters. Each class
below states them on activations and, independently, the delta W that they imply; it also pulls a
gradient of delta W back onto M from compressed activations, without ever forming that gradient.

``compat="exact"`` follows the paper where the paper is clear and uses every input and every
output at every shape. ``compat="published"`` follows the authors' code, which differs:

- ``side`` is rounded to the nearest integer, so that it may exceed LoRA's budget (exact: floored);
- inputs that do not fill the last chunk are padded by repeating the first inputs (exact: zeros);
- rotation pairs coordinate j with j + side/2 (exact: neighbours 2j and 2j + 1, Eq. 10-11);
- in decoupling and rotation, chunks of the output beyond d_out are cut, so that with
  d_in > d_out the last inputs reach no output (exact: neighbouring chunks share an output).

Shapes: x is (..., d_in), y is (..., d_out), a compressed x is (..., chunks, side).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from methods.blocks import along, angles, pairs_lie_together, phases, runs, shares
from methods.errors import MethodError
from methods.groups import Groups, Layout
from methods.tensors import add_, copied, fit, products, rows, summed, tile, wide

OperatorName = Literal["truncation", "sharing", "decoupling", "rotation"]
Compat = Literal["exact", "published"]


def side_length(d_in: int, d_out: int, rank: int, *, even: bool, compat: Compat = "exact") -> int:
    """Side r_hat of MoRA's square matrix, from LoRA's rank (sec. 4: r_hat^2 <= (d_in + d_out) r).

    Floored, so that MoRA never trains more than LoRA does; rotation takes the even number at or
    below it. The published code rounds to the nearest integer instead.

    Raises MethodError where a layer is so small that no pair is left to rotate.

    >>> side_length(4096, 4096, 8, even=True)
    256
    """
    budget = (d_in + d_out) * rank
    side = math.isqrt(budget)
    if compat == "published":
        side = int(math.sqrt(budget) + 0.5)
    side -= side % 2 if even else 0
    if side < 1:
        raise MethodError(
            f"a layer of {d_in} inputs and {d_out} outputs is too small for rotation at rank "
            f"{rank}: r_hat would be 0. Use another operator or leave the layer out of "
            f"target_modules."
        )
    return side


@dataclass(frozen=True)
class Operator(ABC):
    """A pair (compress, decompress) for a layer (d_out, d_in) and a matrix M (side, side)."""

    d_in: int
    d_out: int
    side: int
    compat: Compat = "exact"

    @abstractmethod
    def compress(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., chunks, side)."""

    @abstractmethod
    def decompress(self, y: Tensor) -> Tensor:
        """(..., chunks, side) -> (..., d_out)."""

    @abstractmethod
    def form(self, weight: Tensor, m: Tensor, dtype: torch.dtype) -> Tensor:
        """weight + delta W of m (side, side), a new (d_out, d_in) in ``dtype``, rounded once."""

    @abstractmethod
    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        """Gradient of sum(dy * (x delta W^T)) with respect to M.

        x (n, d_in), dy (n, d_out) -> (side, side) in fp32 or wider.
        """

    @abstractmethod
    def max_rank(self) -> int:
        """Highest rank that delta W can reach, over all M."""

    def delta_weight(self, m: Tensor) -> Tensor:
        """(side, side) -> (d_out, d_in)."""
        return self.form(m.new_zeros(self.d_out, self.d_in), m, m.dtype)

    def defined(self, x: Tensor, m: Tensor) -> Tensor:
        """decompress(M compress(x)), the definition: (..., d_in) -> (..., d_out)."""
        return self.decompress(self.compress(x) @ m.T)

    @abstractmethod
    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        """``defined`` with less work: (..., d_in) -> (..., d_out), in x's dtype."""


@dataclass(frozen=True)
class Truncation(Operator):
    """Eq. 4-5: keep the first ``side`` inputs; M sits in the upper left corner of delta W.

    The published code has no truncation; both settings of ``compat`` mean the same here.
    """

    def compress(self, x: Tensor) -> Tensor:
        return fit(x, self.side).unsqueeze(-2)

    def decompress(self, y: Tensor) -> Tensor:
        return fit(y.squeeze(-2), self.d_out)

    def form(self, weight: Tensor, m: Tensor, dtype: torch.dtype) -> Tensor:
        formed, corner = copied(weight, dtype), (slice(self.side), slice(self.side))
        delta = m[: self.d_out, : self.d_in].to(weight.dtype)
        add_(formed[corner], weight[corner], delta)
        return formed

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        y = linear(x[..., : self.side], m[: self.d_out, : self.d_in].to(x.dtype))
        return fit(y, self.d_out)

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        corner = wide(dy[:, : self.side].T @ x[:, : self.side])
        return pad(corner, (0, self.side - corner.shape[1], 0, self.side - corner.shape[0]))

    def max_rank(self) -> int:
        return min(self.side, self.d_in, self.d_out)


@dataclass(frozen=True)
class Sharing(Operator):
    """Eq. 6-7: inputs of a group are summed, outputs of a group are equal.

    delta W[i, j] = M[g'(i), g(j)]. The published types 1, 2, 3, 4 are (inputs / outputs)
    strided / strided, contiguous / contiguous, contiguous / strided, strided / contiguous.
    """

    input_groups: Layout = "strided"
    output_groups: Layout = "strided"

    @property
    def inputs(self) -> Groups:
        """How the d_in inputs are shared out over ``side`` groups (g in Eq. 6-7)."""
        return Groups(self.d_in, self.side, self.input_groups, wrap=self.compat == "published")

    @property
    def outputs(self) -> Groups:
        """How the d_out outputs are shared out over ``side`` groups (g' in Eq. 6-7)."""
        return Groups(self.d_out, self.side, self.output_groups)

    def compress(self, x: Tensor) -> Tensor:
        return self.inputs.gather(x).unsqueeze(-2)

    def decompress(self, y: Tensor) -> Tensor:
        return self.outputs.spread(y.squeeze(-2))

    def form(self, weight: Tensor, m: Tensor, dtype: torch.dtype) -> Tensor:
        spread = self.inputs.spread(m)  # (side, d_in)
        if self.inputs.wrap and self.inputs.padding:
            spread = spread + fit(m[:, self.side - self.inputs.padding :], self.d_in)
        spread = spread.to(weight.dtype)
        formed = torch.empty_like(weight, dtype=dtype)
        if self.output_groups == "contiguous":
            return torch.add(weight, self.outputs.spread(spread.T).T, out=formed)
        full = self.d_out - self.d_out % self.side  # whole tiles are broadcast, nothing is copied
        if full:
            tiles = (full // self.side, self.side)
            torch.add(
                weight[:full].unflatten(0, tiles), spread, out=formed[:full].unflatten(0, tiles)
            )
        if full < self.d_out:
            torch.add(weight[full:], spread[: self.d_out - full], out=formed[full:])
        return formed

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        return self.outputs.spread(linear(self.inputs.gather(x), m.to(x.dtype)))

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        return wide(self.outputs.gather(dy).T @ self.inputs.gather(x))

    def max_rank(self) -> int:
        return min(self.inputs.used(), self.outputs.used())


@dataclass(frozen=True)
class Decoupling(Operator):
    """Eq. 8: the input is cut into chunks of ``side``; the same M acts on each.

    With P = [P_0 | P_1 | ...] of shape (side, chunks side) and P_i = M, delta W takes for each
    chunk of the output some neighbouring columns of P: a block diagonal where d_in = d_out, the
    only case that the paper states. With more output chunks than input chunks the result is
    repeated, as in the published code. With more input chunks, each output chunk adds up two or
    more neighbours (the last ones take what is left over), so that no input is dead and delta W
    keeps its full rank; the published code leaves the last chunks without an output.

    A cell is what M's products are summed into: a chunk of the output, of those before repetition.
    """

    @property
    def n_in(self) -> int:
        """Chunks of ``side`` that the inputs fill, the last maybe in part: ceil(d_in / side)."""
        return -(-self.d_in // self.side)

    @property
    def n_out(self) -> int:
        """Chunks of ``side`` that the outputs fill: ceil(d_out / side)."""
        return -(-self.d_out // self.side)

    @property
    def cells(self) -> int:
        """How many different chunks the output has; it repeats them where it has more."""
        return min(self.n_in, self.n_out)

    @property
    def used(self) -> int:
        """Input chunks that reach an output: all of them, but in the published code."""
        return self.cells if self.compat == "published" else self.n_in

    @property
    def wrap(self) -> int:
        """Published: how many first inputs are repeated behind the last."""
        return -self.d_in % self.side if self.compat == "published" else 0

    def compress(self, x: Tensor) -> Tensor:
        return self._rotate(self._chunks(x), inverse=False)

    def decompress(self, y: Tensor) -> Tensor:
        return self._spread(self._gather(y))

    def form(self, weight: Tensor, m: Tensor, dtype: torch.dtype) -> Tensor:
        blocks, formed = self._blocks(m).flatten(1), copied(weight, dtype)
        if self.wrap and self.n_in == 1:  # the repeated inputs meet M twice
            blocks = blocks[:, : self.d_in] + fit(blocks[:, self.d_in :], self.d_in)
        blocks = blocks.to(weight.dtype)
        for run in runs(self.d_in, self.d_out, self.side, self.compat == "published"):
            if dtype == weight.dtype:
                run.of_formed(formed).add_(run.of_blocks(blocks))
            else:  # the sum is rounded once
                run.of_formed(formed).copy_(run.of_weight(weight) + run.of_blocks(blocks))
        return formed

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        return self._spread(linear(self._gather(self._chunks(x)), m.to(x.dtype)))

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        cells = self._gather(self._chunks(x))
        return wide(self._fold(dy).flatten(0, 1).T @ cells.flatten(0, 1))

    def max_rank(self) -> int:
        return min(self.d_in, self.d_out)

    def _padded(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., used side)."""
        if self.wrap and self.used == self.n_in:
            x = torch.cat([x, x[..., : self.wrap]], dim=-1)
        return fit(x, self.used * self.side)

    def _chunks(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., used, side)."""
        return self._padded(x).unflatten(-1, (self.used, self.side))

    def _gather(self, chunks: Tensor) -> Tensor:
        """Add up the chunks of each cell: (..., used, side) -> (..., cells, side)."""
        if self.used == self.cells:
            return chunks
        parts, start = [], 0
        for cells, size in shares(self.used, self.cells):
            part = chunks[..., start : start + cells * size, :]
            parts.append(summed(part.unflatten(-2, (cells, size)), -2))
            start += cells * size
        return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]

    def _spread(self, y: Tensor) -> Tensor:
        """Lay out the cells, again and again: (..., cells, side) -> (..., d_out)."""
        return tile(y.flatten(-2), self.d_out)

    def _fold(self, dy: Tensor) -> Tensor:
        """What ``_spread`` is to a gradient, its transpose: (n, d_out) -> (n, cells, side)."""
        width = self.cells * self.side
        whole = self.d_out // width
        if self.d_out <= width:
            folded = fit(dy, width)
        else:
            folded = summed(dy[:, : whole * width].unflatten(1, (whole, width)), 1)
            rest = self.d_out - whole * width
            if rest:
                folded[:, :rest] += dy[:, whole * width :]
        return folded.unflatten(1, (self.cells, self.side))

    def _blocks(self, m: Tensor) -> Tensor:
        """P_i = M R_i for each chunk: (side, side) -> (side, used, side), a new tensor."""
        return m.unsqueeze(1).repeat(1, self.used, 1)

    def _rotate(self, chunks: Tensor, *, inverse: bool) -> Tensor:
        """Rotate (..., used, side): chunk i by R_i, or back."""
        return chunks


@dataclass(frozen=True)
class Rotation(Decoupling):
    """Eq. 9: decoupling, with chunk i rotated by R_i first, so that the blocks differ: P_i = M R_i.

    R_i turns each pair of coordinates by the angle i * theta_j, theta_j = 10000^(-2j / side)
    (Eq. 10-11; i and j count from 0 here, as in the published code, so chunk 0 is not turned).
    It is M that is turned, and its gradient, never an activation.
    """

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        blocks = self._blocks(m).flatten(1).to(x.dtype)  # P (side, used side)
        parts = [
            torch.bmm(mine.transpose(0, 1), own.permute(1, 2, 0))
            for mine, own in zip(self._shared(rows(x)), self._shared(blocks), strict=True)
        ]
        y = torch.cat(parts) if len(parts) > 1 else parts[0]  # (cells, n, side)
        return self._spread(y.transpose(0, 1)).reshape(*x.shape[:-1], self.d_out)

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        cells = self._fold(dy).permute(1, 2, 0)
        made: list[Tensor] = []
        first = start = 0
        for mine in self._shared(x):
            count, size = mine.shape[1], mine.shape[2] // self.side
            # dP_i for the chunks i that each cell adds up: (count, side, size, side).
            blocks = wide(products(cells[first : first + count], mine.transpose(0, 1)))
            blocks = blocks.unflatten(-1, (size, self.side))
            # dM = sum of dP_i R_i^T: the rows of each dP_i are turned.
            made.append(self._rotate(blocks, inverse=False, laid=(start, count, size)).sum((0, 2)))
            first, start = first + count, start + count * size
        return sum(made[1:], made[0])

    def _shared(self, x: Tensor) -> list[Tensor]:
        """The inputs that cells add up: (n, d_in) -> (n, cells, chunks of each times side)."""
        x, made, start = self._padded(x), [], 0
        for cells, size in shares(self.used, self.cells):
            end = start + cells * size * self.side
            made.append(x[:, start:end].unflatten(1, (cells, size * self.side)))
            start = end
        return made

    def _blocks(self, m: Tensor) -> Tensor:
        # (M R_i) x = M (R_i x): the rows of M are turned back.
        return self._rotate(m.unsqueeze(1), inverse=True)

    def _rotate(
        self, chunks: Tensor, *, inverse: bool, laid: tuple[int, int, int] | None = None
    ) -> Tensor:
        """laid: first chunk, cells, and chunks of each, where these are (cells, ., size, side)."""
        adjacent = self.compat == "exact"
        if adjacent and pairs_lie_together(chunks):
            turns = phases(self.used, self.side, inverse, chunks.dtype, chunks.device)
            pairs = torch.view_as_complex(chunks.unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * along(turns, laid)).flatten(-2)
        cos, sin = (
            along(table, laid)
            for table in angles(self.used, self.side, adjacent, chunks.dtype, chunks.device)
        )
        if adjacent:
            partner = chunks.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            partner = chunks.roll(self.side // 2, dims=-1)
        return torch.addcmul(chunks * cos, partner, sin, value=-1 if inverse else 1)


def build(
    name: OperatorName,
    d_in: int,
    d_out: int,
    rank: int,
    *,
    input_groups: Layout = "strided",
    output_groups: Layout = "strided",
    compat: Compat = "exact",
) -> Operator:
    """The operator of a layer (d_out, d_in) at LoRA's ``rank``.

    Raises MethodError for an unknown name, layout or compat, and where the published code has no
    result (its padding is too short when d_in < side / 2).
    """
    check_names(name, input_groups, output_groups, compat)
    side = side_length(d_in, d_out, rank, even=name == "rotation", compat=compat)
    wraps = compat == "published" and (
        name in ("rotation", "decoupling") or (name == "sharing" and input_groups == "strided")
    )
    if wraps and 2 * d_in < side:
        raise MethodError(
            f"the published MoRA cannot run a layer of {d_in} inputs at r_hat = {side}: it pads by "
            f"repeating inputs and needs at least {-(-side // 2)}. Use compat=exact or a "
            f"lower rank."
        )
    if name == "sharing":
        return Sharing(d_in, d_out, side, compat, input_groups, output_groups)
    kinds: dict[str, type[Truncation | Decoupling]]
    kinds = {"truncation": Truncation, "decoupling": Decoupling, "rotation": Rotation}
    return kinds[name](d_in, d_out, side, compat)


def check_names(name: str, input_groups: str, output_groups: str, compat: str) -> None:
    """Raises MethodError for an unknown operator, layout or compat, naming the allowed ones."""
    for value, allowed, what in (
        (name, get_args(OperatorName), "operator"),
        (input_groups, get_args(Layout), "input_groups"),
        (output_groups, get_args(Layout), "output_groups"),
        (compat, get_args(Compat), "compat"),
    ):
        if value not in allowed:
            raise MethodError(f"{what}={value!r} is unknown; choose {' | '.join(allowed)}.")
