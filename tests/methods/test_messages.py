"""Every mistake of a user has one message that names the value, the place and the remedy."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from methods import MethodError, load_adapter
from methods.contract import llama
from methods.fft import FFT
from methods.lora import LoRA
from methods.lora_plus import LoRAPlus
from methods.mora import MoRA


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
