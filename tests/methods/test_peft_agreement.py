"""LoRA, rsLoRA and DoRA against peft: same weights in, same logits and gradients out; files too."""

from __future__ import annotations

import copy
import json
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from methods import Method, load_adapter
from methods.asylora import AsyLoRA
from methods.base import LLAMA_LINEARS, adapted_layers
from methods.contract import llama
from methods.dora import DoRA
from methods.lora import LoRA
from methods.lora_plus import LoRAPlus
from methods.peft_format import from_peft, to_peft

IDS = torch.arange(24).reshape(2, 12) * 7 % 256
KINDS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"rslora": True}, "dora": {}}
CLASSES = {"dora": DoRA, "lora_plus": LoRAPlus, "asylora": AsyLoRA}


def build(kind: str, **settings: Any) -> Method:
    settings |= KINDS.get(kind, {})
    return CLASSES.get(kind, LoRA)(rank=4, learning_rate=1e-2, alpha=6, **settings)


def nudged(method: Method, model: nn.Module) -> nn.Module:
    """The attached model with random adapter weights."""
    method.attach(model)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            for p in layer.adapter_parameters:
                p += 0.1 * torch.randn_like(p)
    return model


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("compute", ["fused", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients(kind: str, compute: str) -> None:
    torch.manual_seed(1)
    method = build(kind, compute=compute)
    ours = nudged(method, llama())
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=list(LLAMA_LINEARS),
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
    )
    theirs = get_peft_model(llama(), config)
    loaded = peft.set_peft_model_state_dict(theirs, to_peft(method.state(ours)))
    assert not loaded.unexpected_keys
    found, expected = (m.train()(input_ids=IDS, labels=IDS) for m in (ours, theirs))
    close(found.logits, expected.logits)
    found.loss.backward()
    expected.loss.backward()
    gradients = from_peft({n: p.grad for n, p in _named(theirs).items()})
    layers = dict(adapted_layers(ours))
    assert len(gradients) == (3 if kind == "dora" else 2) * len(layers)
    for key, gradient in gradients.items():
        layer, _, name = key.rpartition(".")
        close(layers[layer].get_parameter(name).grad, gradient)


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """peft's trainable parameters by the names of its files."""
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["lora", "rslora", "lora_plus", "asylora", "dora"])
def test_peft_reads_what_is_saved(kind: str, tmp_path) -> None:
    torch.manual_seed(1)
    method = build(kind)
    ours = nudged(method, llama()).eval()
    method.save(ours, tmp_path)
    theirs = PeftModel.from_pretrained(llama(), tmp_path).eval()
    with torch.no_grad():
        expected = ours(input_ids=IDS).logits
        close(theirs(input_ids=IDS).logits, expected)
        again = llama().eval()
        assert type(load_adapter(again, tmp_path)) is type(method)
        assert torch.equal(again(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_peft_saved(kind: str, tmp_path) -> None:
    torch.manual_seed(1)
    method = build(kind)
    ours = nudged(method, llama()).eval()
    method.save(ours, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(llama(), tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    names = [
        load_file(tmp_path / w / "adapter_model.safetensors").keys() for w in ("ours", "theirs")
    ]
    assert set(names[0]) == set(names[1])
    fresh = llama().eval()
    method.attach(fresh)
    method.load(fresh, tmp_path / "theirs")
    with torch.no_grad():
        assert torch.equal(fresh(input_ids=IDS).logits, ours(input_ids=IDS).logits)


def test_parameters_beside_the_adapter_keep_the_folder_in_our_own_format(tmp_path) -> None:
    method = build("lora", also_train=["*norm"])
    model = nudged(method, llama())
    method.save(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert "model.norm.weight" in load_file(tmp_path / "adapter_model.safetensors")


def test_the_config_is_peft_s_own(tmp_path) -> None:
    method = build("dora")
    model = nudged(method, llama())
    method.save(model, tmp_path)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    config = LoraConfig(**copy.deepcopy(fields))
    assert (config.r, config.lora_alpha, config.use_dora) == (4, 6, True)
