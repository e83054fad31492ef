"""Every mistake of a user has one message that names the value, the place and the remedy."""

from __future__ import annotations

import json
import types
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from methods import MethodError, load_adapter
from methods.asylora import AsyLoRA
from methods.contract import llama
from methods.fft import FFT
from methods.lora import LoRA
from methods.lora_plus import LoRAPlus
from methods.mora import MoRA
from methods.peft_bridge import Peft


def mora(**settings: Any) -> MoRA:
    return MoRA(**{"rank": 4, "learning_rate": 1e-3} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number of at least 1"),
        ({"rank": -3}, "rank=-3 must be a whole number of at least 1"),
        ({"rank": 2.5}, "rank=2.5 must be a whole number"),
        ({"rank": True}, "rank=True must be a whole number"),
        ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be above 0"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3' must be a number"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"dropout": "0.1"}, "dropout='0.1' must be a number"),
        ({"also_train": "norm"}, "also_train must be a list of names or patterns"),
        ({"compute": "fast"}, "compute='fast' is unknown; choose auto | cached | fused | plain"),
        ({"compute": "fused", "dropout": 0.1}, "Use compute=auto or dropout=0"),
        ({"target_modules": "q_proj"}, "must be a list of layer names or patterns"),
        ({"target_modules": []}, "must be a list of layer names or patterns"),
        ({"operator": "mobius"}, "truncation | sharing | decoupling | rotation"),
        ({"compat": "both"}, "compat='both' is unknown; choose exact | published"),
        ({"input_groups": "odd"}, "input_groups='odd' is unknown"),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError) as error:
        mora(**settings)
    assert message in str(error.value)


def test_settings_of_lora() -> None:
    with pytest.raises(MethodError, match="alpha=0 must be above 0"):
        LoRA(rank=4, learning_rate=1e-3, alpha=0)
    with pytest.raises(MethodError, match="alpha='16' must be a number"):
        LoRA(rank=4, learning_rate=1e-3, alpha="16")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="lr_ratio=0 must be above 0"):
        LoRAPlus(rank=4, learning_rate=1e-3, lr_ratio=0)
    with pytest.raises(MethodError, match="lr_ratio='4' must be a number"):
        LoRAPlus(rank=4, learning_rate=1e-3, lr_ratio="4")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="freeze_a='false' must be true or false"):
        AsyLoRA(rank=4, learning_rate=1e-3, freeze_a="false")  # type: ignore[arg-type]


def refused(model: nn.Module, **settings: Any) -> str:
    """The message of a failed attach, which must leave the model as it was."""
    before = [(n, type(m)) for n, m in model.named_modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    with pytest.raises(MethodError) as error:
        mora(**settings).attach(model)
    assert [(n, type(m)) for n, m in model.named_modules()] == before
    assert [p.requires_grad for p in model.parameters()] == trainable
    return str(error.value)


def test_rank_above_a_layers() -> None:
    message = refused(llama(), rank=17)
    assert "layer model.layers.0.self_attn.k_proj" in message
    assert "rank=17" in message and "32 inputs and 16 outputs" in message
    assert "Lower rank" in message


def test_pattern_that_matches_nothing() -> None:
    message = refused(llama(), target_modules=["q_proj", "query"])
    assert "'query' matches no layer of LlamaForCausalLM" in message and "q_proj" in message
    with pytest.raises(MethodError, match="'query' matches no layer"):
        FFT(learning_rate=1e-3, target_modules=["query"]).attach(llama())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_full_fine_tuning_of_narrow_weights(dtype: torch.dtype) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FFT().attach(llama().to(dtype))
        FFT().attach(llama().to(dtype).to("meta"))
        for how in ("as loaded", "no"):  # others come in their place
            method = FFT()
            method.keep_start(how)
            method.attach(llama().to(dtype))
    messages = [str(w.message) for w in caught]
    if dtype == torch.float32:
        assert not messages
    else:
        assert len(messages) == 1 and "model.embed_tokens.weight" in messages[0]
        assert str(dtype)[6:] in messages[0] and "hold the model in fp32" in messages[0]


def test_full_fine_tuning_of_two_models() -> None:
    method, one, two = FFT(), llama(), llama()
    method.attach(one)
    method.attach(two)
    assert method.delta_weights(two)
    with pytest.raises(MethodError, match="give each model an FFT of its own"):
        method.delta_weights(one)


def test_parameter_beside_that_matches_nothing() -> None:
    message = refused(llama(), also_train=["embeddings"])
    assert "also_train: 'embeddings' matches no parameter" in message


class Int8Linear(nn.Module):
    """What quantising libraries put in place of a linear layer."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.weight = nn.Parameter(torch.zeros(d_out, d_in, dtype=torch.int8), requires_grad=False)


def test_quantised_layer() -> None:
    model = llama()
    model.model.layers[1].mlp.up_proj = Int8Linear(32, 88)
    message = refused(model)
    assert "layer model.layers.1.mlp.up_proj is quantised (Int8Linear)" in message
    assert "Load the model unquantised" in message


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_layer_held_in_8_bit_floats(dtype: torch.dtype) -> None:
    """It says that it is floating point, and no sum with it is defined."""
    model = llama()
    model.model.layers[1].mlp.up_proj.to(dtype)
    message = refused(model)
    assert "layer model.layers.1.mlp.up_proj is quantised" in message
    assert "Load the model unquantised" in message


def test_quantised_layer_of_qwen3_fp8() -> None:
    from transformers.integrations.finegrained_fp8 import FP8Linear

    model = nn.Sequential(nn.Linear(128, 128), FP8Linear(128, 128, block_size=(128, 128)))
    message = refused(model, target_modules=["0", "1"])
    assert "layer 1 is quantised (FP8Linear)" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_parameter_beside_that_is_of_a_quantised_layer(dtype: torch.dtype) -> None:
    model = llama()
    layer = Int8Linear(32, 88)
    layer.weight.data = layer.weight.data.to(dtype)
    model.model.layers[1].mlp.up_proj = layer
    message = refused(model, target_modules=["q_proj"], also_train=["*norm", "up_proj"])
    assert "also_train: model.layers.1.mlp.up_proj.weight is of the quantised layer" in message
    assert "leave the layer out of also_train" in message
    mora(target_modules=["q_proj"], also_train=["*norm"]).attach(model)


class Scaled(nn.Linear):
    """A linear layer by its class alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * super().forward(x)


@pytest.mark.parametrize("method", [mora(), Peft(peft_config={"peft_type": "LORA"})], ids=type)
@pytest.mark.parametrize("of", ["class", "instance"])
def test_layer_with_a_forward_of_its_own(of: str, method: Any) -> None:
    """An adapter would put x W^T + b in its place."""
    model: Any = nn.ModuleDict({"up_proj": Scaled(16, 16)})
    if of == "instance":
        model = nn.ModuleDict({"up_proj": nn.Linear(16, 16)})
        model.up_proj.forward = types.MethodType(Scaled.forward, model.up_proj)
    method.target_modules = ("up_proj",)
    with pytest.raises(MethodError, match=r"layer up_proj: .* has a forward of its own") as error:
        method.attach(model)
    assert "Leave it out of target_modules" in str(error.value)
    assert all(p.requires_grad for p in model.parameters())


def test_layers_of_transformers_that_only_look_linear() -> None:
    from transformers.integrations.bitnet import AutoBitLinear
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4GroupedLinear

    for layer in (AutoBitLinear(16, 16, bias=False), DeepseekV4GroupedLinear(16, 32, 4)):
        message = refused(nn.Sequential(layer), target_modules=["0"])
        assert f"this {type(layer).__name__} has a forward of its own" in message


def test_layer_that_is_linear_by_another_way() -> None:
    from transformers.models.falcon.modeling_falcon import FalconLinear

    model, x = nn.Sequential(FalconLinear(16, 32)), torch.randn(3, 16)
    before = model(x)
    mora(target_modules=["0"]).attach(model)
    assert torch.equal(model(x), before)


def test_layer_that_accelerate_only_moves_tensors_for() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    model = llama()
    hooks.add_hook_to_module(model.model.layers[0].mlp.up_proj, hooks.ModelHook())
    mora().attach(model)


@pytest.mark.parametrize("method", [mora(), Peft(peft_config={"peft_type": "LORA"})], ids=type)
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_layer_whose_weight_is_computed(norm: str, method: Any) -> None:
    """What a merge adds to it would be lost with the tensor of that moment."""
    layer = getattr(nn.utils.parametrizations, norm)(nn.Linear(16, 16))
    model = nn.ModuleDict({"up_proj": layer})
    method.target_modules = ("up_proj",)
    with pytest.raises(MethodError, match=r"layer up_proj: .* by a parametrisation") as error:
        method.attach(model)
    assert "remove_parametrizations(layer, 'weight') first" in str(error.value)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    method.attach(model)


def test_head_tied_to_the_embedding() -> None:
    message = refused(llama(), target_modules=["lm_head"])
    assert "layer lm_head is tied to the embedding" in message and "untie" in message


def test_layers_that_share_a_weight_or_are_one() -> None:
    """An adapter each on one weight would both be merged into it."""
    model = llama()
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    second.up_proj.weight = first.up_proj.weight
    assert "layers.0.mlp.up_proj shares its weight" in refused(model, target_modules=["up_proj"])
    model = llama()
    model.model.layers[1].self_attn.q_proj = model.model.layers[0].self_attn.q_proj
    assert "layers.0.self_attn.q_proj shares its weight" in refused(model)


def test_offloaded_layer() -> None:
    accelerate = pytest.importorskip("accelerate")
    message = refused(accelerate.cpu_offload(llama(), execution_device="cpu"))
    assert "is offloaded by accelerate" in message and "without offloading" in message


@pytest.mark.parametrize(
    "register", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_layer_with_a_hook(register: str) -> None:
    """Its weight is taken without calling it, so that the hook would be passed over."""
    model = llama()
    layer = model.model.layers[0].mlp.up_proj
    handle = getattr(layer, f"register_{register}")(lambda *_: None)
    message = refused(model)
    assert "layer model.layers.0.mlp.up_proj has a hook" in message
    assert "register it after attach" in message
    handle.remove()
    mora().attach(model)


def test_layer_that_is_not_linear() -> None:
    assert "not a linear layer" in refused(llama(), target_modules=["input_layernorm"])


def test_layer_whose_weight_is_taken_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its adapter would be skipped, and nothing would tell."""
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    message = refused(model, rank=2, target_modules=["out_proj"])
    assert "layer attention.out_proj: MultiheadAttention takes its weight" in message
    assert "Leave it out of target_modules" in message
    encoder = nn.ModuleDict({"e": nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)})
    message = refused(encoder, rank=2, target_modules=["linear1"])
    assert "layer e.linear1" in message and "set_fastpath_enabled(False)" in message
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    mora(rank=2, target_modules=["linear1", "linear2"]).attach(encoder)
    layer, x = encoder["e"].eval(), torch.ones(1, 3, 16)
    with torch.no_grad():
        before = layer(x)
        layer.linear1.M += 1
        assert not torch.equal(layer(x), before)


def test_layers_of_transformers_whose_weight_is_taken_without_a_call() -> None:
    from transformers.models.conditional_detr import modeling_conditional_detr as conditional
    from transformers.models.dab_detr.modeling_dab_detr import DabDetrMHAttentionMap
    from transformers.models.detr.modeling_detr import DetrMHAttentionMap
    from transformers.models.maskformer.modeling_maskformer import MaskFormerDetrMHAttentionMap
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    names = "q_proj", "k_proj", "v_proj", "out_proj"
    for attention, taken, called in (
        (WavLMAttention(16, 2), names, ()),
        (DetrMHAttentionMap(16, 2), ["k_proj"], ["q_proj"]),
        (MaskFormerDetrMHAttentionMap(16, 2), ["k_proj"], ["q_proj"]),
        (conditional.ConditionalDetrMHAttentionMap(16, 2), ["k_proj"], ["q_proj"]),
        (DabDetrMHAttentionMap(16, 16, 2), ["k_linear"], ["q_linear"]),
    ):
        model = nn.ModuleDict({"attention": attention})
        for name in taken:
            message = refused(model, target_modules=[name])
            assert f"{name}: {type(attention).__name__} takes its weight" in message
        for name in called:
            mora(target_modules=[name]).attach(model)


@pytest.mark.parametrize("kind", ["Mamba", "Mamba2", "Bamba"])
def test_layers_of_mamba_that_kernels_take_the_weight_of(kind: str) -> None:
    import transformers

    size = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    if kind == "Mamba2":
        size |= {"num_heads": 8, "head_dim": 8}
    if kind == "Bamba":
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 8}
        size |= heads | {"intermediate_size": 64, "mamba_d_head": 8, "attn_layer_indices": []}
    config = getattr(transformers, f"{kind}Config")(**size)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name in ("x_proj", "dt_proj", "out_proj") if kind == "Mamba" else ("out_proj",):
        message = refused(model, rank=2, target_modules=[name])
        assert f"{name}: {kind}Mixer takes its weight" in message
    mora(rank=2, target_modules=["in_proj"]).attach(model)


def test_attaching_twice() -> None:
    model = llama()
    mora().attach(model)
    assert "adapted already" in refused(model)


@pytest.mark.parametrize("first", [mora(), Peft(peft_config={"peft_type": "LORA"})], ids=type)
@pytest.mark.parametrize(
    "second", [mora(), FFT(), Peft(peft_config={"peft_type": "LORA"})], ids=type
)
def test_attaching_to_other_layers_of_an_adapted_model(first: Any, second: Any) -> None:
    """The second method would decide what of the first one trains."""
    model = llama()
    first.target_modules, second.target_modules = ("q_proj",), ("v_proj",)
    first.attach(model)
    before = [(n, p.requires_grad) for n, p in model.named_parameters()]
    with pytest.raises(MethodError, match=r"q_proj is adapted already: attach a method to a plain"):
        second.attach(model)
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == before
    first.merge(model)
    second.attach(model)


def test_published_code_without_a_result_names_the_layer() -> None:
    model = nn.ModuleDict({"wide": nn.Linear(4, 100)})
    message = refused(model, target_modules=["wide"], compat="published")
    assert "layer wide" in message and "compat=exact" in message


# ---------------------------------------------------------------------------------------- files


def saved(folder: Any, **settings: Any) -> None:
    model, method = llama(), mora(**settings)
    method.attach(model)
    method.save(model, folder)


def loading(folder: Any, method: Any = None) -> str:
    model = llama()
    with pytest.raises(MethodError) as error:
        if method is None:
            load_adapter(model, folder)
        else:
            method.attach(model)
            method.load(model, folder)
    return str(error.value)


def test_folder_without_an_adapter(tmp_path) -> None:
    assert "method.json cannot be read" in loading(tmp_path)
    assert "holds no saved adapter" in loading(tmp_path, mora())


def test_adapter_of_another_rank_method_or_model(tmp_path) -> None:
    saved(tmp_path)
    message = loading(tmp_path, mora(rank=8))
    assert "saved with rank=4, this method has rank=8" in message and "load_adapter" in message
    lora = LoRA(rank=4, learning_rate=1e-3)
    assert "the saved adapter has no setting alpha" in loading(tmp_path, lora)
    fewer = mora(target_modules=["q_proj"])
    assert "tensors that this method does not know" in loading(tmp_path, fewer)


@pytest.mark.parametrize(
    "target", ["os.system", "methods.lora.LowRank", "methods.nothing.Nothing", "methods.x.y.Z", "x"]
)
def test_only_methods_of_this_package_are_made_from_a_file(tmp_path, target) -> None:
    saved(tmp_path)
    (tmp_path / "method.json").write_text(json.dumps({"method": target, "settings": {}}))
    assert f"{target} is no method of this package" in loading(tmp_path)


def test_settings_of_another_version(tmp_path) -> None:
    saved(tmp_path)
    content = {"method": "methods.mora.MoRA", "settings": {"rank": 4, "sides": 3}}
    (tmp_path / "method.json").write_text(json.dumps(content))
    message = loading(tmp_path)
    assert "the settings do not fit methods.mora.MoRA" in message and "sides" in message
