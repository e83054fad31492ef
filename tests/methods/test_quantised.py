"""Adapters over layers that bitsandbytes or torchao has quantised, where those are installed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import FFT, DoRA, LoRA, Method, MethodError, MoRA, ReMoRA, load_adapter
from methods.base import adapted_layers
from methods.contract import llama, run_llama
from methods.quantised import QuantisedLinear, dequantised, kind
from methods.targets import target_layers
from tests.methods.steps import losses

# How far the library's product is from that with the dequantised weight: 8 bit of bitsandbytes
# rounds activations too.
KINDS = {"nf4": 1e-5, "fp4": 1e-5, "int8": 5e-2, "torchao": 1e-5}
METHODS = {
    "mora": lambda: MoRA(rank=4, operator="rotation"),
    "sharing": lambda: MoRA(rank=4, operator="sharing", compute="plain"),
    "lora": lambda: LoRA(rank=4),
}
TARGETS = MoRA(rank=4).target_modules


def quantised(how: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The small LLaMA in ``dtype``, its seven kinds of linear layers quantised."""
    model = llama().to(dtype).requires_grad_(False)
    layers = target_layers(model, TARGETS)
    if how == "torchao":
        quantization = pytest.importorskip("torchao.quantization")
        chosen = quantization.Int8WeightOnlyConfig()
        quantization.quantize_(model, chosen, filter_fn=lambda _, name: name in layers)
        return model
    bnb = pytest.importorskip("bitsandbytes")
    for name, linear in layers.items():
        weight, shape = linear.weight.detach(), (linear.in_features, linear.out_features)
        if how == "int8":
            layer = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False)
            layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            layer = bnb.nn.Linear4bit(*shape, bias=False, quant_type=how)
            layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=how)
        model.set_submodule(name, layer.to("cpu"))
    return model.eval()


def plain(model: nn.Module) -> nn.Module:
    """A copy of the model with the dequantised weights in plain layers."""
    other = llama()
    for name, linear in target_layers(other, TARGETS).items():
        with torch.no_grad():
            linear.weight.copy_(dequantised(model.get_submodule(name)))
    return other


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def attached(model: nn.Module, method: Method) -> nn.Module:
    method.attach(model)
    return randomised(model)


def logits(model: nn.Module) -> Tensor:
    return run_llama(model.train())["logits"]


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("how", KINDS)
def test_attaching_changes_no_output(how: str) -> None:
    model = quantised(how)
    expected = logits(model)
    METHODS["mora"]().attach(model)
    layers = dict(adapted_layers(model))
    assert len(layers) == 14 and all(type(m) is QuantisedLinear for m in layers.values())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("how", KINDS)
def test_the_same_as_over_the_dequantised_weights(how: str, name: str) -> None:
    model = quantised(how)
    other = attached(plain(model), METHODS[name]())
    attached(model, METHODS[name]())
    found, expected = logits(model), logits(other)
    assert distance(found, expected) <= 4 * KINDS[how]
    found.square().mean().backward()
    expected.square().mean().backward()
    theirs = dict(other.named_parameters())
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and theirs[key].grad is not None
            assert distance(parameter.grad, theirs[key].grad) <= 20 * KINDS[how], key


@pytest.mark.parametrize("how", KINDS)
def test_trains_and_leaves_the_base_alone(how: str) -> None:
    model, method = quantised(how), METHODS["mora"]()
    method.attach(model)
    before = {n: dequantised(layer.base).clone() for n, layer in adapted_layers(model)}
    found = losses(model.train())
    assert found[-1] < found[0]
    for name, layer in adapted_layers(model):
        assert kind(layer.base) is not None and torch.equal(dequantised(layer.base), before[name])


@pytest.mark.parametrize("how", KINDS)
def test_merging_dequantises_with_a_warning(how: str) -> None:
    model, method = quantised(how), METHODS["mora"]()
    attached(model, method)
    expected = logits(model).detach()
    deltas = method.delta_weights(model)
    layer = model.model.layers[0].mlp.up_proj
    weight = dequantised(layer.base).float() + deltas["model.layers.0.mlp.up_proj"]
    with pytest.warns(UserWarning, match="the layer is dequantised"):
        method.merge(model)
    merged = model.model.layers[0].mlp.up_proj
    assert type(merged) is nn.Linear and merged.weight.is_floating_point()
    assert distance(merged.weight.float(), weight) <= 1e-2 * KINDS[how] ** 0.5 + 1e-3
    assert distance(logits(model), expected) <= 4 * KINDS[how] + 1e-3


@pytest.mark.parametrize("beside", [[], ["*norm"], ["*norm", "embed_tokens", "lm_head"]], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", KINDS)
def test_a_merged_model_runs_in_the_dtype_of_its_other_layers(
    how: str, dtype: torch.dtype, beside: list[str]
) -> None:
    """8 bit of bitsandbytes dequantises to fp32, whatever the model is held in."""
    model, method = quantised(how, dtype), MoRA(rank=4, also_train=beside)
    attached(model, method)
    with torch.autocast("cpu", dtype):
        expected = logits(model).float()
    with pytest.warns(UserWarning, match="the layer is dequantised"):
        method.merge(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert distance(logits(model).float(), expected) <= 0.1


def input_gradient(layer: nn.Module) -> Tensor:
    x = torch.ones(3, 128, requires_grad=True)
    return torch.autograd.grad(layer(x).square().sum(), x)[0]


@pytest.mark.parametrize("then", ["merge", "train"])
@pytest.mark.parametrize("how", ["nf4", "fp4"])
def test_merging_and_training_after_an_evaluation(how: str, then: str) -> None:
    """On some CPUs bitsandbytes lays a weight out anew, in place, when it first evaluates."""
    functional = pytest.importorskip("bitsandbytes.functional")
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type=how)
    weight = torch.randn(64, 128)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=how)
    model = nn.ModuleDict({"layer": layer.to("cpu")})
    MoRA(rank=4, target_modules=["layer"]).attach(model)
    adapted = randomised(model)["layer"]
    before, gradient = adapted.effective_weight(), input_gradient(adapted.train())
    with torch.no_grad():
        adapted.eval()(torch.randn(3, 128))
    base = adapted.base
    if not getattr(base.weight.quant_state, "packing_format_for_cpu", False):  # another CPU
        packed, base.weight.quant_state = functional._convert_weight_packed_for_cpu(
            base.weight.data, base.weight.quant_state
        )
        base.weight.data = packed
    if then == "merge":
        merged = adapted.merged().weight
        assert distance(merged.float(), before.float()) < 1e-2  # its scales are rounded to bf16
    else:
        assert distance(input_gradient(adapted.train()), gradient) < 1e-2


@pytest.mark.parametrize("left", [False, True])
def test_a_merged_model_is_read_as_a_plain_one(
    left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once no layer is quantised, its configuration says so no more."""
    from transformers.quantizers.base import HfQuantizer

    class Quantiser:
        remove_quantization_config = HfQuantizer.remove_quantization_config

    model: Any = llama()
    model.hf_quantizer, model.is_quantized = Quantiser(), True
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    method = MoRA(rank=4)
    attached(model, method)
    if left:
        monkeypatch.setattr(
            "methods.quantised.kind", lambda m: "some" if type(m) is nn.Embedding else None
        )
        with pytest.warns(UserWarning, match=r"quantised still: model\.embed_tokens\. "):
            method.merge(model)
        assert model.config.quantization_config and model.is_quantized
        return
    expected = run_llama(method.merge(model).eval())["logits"]
    assert not hasattr(model.config, "quantization_config") and not model.is_quantized
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(run_llama(again)["logits"], expected)


def test_a_model_loaded_quantised_is_merged_and_read_again(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    llama().save_pretrained(tmp_path / "base")
    config = BitsAndBytesConfig(load_in_4bit=True)
    kind_of = type(llama())
    model = kind_of.from_pretrained(tmp_path / "base", quantization_config=config)
    method = METHODS["mora"]()
    attached(model, method)
    with pytest.warns(UserWarning, match="the layer is dequantised"):
        method.merge(model)
    model.save_pretrained(tmp_path / "merged")
    again = kind_of.from_pretrained(tmp_path / "merged", dtype=model.dtype)
    assert distance(logits(again), logits(model)) <= 1e-5


@pytest.mark.parametrize("how", KINDS)
def test_an_adapter_is_saved_and_read(how: str, tmp_path: Path) -> None:
    model, method = quantised(how), METHODS["mora"]()
    attached(model, method)
    method.save(model, tmp_path)
    again = quantised(how)
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    over_plain = llama()  # it goes over the unquantised model as well
    load_adapter(over_plain, tmp_path)


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: DoRA(rank=4), "go over layers of bitsandbytes"),
        (lambda: ReMoRA(rank=4), "Load the model unquantised"),
        (lambda: FFT(), "Load the model unquantised"),
        (lambda: MoRA(rank=4, compute="fused"), "with compute=auto or plain"),
    ],
    ids=["dora", "remora", "fft", "fused"],
)
def test_what_does_not_work_is_refused(how: str, method: Any, message: str) -> None:
    with pytest.raises(MethodError) as error:
        method().attach(quantised(how))
    assert message in str(error.value)


@pytest.mark.parametrize("method", [MoRA(rank=4), FFT()], ids=lambda m: m.name)
def test_a_quantisation_that_stops_gradients_is_refused(method: Method) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = llama()
    quantization.quantize_(model.model, quantization.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(MethodError, match=r"q_proj is quantised \(Int8Tensor of torchao\)"):
        method.attach(model)


@pytest.mark.parametrize("how", KINDS)
def test_a_quantised_layer_does_not_train_beside(how: str) -> None:
    method = MoRA(rank=4, target_modules=["q_proj"], also_train=["up_proj"])
    with pytest.raises(MethodError, match=r"layers\.0\.mlp\.up_proj\.weight is of the quantised"):
        method.attach(quantised(how))


def test_a_layer_that_waits_to_be_quantised_is_refused() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = nn.ModuleDict({"layer": bnb.nn.Linear4bit(32, 32)})
    with pytest.raises(
        MethodError, match="layer layer is a Linear4bit of bitsandbytes that is not"
    ):
        MoRA(rank=4, target_modules=["layer"]).attach(model)


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_as_a_tuner_of_peft(how: str) -> None:
    from peft import get_peft_model

    from methods.peft_tuner import MoraConfig

    ours = attached(quantised(how), METHODS["mora"]())
    theirs = randomised(get_peft_model(quantised(how), MoraConfig(r=4)))
    expected = logits(theirs)
    assert distance(logits(ours), expected) <= 1e-6
    with pytest.warns(UserWarning, match="the sum is quantised again"):
        merged = copy.deepcopy(theirs).merge_and_unload()
    assert distance(logits(merged), expected) < 1  # coarse: what peft does with any tuner
