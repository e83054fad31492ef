"""ReLoRA and ReMoRA: what a restart changes, and the rank that the sum of merges reaches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from methods import AdapterMethod, MethodError
from methods.base import adapted_layers
from methods.contract import llama
from methods.relora import ReLoRA
from methods.remora import ReMoRA
from methods.restarts import prune_
from tests.methods.conftest import SHAPES, Shapes, inputs

SETTINGS: dict[str, Any] = {
    "rank": 8,
    "learning_rate": 1e-2,
    "target_modules": ["layers.*"],
    "restart_every": 2,
    "restart_warmup": 1,
}
every_method = pytest.mark.parametrize("kind", [ReLoRA, ReMoRA])


def start(method: AdapterMethod, dtype: torch.dtype = torch.float32) -> tuple[Shapes, Any]:
    torch.manual_seed(0)
    model = Shapes(dtype)
    method.attach(model)
    model.to(dtype)
    return model, torch.optim.AdamW(method.parameter_groups(model), weight_decay=0.0)


def train(method: AdapterMethod, model: nn.Module, optimizer: Any, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(steps.start)
    model.train()
    for step in steps:
        xs = {k: torch.randn(9, i, generator=generator).to(dtype) for k, (i, _) in SHAPES.items()}
        loss = sum((y - y.detach().roll(1, -1)).square().mean() for y in model(xs).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, optimizer, step)


@every_method
def test_a_restart_keeps_outputs_and_delta_weights_and_begins_at_zero(kind) -> None:
    method = kind(**SETTINGS)
    model, optimizer = start(method)
    original = {n: layer.base.weight.clone() for n, layer in adapted_layers(model)}
    objects = [id(p) for p in model.parameters()]
    train(method, model, optimizer, range(1, 2))
    train(ReLoRA(**SETTINGS | {"restart_every": 99}), model, optimizer, range(2, 3))  # no restart
    xs = inputs(3)
    before, deltas = model.eval()(xs), method.delta_weights(model)
    method.after_step(model, optimizer, 2)
    after = model(xs)
    for name in SHAPES:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-5)
    for name, layer in adapted_layers(model):
        assert not torch.equal(layer.base.weight, original[name])
        assert torch.equal(layer.original, original[name])
        assert layer.delta_weight().sub(deltas[name]).abs().max() < 1e-6
        assert torch.equal(layer.base.weight, layer.effective_weight())  # the adapter is at zero
        assert all(p not in optimizer.state for p in layer.adapter_parameters)
    assert objects == [id(p) for p in model.parameters()]  # the optimiser holds these
    train(method, model, optimizer, range(3, 4))
    assert any((after[n] != y).any() for n, y in model.eval()(xs).items())


@every_method
def test_restarts_only_when_due_and_not_after_the_last_step(kind) -> None:
    for settings, step, last, due in (
        ({}, 2, False, True),
        ({}, 3, False, False),
        ({}, 4, True, False),
        ({"restart_at_end": True}, 4, True, True),
    ):
        method = kind(**SETTINGS | settings)
        model, optimizer = start(method)
        method.after_step(model, optimizer, step, last=last)
        assert all((layer.original is not None) is due for _, layer in adapted_layers(model))


@every_method
def test_a_plain_state_dict_holds_all_that_a_restart_left(kind, tmp_path) -> None:
    """As the Trainer writes it for whoever uses callback and optimizer alone."""
    method = kind(**SETTINGS)
    model, optimizer = start(method)
    fresh = start(kind(**SETTINGS))[0]
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    train(method, model, optimizer, range(1, 4))  # a restart after 2
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    xs = inputs(3)
    assert all(torch.equal(y, model.eval()(xs)[k]) for k, y in fresh.eval()(xs).items())
    for what in (method.delta_weights, method.state):
        found, expected = what(fresh), what(model)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    fresh.load_state_dict(before)  # and back
    assert all(torch.equal(t, fresh.state_dict()[n]) for n, t in before.items())
    assert not any(delta.any() for delta in method.delta_weights(fresh).values())


def test_a_state_without_its_layout_is_refused() -> None:
    model, _ = start(ReMoRA(**SETTINGS))
    parameters = dict(model.named_parameters())
    with pytest.raises(
        MethodError, match=r"does not say in which layout .*narrow_in\._extra_state"
    ):
        model.load_state_dict(parameters, strict=False)


def test_relora_draws_another_a_at_each_restart_layer_and_seed_but_the_same_again() -> None:
    def drawn(seed: int, step: int) -> dict[str, torch.Tensor]:
        method = ReLoRA(seed=seed, **SETTINGS)
        model, optimizer = start(method)
        torch.manual_seed(torch.randint(2**31, ()).item())  # the global state must not matter
        method.after_step(model, optimizer, step)
        return {n: layer.lora_A.detach().clone() for n, layer in adapted_layers(model)}

    first = drawn(0, 2)
    assert all(torch.equal(a, first[n]) for n, a in drawn(0, 2).items())
    for other in (drawn(1, 2), drawn(0, 4)):
        assert not any(torch.equal(a, first[n]) for n, a in other.items())
    assert not torch.equal(first["layers.narrow_out"], first["layers.square"])  # both of 64 inputs


def test_pruned_moments_keep_their_largest_entries() -> None:
    method = ReMoRA(reset_optimizer="prune", prune_ratio=0.9, **SETTINGS)
    model, optimizer = start(method)
    train(method, model, optimizer, range(1, 2))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    method.after_step(model, optimizer, 2)
    for index, state in optimizer.state_dict()["state"].items():
        assert state["step"] == before[index]["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            kept = state[key] != 0
            assert kept.sum() == kept.numel() - int(0.9 * kept.numel())
            old = before[index][key]
            assert torch.equal(state[key][kept], old[kept])
            assert old[kept].abs().min() >= old[~kept].abs().max()


def test_prune_zeroes_the_stated_share() -> None:
    tensor = torch.tensor([[-4.0, 1.0], [3.0, -2.0]])
    prune_(tensor, 0.5)
    assert tensor.tolist() == [[-4.0, 0.0], [3.0, 0.0]]


def test_prune_of_untouched_moments_is_harmless() -> None:
    zeros = torch.zeros(3, 3)
    prune_(zeros, 0.99)
    assert not zeros.any()


# ----------------------------------------------------------------------------------------- ranks


def ranks(method: AdapterMethod, restarts: int) -> list[dict[str, int]]:
    """Rank of delta W of every layer after each of ``restarts`` merges of random adapters."""
    model, optimizer = start(method, torch.float64)
    found = []
    for step in range(restarts):
        with torch.no_grad():
            for _, layer in adapted_layers(model):
                for p in layer.adapter_parameters:
                    p.copy_(torch.randn_like(p))
        method.after_step(model, optimizer, step * method.restart_every)  # type: ignore[attr-defined]
        deltas = method.delta_weights(model)
        found.append({n: int(torch.linalg.matrix_rank(d, rtol=1e-9)) for n, d in deltas.items()})
    return found


def test_relora_grows_by_its_rank_at_each_merge() -> None:
    method = ReLoRA(**SETTINGS)
    for merges, found in enumerate(ranks(method, 4), start=1):
        for name, (d_in, d_out) in SHAPES.items():
            assert found[f"layers.{name}"] == min(8 * merges, method.max_rank(d_in, d_out))


@pytest.mark.parametrize("compat", ["exact", "published"])
@pytest.mark.parametrize("layouts", [2, 4])
def test_remora_grows_past_one_merge_and_saturates_at_two_groupings(layouts, compat) -> None:
    method = ReMoRA(layouts=layouts, compat=compat, **SETTINGS)
    steps = ranks(method, 6)
    for name, (d_in, d_out) in SHAPES.items():
        side, found = method.side(d_in, d_out), [s[f"layers.{name}"] for s in steps]
        one, bound = min(side, d_in, d_out), method.max_rank(d_in, d_out)
        assert found[0] <= one
        assert max(found) == found[-1] == bound <= min(2 * side, d_in, d_out)
        if side < min(d_in, d_out):
            assert bound > one


def test_remora_ranks_of_the_published_layouts() -> None:
    """64 x 64 at r_hat 16: one layout 16, both 28; two or four layouts make no difference."""
    for layouts in (2, 4):
        settings = SETTINGS | {"rank": 2, "target_modules": ["layers.square"]}
        method = ReMoRA(layouts=layouts, compat="published", **settings)
        assert method.side(64, 64) == 16 and method.max_rank(64, 64) == 28
        assert [s["layers.square"] for s in ranks(method, 5)] == [16, 28, 28, 28, 28]


def test_remora_on_a_llama_exceeds_what_mora_can_reach() -> None:
    method = ReMoRA(rank=1, learning_rate=1e-2, restart_every=1, restart_warmup=0)
    torch.manual_seed(0)
    model = llama().double()
    method.attach(model)
    model.double()
    optimizer = torch.optim.AdamW(method.parameter_groups(model), weight_decay=0.0)
    ids = torch.arange(24).reshape(2, 12) * 7 % 256
    for step in range(1, 4):
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, optimizer, step)
    delta = method.delta_weights(model)["model.layers.0.self_attn.q_proj"]
    rank = int(torch.linalg.matrix_rank(delta, rtol=1e-9))
    assert method.side(32, 32) == 8 < rank == method.max_rank(32, 32) <= 16


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"restart_every": 0}, "restart_every=0 must be at least 1"),
        ({"restart_every": "5"}, "restart_every='5' must be a whole number of steps"),
        ({"restart_every": 2.5}, "restart_every=2.5 must be a whole number of steps"),
        ({"restart_every": True}, "restart_every=True must be a whole number of steps"),
        ({"restart_warmup": "1"}, "restart_warmup='1' must be a whole number of steps"),
        ({"restart_warmup": 0.5}, "restart_warmup=0.5 must be a whole number of steps"),
        ({"restart_at_end": "false"}, "restart_at_end='false' must be true or false"),
        ({"prune_ratio": "1e-1"}, "prune_ratio='1e-1' must be a number"),
        ({"restart_warmup": 2}, "restart_warmup=2 must be at least 0 and below"),
        ({"reset_optimizer": "half"}, "reset_optimizer='half' is unknown; choose full | prune"),
        ({"prune_ratio": 1.0}, "prune_ratio=1.0 must be above 0 and below 1"),
        ({"layouts": 3}, "layouts=3 is unknown; choose 2 | 4"),
    ],
)
def test_mistakes(wrong, message) -> None:
    with pytest.raises(MethodError) as error:
        ReMoRA(**SETTINGS | wrong)
    assert message in str(error.value)


def test_a_layout_beyond_the_configured_ones_is_refused() -> None:
    four, two = ReMoRA(layouts=4, **SETTINGS), ReMoRA(layouts=2, **SETTINGS)
    model, optimizer = start(four)
    for step in (2, 4):
        four.after_step(model, optimizer, step)
    with pytest.raises(MethodError, match="no ReMoRA of 2 layouts"):
        two.load_state(start(two)[0], four.state(model))


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_that_would_round_the_merge_away_is_refused(kind, dtype) -> None:
    model = Shapes(dtype)
    before = [type(m) for m in model.modules()]
    with pytest.raises(MethodError, match=r"layer layers\.narrow_in is held in .*float16") as error:
        kind(**SETTINGS).attach(model)
    assert "Hold the model in fp32 (model.float())" in str(error.value)
    assert [type(m) for m in model.modules()] == before
    assert all(p.requires_grad for p in model.parameters())
    kind(**SETTINGS).attach(model.float())
