"""The adapted layer as models and training loops meet it: odd inputs, precision, both paths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods import AdapterMethod, break_even
from methods.base import adapted_layers
from methods.dora import DoRA
from methods.layer import AdapterLinear
from methods.lora import LoRA
from methods.mora import MoRA
from methods.sparse import Sparse

D_IN, D_OUT = 50, 70
SHARED: dict[str, Any] = {"rank": 8, "target_modules": ["0"]}
METHODS: dict[str, AdapterMethod] = {
    "lora": LoRA(**SHARED),
    "dora": DoRA(**SHARED),
    "sparse": Sparse(**SHARED),
    **{o: MoRA(operator=o, **SHARED) for o in ("truncation", "sharing", "decoupling", "rotation")},
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def layer_of(
    method: AdapterMethod, compute: str, dtype: torch.dtype = torch.float64, *, bias: bool = True
) -> AdapterLinear:
    """An adapted layer away from its start; the same values in every dtype."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D_IN, D_OUT, bias=bias, dtype=torch.float64)).to(dtype)
    method.attach(model)
    layer = model[0]
    assert isinstance(layer, AdapterLinear)
    layer.compute = compute  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in layer.adapter_parameters:
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
    return layer.train()


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(layer: AdapterLinear, x: Tensor) -> dict[str, Tensor]:
    """Output and the gradients of a loss with every parameter, and with x where it has one."""
    layer.zero_grad()
    y = layer(x)
    (y * random(*y.shape, dtype=y.dtype)).sum().backward()
    found = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    if x.requires_grad:
        found["x"], x.grad = x.grad, None
    return found | {"y": y.detach()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.any(), name
        error = (found[name].double() - value.double()).abs().max() / value.double().abs().max()
        assert error <= tolerance, (name, float(error))


# ------------------------------------------------------------------------------------- gradients


@every_method
def test_inputs_that_are_not_contiguous(method: AdapterMethod) -> None:
    x = random(D_IN, 3, 6).permute(2, 1, 0)
    strided = random(6, 3, 2 * D_IN)[..., ::2]
    for odd in (x, strided, random(D_IN, 9).T, random(1, 1, D_IN).expand(4, 5, D_IN)):
        assert not odd.is_contiguous()
        expected = gradients(layer_of(method, "plain"), odd.contiguous().requires_grad_())
        for compute in ("fused", "plain"):
            same(gradients(layer_of(method, compute), odd.detach().requires_grad_()), expected)


@every_method
def test_an_input_without_gradient(method: AdapterMethod) -> None:
    """The first layer after frozen embeddings."""
    x = random(9, D_IN)
    expected = gradients(layer_of(method, "plain"), x.clone().requires_grad_())
    del expected["x"]
    same(gradients(layer_of(method, "fused"), x), expected)


@every_method
def test_auto_forms_the_weight_from_the_break_even_on(method: AdapterMethod) -> None:
    kind = layer_of(method, "auto").delta.kind
    least = break_even.tokens(kind, D_IN, D_OUT, torch.float64, "cpu")
    assert least > 1
    for tokens, fused in ((least - 1, False), (least, True), (500, True)):
        layer, x = layer_of(method, "auto"), random(tokens, D_IN).requires_grad_()
        assert (type(layer(x).grad_fn).__name__ == "_FusedLinearBackward") is fused
        same(gradients(layer, x), gradients(layer_of(method, "plain"), x))


@every_method
@pytest.mark.parametrize("compute", ["cached", "fused", "plain"])
def test_gradients_in_bf16_are_near_those_in_float64(method: AdapterMethod, compute: str) -> None:
    """The same layer, its base weight and activations rounded to bf16; parameters stay fp32."""
    narrow = layer_of(method, compute, torch.bfloat16)
    wide = layer_of(method, "plain", torch.float64)
    with torch.no_grad():
        wide.base.weight.copy_(narrow.base.weight)
        wide.base.bias.copy_(narrow.base.bias)
        for ours, theirs in zip(wide.adapter_parameters, narrow.adapter_parameters, strict=True):
            ours.copy_(theirs)
    x = random(400, D_IN, dtype=torch.bfloat16)
    found = gradients(narrow, x.clone().requires_grad_())
    assert {n: g.dtype for n, g in found.items()} == {
        **dict.fromkeys(narrow.names, torch.float32),
        "x": torch.bfloat16,
        "y": torch.bfloat16,
    }
    same(found, gradients(wide, x.double().requires_grad_()), 2e-2)


@every_method
def test_a_second_derivative_is_refused_where_it_would_be_wrong(method: AdapterMethod) -> None:
    layer, x = layer_of(method, "fused"), random(9, D_IN).requires_grad_()
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()


def test_a_second_derivative_through_activations_is_right() -> None:
    layer, x = layer_of(METHODS["rotation"], "plain"), random(2, D_IN).requires_grad_()
    tiny = x.detach()[:1].requires_grad_()
    assert torch.autograd.gradgradcheck(layer, tiny)


# ------------------------------------------------------------------------------------- precision


class Recorder(TorchDispatchMode):
    """What torch computes: (operator, shapes and dtypes of the tensors it takes)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[tuple[tuple[int, ...], torch.dtype]]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        tensors = [(tuple(a.shape), a.dtype) for a in args if isinstance(a, Tensor)]
        self.calls.append((func.overloadpacket.__name__, tensors))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.mark.parametrize("kind", ["lora", "truncation", "sharing", "rotation", "sparse"])
def test_under_autocast_the_base_weight_is_cast_once(kind: str) -> None:
    layer, x = layer_of(METHODS[kind], "plain", torch.float32), random(9, D_IN).float()
    with torch.autocast("cpu", torch.bfloat16), recorded() as found:
        layer(x)
    weight = ((D_OUT, D_IN), torch.float32)
    casts = [name for name, tensors in found.calls if name == "_to_copy" and weight in tensors]
    assert len(casts) == 1


@pytest.mark.parametrize("bias", [True, False])
def test_the_plain_path_of_dora_multiplies_by_the_base_weight_once(bias: bool) -> None:
    layer, x = layer_of(METHODS["dora"], "plain", torch.float32, bias=bias), random(9, D_IN).float()
    with recorded() as found:
        layer(x)
    products = [tensors for name, tensors in found.calls if name in ("mm", "addmm")]
    dense = [t for t in products if any(set(s) == {D_IN, D_OUT} for s, _ in t[-1:])]
    assert len(dense) == 1


@pytest.mark.parametrize("compute", ["fused", "plain"])
def test_a_row_of_zeros_is_no_harm_to_dora_and_can_learn(compute: str) -> None:
    """As pruning and padding leave them; 0 / 0 made every output and gradient NaN."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48))
    with torch.no_grad():
        model[0].weight[3] = 0.0
    x = random(9, 64).float()
    before = model(x).detach()
    DoRA(**SHARED).attach(model)
    layer = model[0].train()
    layer.compute = compute
    torch.testing.assert_close(layer(x), before)
    target = before + x[:, :48]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (layer(x) - target)[:, 3].square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.adapter_parameters)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def effect_of_longer_rows(dtype: torch.dtype, compute: str, factor: float) -> dict[str, float]:
    """By how much DoRA's outputs grow in bf16 where each magnitude is ``factor`` times its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 64, bias=False, dtype=dtype))
    DoRA(**SHARED).attach(model)
    layer, x = model[0], random(2000, 512, dtype=torch.bfloat16)
    layer.compute = compute
    found = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for name, mode in (("training", True), ("evaluation", False)):
            before = layer.train(mode)(x).double()
            layer.lora_magnitude_vector *= factor
            after = layer(x).double()
            layer.lora_magnitude_vector /= factor
            found[name] = float((after * before).sum() / before.square().sum())
    return found


@pytest.mark.parametrize("compute", ["fused", "plain"])
def test_a_small_change_of_length_counts_in_bf16(compute: str) -> None:
    """1.003 rounded to bf16 is 1. What is left to round is the weight or the output itself."""
    for effect in effect_of_longer_rows(torch.bfloat16, compute, 1.003).values():
        assert 1.002 < effect < 1.0035


def test_a_small_change_of_length_is_exact_where_the_base_is_held_in_fp32() -> None:
    for factor in (1.003, 0.998, 1.0005):
        for effect in effect_of_longer_rows(torch.float32, "fused", factor).values():
            assert math.isclose(effect, factor, abs_tol=1e-4)


# ----------------------------------------------------------------------------------- other models


@every_method
@pytest.mark.parametrize("compute", ["fused", "plain"])
def test_training_after_inference_mode(method: AdapterMethod, compute: str) -> None:
    """Tensors that were made for the evaluation and kept do not get in the way."""
    from methods import blocks, groups

    groups._group_index.cache_clear()
    blocks.angles.cache_clear()
    layer, x = layer_of(method, compute), random(9, D_IN).requires_grad_()
    with torch.inference_mode():
        evaluated = layer.eval()(x.detach())
    found = gradients(layer.train(), x)
    torch.testing.assert_close(found["y"], evaluated)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), evaluated)


def test_a_layer_made_in_inference_mode_evaluates_what_it_holds() -> None:
    with torch.inference_mode():
        layer = layer_of(METHODS["rotation"], "auto").eval()
        x = random(9, D_IN)
        first = layer(x)
        layer.M.zero_()
        assert not torch.equal(layer(x), first)
        torch.testing.assert_close(layer(x), layer.base(x))


def test_weight_and_bias_are_the_base_layer_s() -> None:
    layer = layer_of(METHODS["lora"], "auto", torch.bfloat16)
    assert layer.weight is layer.base.weight and layer.bias is layer.base.bias
    assert layer_of(METHODS["lora"], "auto", bias=False).bias is None
    names = {name for name, _ in layer.named_parameters()}
    assert names == {"base.weight", "base.bias", "lora_A", "lora_B"}


@pytest.mark.parametrize("kind", [LoRA, MoRA, Sparse])
def test_t5_takes_a_step(kind: type[AdapterMethod]) -> None:
    """T5 asks a layer for the dtype of its weight before it calls it."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    method = kind(rank=2, learning_rate=1e-2, target_modules=["q", "k", "v", "o", "wi", "wo"])
    method.attach(model)
    assert len(list(adapted_layers(model))) == 2 * (4 + 2) + 2 * (8 + 2)
    ids = torch.arange(24).reshape(2, 12) * 7 % 64
    optimizer = torch.optim.AdamW(method.parameter_groups(model))
    losses = []
    for _ in range(3):
        loss = model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids, labels=ids).logits
        merged = method.merge(model)(input_ids=ids, labels=ids).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@every_method
def test_on_the_meta_device(method: AdapterMethod, training: bool) -> None:
    """As tools do that count operations before there is memory for the weights."""
    model = nn.Sequential(nn.Linear(D_IN, D_OUT, device="meta"))
    method.attach(model)
    model.train(training)
    for tokens in (1, 4096):
        x = torch.empty(tokens, D_IN, device="meta", requires_grad=training)
        y = model(x)
        assert y.is_meta and y.shape == (tokens, D_OUT)
        if training:
            y.sum().backward()
