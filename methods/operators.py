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
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.errors import MethodError
from methods.groups import Groups, Layout
from methods.tensors import fit, outside_inference, wide

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
    def add_delta_(self, weight: Tensor, m: Tensor) -> None:
        """weight (d_out, d_in) += delta W of m (side, side), in place."""

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
        weight = m.new_zeros(self.d_out, self.d_in)
        self.add_delta_(weight, m)
        return weight

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        """decompress(M compress(x)), the definition: (..., d_in) -> (..., d_out)."""
        return self.decompress(self.compress(x) @ m.T)


@dataclass(frozen=True)
class Truncation(Operator):
    """Eq. 4-5: keep the first ``side`` inputs; M sits in the upper left corner of delta W.

    The published code has no truncation; both settings of ``compat`` mean the same here.
    """

    def compress(self, x: Tensor) -> Tensor:
        return fit(x, self.side).unsqueeze(-2)

    def decompress(self, y: Tensor) -> Tensor:
        return fit(y.squeeze(-2), self.d_out)

    def add_delta_(self, weight: Tensor, m: Tensor) -> None:
        weight[: self.side, : self.side] += m[: self.d_out, : self.d_in]

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

    def add_delta_(self, weight: Tensor, m: Tensor) -> None:
        rows = self.inputs.spread(m)  # (side, d_in)
        if self.inputs.wrap and self.inputs.padding:
            rows[:, : self.inputs.padding] += m[:, self.side - self.inputs.padding :]
        rows = rows.to(weight.dtype)
        if self.output_groups == "contiguous":
            weight += rows.index_select(0, self.outputs.index(m.device))
            return
        full = self.d_out - self.d_out % self.side  # whole tiles are broadcast, nothing is copied
        weight[:full].view(-1, self.side, self.d_in).add_(rows)
        weight[full:] += rows[: self.d_out - full]

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        return wide(self.outputs.gather(dy).T @ self.inputs.gather(x))

    def max_rank(self) -> int:
        return min(self.inputs.used(), self.outputs.used())


@dataclass(frozen=True)
class Piece:
    """delta W[row : row + rows, col : col + cols] = P[: rows, from_col : from_col + cols]."""

    row: int
    rows: int
    col: int
    cols: int
    from_col: int


@dataclass(frozen=True)
class Decoupling(Operator):
    """Eq. 8: the input is cut into chunks of ``side``; the same M acts on each.

    With P = [P_0 | P_1 | ...] of shape (side, n_in side) and P_i = M, delta W takes for each chunk
    of the output some neighbouring columns of P: a block diagonal where d_in = d_out, the only case
    that the paper states. With more output chunks than input chunks the result is repeated, as in
    the published code. With more input chunks, each output chunk adds up two or more neighbours
    (the last ones take what is left over), so that no input is dead and delta W keeps its full
    rank; the published code leaves the last chunks without an output.
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
    def wrap(self) -> int:
        """Published: how many first inputs are repeated behind the last."""
        return -self.d_in % self.side if self.compat == "published" else 0

    @property
    def sources(self) -> tuple[range, ...]:
        """The input chunks that each output chunk adds up."""
        if self.n_in <= self.n_out or self.compat == "published":
            return tuple(range(o % self.n_in, o % self.n_in + 1) for o in range(self.n_out))
        few, extra = divmod(self.n_in, self.n_out)
        starts = [o * few + max(0, o + extra - self.n_out) for o in range(self.n_out + 1)]
        return tuple(range(a, b) for a, b in pairwise(starts))

    def compress(self, x: Tensor) -> Tensor:
        if self.wrap:
            x = torch.cat([x, x[..., : self.wrap]], dim=-1)
        chunks = fit(x, self.n_in * self.side).unflatten(-1, (self.n_in, self.side))
        return self._rotate(chunks, inverse=False)

    def decompress(self, y: Tensor) -> Tensor:
        chunks = [y[..., source.start : source.stop, :].sum(-2) for source in self.sources]
        return torch.cat(chunks, dim=-1)[..., : self.d_out]

    def add_delta_(self, weight: Tensor, m: Tensor) -> None:
        blocks = self._blocks(m).to(weight.dtype)
        for p in _pieces(self):
            weight[p.row : p.row + p.rows, p.col : p.col + p.cols] += blocks[
                : p.rows, p.from_col : p.from_col + p.cols
            ]

    def pullback(self, x: Tensor, dy: Tensor) -> Tensor:
        """One small product a piece gives dP; the rotation is undone on dP, not on x."""
        width = self.n_in * self.side
        dy = self._fold(dy, width)
        dtype = torch.promote_types(x.dtype, torch.float32)
        blocks = x.new_zeros(self.side, width, dtype=dtype)
        for p in _pieces(self):
            if p.row < width:
                blocks[: p.rows, p.from_col : p.from_col + p.cols] += (
                    dy[:, p.row : p.row + p.rows].T @ x[:, p.col : p.col + p.cols]
                )
        # dM = sum of dP_i R_i^T: the rows of each dP_i are turned.
        return self._rotate(blocks.unflatten(-1, (self.n_in, self.side)), inverse=False).sum(-2)

    def max_rank(self) -> int:
        return min(self.d_in, self.d_out)

    def _fold(self, dy: Tensor, width: int) -> Tensor:
        """Add the gradients of outputs that are repeated: (n, d_out) -> (n, <= width)."""
        if self.d_out <= width:
            return dy
        folded = dy[:, :width].clone()
        for repeated in dy[:, width:].split(width, dim=1):
            folded[:, : repeated.shape[1]] += repeated
        return folded

    def _blocks(self, m: Tensor) -> Tensor:
        """P = [P_0 | P_1 | ...] with P_i = M R_i: (side, side) -> (side, n_in side)."""
        # (M R_i) x = M (R_i x): the rows of M are turned back.
        return self._rotate(m.unsqueeze(-2).expand(-1, self.n_in, -1), inverse=True).flatten(1)

    def _rotate(self, chunks: Tensor, *, inverse: bool) -> Tensor:
        """Rotate (..., n_in, side): chunk i by R_i, or back."""
        return chunks


@dataclass(frozen=True)
class Rotation(Decoupling):
    """Eq. 9: decoupling, with chunk i rotated by R_i first, so that the blocks differ: P_i = M R_i.

    R_i turns each pair of coordinates by the angle i * theta_j, theta_j = 10000^(-2j / side)
    (Eq. 10-11; i and j count from 0 here, as in the published code, so chunk 0 is not turned).
    """

    def _rotate(self, chunks: Tensor, *, inverse: bool) -> Tensor:
        adjacent = self.compat == "exact"
        cos, sin = _angles(self.n_in, self.side, adjacent, chunks.dtype, chunks.device)
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


@lru_cache(maxsize=256)
def _pieces(op: Decoupling) -> tuple[Piece, ...]:
    """The blocks of delta W, from top to bottom."""
    pieces = []
    for o, chunks in enumerate(op.sources):
        row, col = o * op.side, chunks.start * op.side
        rows = min(op.side, op.d_out - row)
        end = min(chunks.stop * op.side, op.d_in)
        pieces.append(Piece(row, rows, col, end - col, from_col=col))
        if op.wrap and chunks.stop == op.n_in:
            pieces.append(Piece(row, rows, 0, op.wrap, from_col=op.d_in))
    return tuple(pieces)


@lru_cache(maxsize=256)
@outside_inference
def _angles(
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
