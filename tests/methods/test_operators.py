"""MoRA's operators against oracles written as loops, straight from the paper's definitions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods import MethodError, operators
from methods.operators import Operator
from methods.tensors import ONE_BY_ONE, products, summed
from tests.methods.conftest import SHAPES

LAYOUTS = ("strided", "contiguous")
KINDS = [
    *((name, "strided", "strided") for name in ("truncation", "decoupling", "rotation")),
    *(("sharing", i, o) for i in LAYOUTS for o in LAYOUTS),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)
every_compat = pytest.mark.parametrize("compat", ["exact", "published"])
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def build(kind: tuple[str, str, str], shape: tuple[int, int], rank: int, compat: str) -> Operator:
    name, input_groups, output_groups = kind
    return operators.build(
        name, *shape, rank, input_groups=input_groups, output_groups=output_groups, compat=compat
    )


# ----------------------------------------------------------------------------------- the oracles


def group_of(size: int, side: int, layout: str) -> list[int]:
    """Group of each coordinate (sec. 4, App. B): every side-th one, or neighbours."""
    if layout == "strided":
        return [j % side for j in range(size)]
    groups: list[int] = []
    for group in range(side):
        length = size // side + (1 if group < size % side else 0)
        groups += [group] * length
    return groups


def rotation_matrix(chunk: int, side: int, compat: str) -> np.ndarray:
    """R_i: 2 x 2 rotations by i * theta_j; neighbours (Eq. 10-11), or j with j + side / 2."""
    matrix = np.zeros((side, side))
    for j in range(side // 2):
        angle = chunk * 10000 ** (-2 * j / side)
        a, b = (2 * j, 2 * j + 1) if compat == "exact" else (j, j + side // 2)
        matrix[a, a], matrix[a, b] = math.cos(angle), -math.sin(angle)
        matrix[b, a], matrix[b, b] = math.sin(angle), math.cos(angle)
    return matrix


def oracle(
    kind: tuple[str, str, str], d_in: int, d_out: int, m: np.ndarray, compat: str
) -> np.ndarray:
    """delta W (d_out, d_in), entry by entry."""
    name, input_groups, output_groups = kind
    side = len(m)
    delta = np.zeros((d_out, d_in))
    if name == "truncation":  # Eq. 5
        for i in range(min(side, d_out)):
            for j in range(min(side, d_in)):
                delta[i, j] = m[i, j]
        return delta
    padded = d_in
    if compat == "published" and not (name == "sharing" and input_groups == "contiguous"):
        padded = math.ceil(d_in / side) * side  # filled up with the first inputs again
    source = [j if j < d_in else j - d_in for j in range(padded)]
    if name == "sharing":  # Eq. 7
        columns = group_of(padded, side, input_groups)
        rows = group_of(d_out, side, output_groups)
        for i in range(d_out):
            for j in range(padded):
                delta[i, source[j]] += m[rows[i], columns[j]]
        return delta
    n_in, n_out = math.ceil(d_in / side), math.ceil(d_out / side)
    for chunk in range(n_in):
        block = m @ rotation_matrix(chunk, side, compat) if name == "rotation" else m
        for i in range(d_out):
            if compat == "published" or n_in <= n_out:  # chunks follow one another, repeated
                meets = i // side % n_in == chunk
            else:  # neighbours share an output chunk, the last outputs take one more
                few, extra = n_in // n_out, n_in % n_out
                shares = [few] * (n_out - extra) + [few + 1] * extra
                meets = sum(shares[: i // side]) <= chunk < sum(shares[: i // side + 1])
            for j in range(chunk * side, min((chunk + 1) * side, padded)):
                if meets:
                    delta[i, source[j]] += block[i % side, j % side]
    return delta


def random_matrix(side: int) -> Tensor:
    return torch.randn(
        side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side)
    )


# ------------------------------------------------------------------------------------- the tests


@every_kind
@every_compat
@every_shape
def test_delta_weight_is_the_oracles(kind, shape, compat) -> None:
    op = build(kind, shape, 8, compat)
    m = random_matrix(op.side)
    expected = torch.from_numpy(oracle(kind, *shape, m.numpy(), compat))
    torch.testing.assert_close(op.delta_weight(m), expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn(shape[1], shape[0], dtype=torch.float64)
    formed = op.form(weight, m, torch.float64)
    torch.testing.assert_close(formed, weight + expected, rtol=1e-10, atol=1e-12)
    strided = torch.stack([weight, weight], dim=-1)[..., 0]
    assert not strided.is_contiguous() and torch.equal(op.form(strided, m, torch.float64), formed)
    narrow = op.form(weight.float(), m.float(), torch.bfloat16)
    assert torch.equal(narrow, op.form(weight.float(), m.float(), torch.float32).bfloat16())


@every_kind
@every_compat
@every_shape
def test_activations_and_gradients_follow_delta_weight(kind, shape, compat) -> None:
    op = build(kind, shape, 8, compat)
    m = random_matrix(op.side).requires_grad_()
    x = torch.randn(3, 5, shape[0], dtype=torch.float64)
    dy = torch.randn(3, 5, shape[1], dtype=torch.float64)
    y = op.apply(x, m)
    torch.testing.assert_close(y, x @ op.delta_weight(m.detach()).T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(op.defined(x, m), y, rtol=1e-10, atol=1e-10)
    (expected,) = torch.autograd.grad((y * dy).sum(), m)
    pulled = op.pullback(x.reshape(-1, shape[0]), dy.reshape(-1, shape[1]))
    torch.testing.assert_close(pulled, expected, rtol=1e-10, atol=1e-10)


@every_kind
@every_compat
@every_shape
def test_rank_reached_is_the_one_stated(kind, shape, compat) -> None:
    op = build(kind, shape, 8, compat)
    rank = torch.linalg.matrix_rank(op.delta_weight(random_matrix(op.side)))
    assert rank == op.max_rank()


def dead_inputs(op: Operator) -> int:
    return int((op.delta_weight(random_matrix(op.side)).abs().sum(0) == 0).sum())


def test_published_rotation_leaves_inputs_dead_and_exact_does_not() -> None:
    published = operators.Rotation(172, 64, side=16, compat="published")
    assert dead_inputs(published) == 108
    assert dead_inputs(operators.Rotation(172, 64, side=16)) == 0
    # LLaMA-2 7B's down_proj at r = 8: 4,176 of 11,008 inputs are ever used.
    down = build(("rotation", "strided", "strided"), (11008, 4096), 8, "published")
    assert down.n_out * down.side == 4176


@pytest.mark.parametrize("kind", [k for k in KINDS if k[0] != "truncation"], ids="-".join)
@every_shape
def test_exact_uses_every_input_and_output(kind, shape) -> None:
    delta = build(kind, shape, 8, "exact").delta_weight
    side = build(kind, shape, 8, "exact").side
    weight = delta(random_matrix(side)).abs()
    assert (weight.sum(0) > 0).all() and (weight.sum(1) > 0).all()


def test_side_is_the_papers_and_within_budget() -> None:
    assert operators.side_length(4096, 4096, 8, even=True) == 256
    assert operators.side_length(4096, 4096, 256, even=False) == 1448
    # LLaMA-2 7B's MLP at r = 8: the published rounding exceeds LoRA's 120,832 parameters.
    assert operators.side_length(4096, 11008, 8, even=False) == 347
    published = operators.side_length(4096, 11008, 8, even=True, compat="published")
    assert published == 348 and published**2 == 121_104 > (4096 + 11008) * 8


def test_contiguous_and_strided_groups_partition_the_inputs() -> None:
    contiguous = operators.Groups(10, 4, "contiguous").index(torch.device("cpu"))
    assert contiguous.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    strided = operators.Groups(10, 4, "strided").index(torch.device("cpu"))
    assert strided.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_published_code_has_no_result_where_its_padding_is_too_short() -> None:
    with pytest.raises(MethodError, match=r"4 inputs at r_hat = 20.*compat=exact"):
        build(("rotation", "strided", "strided"), (4, 100), 4, "published")
    contiguous = build(("sharing", "contiguous", "contiguous"), (4, 100), 4, "published")
    assert contiguous.delta_weight(random_matrix(contiguous.side)).shape == (100, 4)


def test_unknown_names_list_the_known_ones() -> None:
    for name, known in (
        ("operator", "truncation | sharing | decoupling | rotation"),
        ("input_groups", "strided | contiguous"),
        ("compat", "exact | published"),
    ):
        names = {"operator": "sharing", "input_groups": "strided", "compat": "exact"}
        names[name] = "moebius"
        with pytest.raises(MethodError) as error:
            operators.check_names(
                names["operator"], names["input_groups"], "strided", names["compat"]
            )
        assert f"{name}='moebius'" in str(error.value) and known in str(error.value)


# ------------------------------------------------------------------------- properties, any shape


@st.composite
def cases(draw) -> Iterator[tuple[tuple[str, str, str], tuple[int, int], int, str]]:
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    rank = draw(st.integers(1, min(shape)))
    return draw(st.sampled_from(KINDS)), shape, rank, draw(st.sampled_from(["exact", "published"]))


@given(cases())
@settings(max_examples=300, deadline=None)
def test_any_shape_and_rank(case) -> None:
    kind, shape, rank, compat = case
    try:
        op = build(kind, shape, rank, compat)
    except MethodError as error:
        side = operators.side_length(*shape, rank, even=False, compat=compat)
        too_small = "too small for rotation" in str(error) and side < 2
        assert too_small or (compat == "published" and 2 * shape[0] < side)
        return
    if compat == "exact":
        assert op.side**2 <= (shape[0] + shape[1]) * rank
    m = random_matrix(op.side).requires_grad_()
    delta = torch.from_numpy(oracle(kind, *shape, m.detach().numpy(), compat))
    torch.testing.assert_close(op.delta_weight(m.detach()), delta, rtol=1e-9, atol=1e-10)
    x = torch.randn(4, shape[0], dtype=torch.float64)
    dy = torch.randn(4, shape[1], dtype=torch.float64)
    y = op.apply(x, m)
    torch.testing.assert_close(y, x @ delta.T, rtol=1e-9, atol=1e-9)
    (expected,) = torch.autograd.grad((y * dy).sum(), m)
    torch.testing.assert_close(op.pullback(x, dy), expected, rtol=1e-9, atol=1e-9)
    assert torch.linalg.matrix_rank(delta) <= op.max_rank() <= min(shape)


@pytest.mark.parametrize(("d_in", "d_out"), [(24, 24), (24, 64), (64, 24), (50, 34), (90, 24)])
def test_turning_complex_numbers_is_turning_pairs(d_in: int, d_out: int, monkeypatch) -> None:
    """With one product where neighbours lie together in memory, else number by number."""
    rotation = operators.build("rotation", d_in, d_out, 4)
    m = torch.randn(rotation.side, rotation.side)
    x, dy = torch.randn(7, d_in), torch.randn(7, d_out)

    def everything(m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = rotation.delta_weight(m), rotation.apply(x, m), rotation.pullback(x, dy)
        return (*found, rotation.compress(x))

    turned = everything(m)
    moved = torch.cat([m.new_zeros(1), m.flatten()])[1:].view_as(m)  # at an odd place in memory
    for other in (everything(moved), everything(m)):
        for mine, expected in zip(other, turned, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
        monkeypatch.setattr("methods.operators.pairs_lie_together", lambda x: False)


@pytest.mark.parametrize("n", [5, ONE_BY_ONE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_views_are_those_of_torch(n: int, dtype: torch.dtype) -> None:
    a = torch.randn(n, 3, 4).to(dtype).permute(1, 2, 0)
    b = torch.randn(n, 3, 6).to(dtype).transpose(0, 1)
    expected = torch.bmm(a.double(), b.double())
    torch.testing.assert_close(products(a, b).double(), expected, rtol=2e-2, atol=1e-1)


def test_two_are_summed_as_any() -> None:
    x = torch.randn(5, 2, 3).to(torch.bfloat16)
    assert torch.equal(summed(x, 1), x.sum(1))
    assert torch.equal(summed(x, 0), x.sum(0))
