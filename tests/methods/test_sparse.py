"""Sparse: LoRA's budget at fixed random places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods import MethodError, load_adapter
from methods.base import adapted_layers
from methods.contract import llama
from methods.lora import LoRA
from methods.sparse import Sparse, gradient_at, places
from tests.methods.conftest import SHAPES, Shapes


def attached(seed: int = 0, rank: int = 8) -> Shapes:
    model = Shapes(torch.float64)
    Sparse(rank=rank, seed=seed, target_modules=["layers.*"]).attach(model)
    return model


def drawn(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.get_buffer("places") for name, layer in adapted_layers(model)}


@given(st.integers(1, 400), st.data())
@settings(max_examples=200, deadline=None)
def test_places_are_distinct_ascending_and_within_the_weight(size: int, data) -> None:
    count = data.draw(st.integers(1, size))
    found = places(size, count, "0/layer")
    assert found.shape == (count,) and found.dtype == torch.int64
    assert bool((found.diff() > 0).all()) and found[0] >= 0 and found[-1] < size
    assert torch.equal(found, places(size, count, "0/layer"))


@pytest.mark.parametrize("count", [3, 17])  # below and above half: places drawn, places left out
def test_every_place_is_as_likely(count: int) -> None:
    draws = 4000
    hits = torch.zeros(20)
    for i in range(draws):
        hits[places(20, count, str(i))] += 1
    share = count / 20
    assert (hits / draws - share).abs().max() < 5 * (share * (1 - share) / draws) ** 0.5


def test_places_depend_on_seed_and_layer_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = drawn(attached())
    torch.manual_seed(2)
    again, other = drawn(attached()), drawn(attached(seed=1))
    assert all(torch.equal(p, again[n]) for n, p in first.items())
    assert not any(torch.equal(p, other[n]) for n, p in first.items())
    one, two = (Sparse(rank=8).adapt(nn.Linear(64, 64), name) for name in ("one", "two"))
    assert not torch.equal(one.get_buffer("places"), two.get_buffer("places"))
    torch.manual_seed(1)
    places(1000, 10, "x")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_budget_is_lora_s_and_the_rank_is_not() -> None:
    sparse, lora = Sparse(rank=8), LoRA(rank=8)
    model = attached()
    generator = torch.Generator().manual_seed(0)
    for name, layer in adapted_layers(model):
        d_in, d_out = SHAPES[name.removeprefix("layers.")]
        assert sum(p.numel() for p in layer.adapter_parameters) == lora.trainable_parameters(
            d_in, d_out
        )
        with torch.no_grad():
            layer.values.copy_(torch.randn(layer.values.shape, generator=generator))
        delta = layer.delta_weight()
        assert int((delta != 0).sum()) == layer.values.numel()
        rank = int(torch.linalg.matrix_rank(delta))
        assert 8 < rank <= sparse.max_rank(d_in, d_out)
        assert rank > 0.9 * min(d_in, d_out)


@pytest.mark.parametrize("block", [1, 100, 1000, 10**9])
def test_the_gradient_at_the_places_is_the_dense_one_s(block: int) -> None:
    x, dy = torch.randn(11, 30, dtype=torch.float64), torch.randn(11, 23, dtype=torch.float64)
    at = places(30 * 23, 200, "g")
    expected = torch.zeros(len(at), dtype=torch.float64)
    for k, place in enumerate(at.tolist()):
        expected[k] = (dy[:, place // 30] * x[:, place % 30]).sum()
    torch.testing.assert_close(gradient_at(at, x, dy, block), expected)


def test_a_budget_above_the_layer_s_own_weights_is_refused() -> None:
    with pytest.raises(MethodError) as error:
        Sparse(rank=16).attach(llama())
    message = str(error.value)
    assert "layer model.layers.0.self_attn.k_proj" in message and "Lower rank" in message
    assert "768 parameters on a layer of 32 inputs and 16 outputs" in message and "512" in message
    with pytest.raises(MethodError, match=r"seed=1\.5 must be a whole number"):
        Sparse(rank=1, seed=1.5)  # type: ignore[arg-type]


def test_a_saved_adapter_brings_its_seed_and_places(tmp_path) -> None:
    method = Sparse(rank=4, seed=7)
    model = llama()
    method.attach(model)
    method.save(model, tmp_path)
    again = llama()
    assert load_adapter(again, tmp_path).seed == 7
    assert all(torch.equal(p, drawn(model)[n]) for n, p in drawn(again).items())


def test_places_that_no_layer_can_have_are_refused() -> None:
    method = Sparse(rank=4)
    model = llama()
    method.attach(model)
    state = method.state(model)
    name = "model.layers.1.mlp.up_proj.places"
    for wrong in (state[name] - 1000, state[name].flip(0), state[name].float(), state[name][1:]):
        with pytest.raises(MethodError, match=r"no usable model\.layers\.1\.mlp\.up_proj\.places"):
            method.load_state(model, state | {name: wrong})
    # Places drawn elsewhere mean what they meant there.
    moved = state | {name: places(32 * 88, len(state[name]), "elsewhere")}
    method.load_state(model, moved)
    assert torch.equal(model.get_buffer(name), moved[name])
