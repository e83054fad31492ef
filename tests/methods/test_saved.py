"""What a saved adapter means goes with it: loading it under other settings is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from methods import AdapterMethod, Method, MethodError, load_adapter
from methods.asylora import AsyLoRA
from methods.base import adapted_layers
from methods.contract import llama, run_llama
from methods.dora import DoRA
from methods.fft import FFT
from methods.lora import LoRA
from methods.lora_plus import LoRAPlus
from methods.mora import MoRA
from methods.peft_bridge import Peft
from methods.relora import ReLoRA
from methods.remora import ReMoRA
from methods.sparse import Sparse

SHARING = {"operator": "sharing"}


def named(value: Any) -> str:
    """A test's name that is the same in every process: objects go by their class."""
    return type(value).__name__ if isinstance(value, Method) else str(value)


def attached(method: Method, *, nudge: bool = False) -> nn.Module:
    torch.manual_seed(1)
    model = llama()
    method.attach(model)
    if nudge:
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p += 0.1 * torch.randn_like(p)
    return model


def saved(method: Method, folder: Path) -> nn.Module:
    model = attached(method, nudge=True)
    method.save(model, folder)
    return model


def refusal(method: Method, folder: Path) -> str:
    """The message of a refused load, which must leave the model as it was."""
    model = attached(method)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(MethodError) as error:
        method.load(model, folder)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "there", "here", "words"),
    [
        (MoRA, SHARING, {"operator": "truncation"}, "operator='sharing', this method has operator"),
        (MoRA, {"operator": "decoupling"}, {}, "saved with operator='decoupling'"),
        (MoRA, SHARING | {"input_groups": "contiguous"}, SHARING, "input_groups='contiguous'"),
        (MoRA, SHARING | {"output_groups": "contiguous"}, SHARING, "output_groups='contiguous'"),
        (MoRA, {"compat": "published"}, {}, "saved with compat='published', this method has"),
        (ReMoRA, {"compat": "published"}, {}, "saved with compat='published', this method has"),
        (LoRA, {"alpha": 16}, {"alpha": 8}, "lora_alpha=16.0, this method has lora_alpha=8.0"),
        (
            LoRA,
            {"rslora": True},
            {},
            "use_rslora=True, this method has use_rslora=False",
        ),
        (LoRA, {"also_train": ["*norm"], "alpha": 16}, {"also_train": ["*norm"]}, "alpha=16.0"),
        (ReLoRA, {"alpha": 16}, {}, "saved with alpha=16.0, this method has alpha=8.0"),
        (Sparse, {"seed": 1}, {"seed": 2}, "saved with seed=1, this method has seed=2"),
    ],
    ids=named,
)
def test_another_meaning_of_the_same_tensors_is_refused(kind, there, here, words, tmp_path) -> None:
    saved(kind(rank=4, **there), tmp_path)
    message = refusal(kind(rank=4, **here), tmp_path)
    assert words in message and "Attach the method with" in message and str(tmp_path) in message


@pytest.mark.parametrize(
    ("kind", "there", "here"),
    [
        (MoRA, {"learning_rate": 1.0, "compute": "plain"}, {"learning_rate": 2.0, "dropout": 0.5}),
        (LoRA, {"learning_rate": 1.0, "dropout": 0.1}, {"compute": "fused"}),
        (LoRAPlus, {"lr_ratio": 2.0}, {"lr_ratio": 16.0}),
        (AsyLoRA, {"freeze_a": True}, {"freeze_a": False}),
        (ReMoRA, {"restart_every": 100, "reset_optimizer": "prune"}, {"layouts": 4}),
        (Sparse, {"dropout": 0.1}, {"compute": "fused"}),
    ],
    ids=named,
)
def test_how_it_was_trained_is_not_compared(kind, there, here, tmp_path) -> None:
    model = saved(kind(rank=4, **there), tmp_path)
    fresh = attached(kind(rank=4, **here))
    kind(rank=4, **here).load(fresh, tmp_path)
    for name, y in run_llama(model.eval()).items():
        torch.testing.assert_close(run_llama(fresh.eval())[name], y, rtol=1e-5, atol=1e-5)


def test_methods_are_not_mixed_up(tmp_path) -> None:
    saved(LoRA(rank=4), tmp_path / "lora")
    saved(MoRA(rank=4), tmp_path / "mora")
    assert "use_dora=False, this method has use_dora=True" in refusal(
        DoRA(rank=4), tmp_path / "lora"
    )
    assert "has no setting operator" in refusal(MoRA(rank=4), tmp_path / "lora")
    assert "has no setting alpha" in refusal(LoRA(rank=4), tmp_path / "mora")


def test_weights_of_unknown_meaning_are_refused(tmp_path) -> None:
    for method, files in ((MoRA(rank=4), ["method.json"]), (LoRA(rank=4), ["adapter_config.json"])):
        folder = tmp_path / method.name
        saved(method, folder)
        for file in {"method.json", *files}:
            (folder / file).unlink()
        assert "what its weights mean is not known" in refusal(method, folder)


# ----------------------------------------------------------------------------- folders from peft


def from_peft(folder: Path, **fields: Any) -> nn.Module:
    """What peft alone has made and saved."""
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"]} | fields)
    torch.manual_seed(2)
    model = peft.get_peft_model(llama(), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    model.save_pretrained(folder)
    return model


QV = {"rank": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({}, LoRA(alpha=8, **QV)),
        ({"lora_alpha": 3, "use_rslora": True}, LoRA(alpha=3, rslora=True, **QV)),
        ({"use_dora": True, "lora_dropout": 0.1}, DoRA(alpha=8, **QV)),
    ],
    ids=named,
)
def test_what_peft_alone_has_saved_is_read(fields, method, tmp_path) -> None:
    theirs = from_peft(tmp_path, **fields).eval()
    ours = attached(method).eval()
    method.load(ours, tmp_path)
    expected = run_llama(theirs)["logits"]
    torch.testing.assert_close(run_llama(ours)["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "method", "words"),
    [
        ({"lora_alpha": 32}, LoRA(alpha=8, **QV), "lora_alpha=32"),
        ({"use_rslora": True}, LoRA(alpha=8, **QV), "use_rslora=True"),
        ({"r": 8}, LoRA(alpha=8, **QV), "r=8, this method has r=4"),
        ({"use_dora": True}, LoRA(alpha=8, **QV), "use_dora=True"),
        ({"rank_pattern": {"q_proj": 2}}, LoRA(alpha=8, **QV), "rank_pattern="),
        ({"alpha_pattern": {"q_proj": 2}}, LoRA(alpha=8, **QV), "alpha_pattern="),
        ({"target_modules": ["q_proj"]}, LoRA(alpha=8, **QV), "does not name model.layers.0"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, LoRA(alpha=8, **QV), "names o_proj"),
        ({"init_lora_weights": "pissa"}, LoRA(alpha=8, **QV), "init_lora_weights='pissa'"),
        (
            {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"},
            LoRA(alpha=8, **QV),
            "alora_invocation_tokens=[1, 2]",
        ),
    ],
    ids=named,
)
def test_what_peft_saved_with_another_meaning_is_refused(fields, method, words, tmp_path) -> None:
    from_peft(tmp_path, **fields)
    message = refusal(method, tmp_path)
    assert words in message and "adapter_config.json" in message


def test_the_bridge_compares_the_tuners_own_fields(tmp_path) -> None:
    def lora(**fields: Any) -> Peft:
        return Peft(peft_config={"peft_type": "LORA", "r": 4} | fields)

    saved(lora(lora_alpha=16), tmp_path / "bridge")
    assert "lora_alpha=16" in refusal(lora(), tmp_path / "bridge")
    lora(lora_alpha=16, lora_dropout=0.1).load(attached(lora(lora_alpha=16)), tmp_path / "bridge")
    from_peft(tmp_path / "peft", lora_alpha=16)
    few = {"target_modules": ["q_proj", "v_proj"]}
    assert "lora_alpha=16" in refusal(lora(**few), tmp_path / "peft")
    lora(lora_alpha=16, **few).load(attached(lora(**few)), tmp_path / "peft")


# ------------------------------------------------------------------------------- whole or nothing


@pytest.mark.parametrize(
    "method", [MoRA(rank=4), LoRA(rank=4), Peft(peft_config={"peft_type": "LORA"})], ids=named
)
def test_a_save_that_fails_leaves_the_former_one(method: Method, tmp_path, monkeypatch) -> None:
    model = saved(method, tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    monkeypatch.setattr(method, "settings", lambda: {"not": {"for", "JSON"}})
    with pytest.raises(TypeError):
        method.save(model, tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    method.load(model, tmp_path)


def test_nothing_but_the_saved_files_is_left(tmp_path) -> None:
    saved(LoRA(rank=4), tmp_path)
    names = {"adapter_model.safetensors", "adapter_config.json", "method.json"}
    assert {f.name for f in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "method.json").read_text())["settings"]["alpha"] == 8


@pytest.mark.parametrize("also_train", [[], ["*norm"]], ids=str)
def test_another_method_s_files_do_not_stay_behind(also_train: list[str], tmp_path) -> None:
    saved(LoRA(rank=8), tmp_path)
    (tmp_path / "README.md").write_text("mine")
    here: list[AdapterMethod] = [MoRA(rank=4)]
    if also_train:
        here = [LoRA(rank=4, also_train=also_train)]
    model = saved(here[0], tmp_path)
    names = {"adapter_model.safetensors", "method.json", "README.md"}
    assert {f.name for f in tmp_path.iterdir()} == names
    plain = llama()
    assert type(load_adapter(plain, tmp_path)) is type(here[0])
    assert torch.equal(run_llama(plain)["logits"], run_llama(model.eval())["logits"])


def structure(model: nn.Module) -> list[Any]:
    modules = [(n, id(m)) for n, m in model.named_modules()]
    return modules + [(n, id(p), p.requires_grad, p.dtype) for n, p in model.named_parameters()]


@pytest.mark.parametrize(
    "method",
    [
        MoRA(rank=4, also_train=["*norm"]),
        LoRA(rank=4),
        FFT(),
        Peft(peft_config={"peft_type": "LORA"}),
    ],
    ids=named,
)
def test_a_file_that_is_cut_off_leaves_the_model_alone(method: Method, tmp_path) -> None:
    saved(method, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    model = llama()
    before = structure(model)
    with pytest.raises(MethodError, match=r"adapter_model\.safetensors cannot be read"):
        load_adapter(model, tmp_path)
    assert structure(model) == before
    method.attach(model)
    with pytest.raises(MethodError, match=r"adapter_model\.safetensors cannot be read"):
        method.load(model, tmp_path)


@pytest.mark.parametrize("method", [MoRA(rank=4, also_train=["*norm"]), LoRA(rank=4)], ids=named)
def test_an_adapter_that_does_not_fit_leaves_the_model_alone(method: Method, tmp_path) -> None:
    saved(method, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    state.pop(sorted(state)[-1])
    save_file(state, file)
    model = llama().bfloat16()
    before = structure(model)
    with pytest.raises(MethodError, match="the saved adapter has no "):
        load_adapter(model, tmp_path)
    assert structure(model) == before
    run_llama(model)


# ------------------------------------------------------------------------------- before a restart


@pytest.mark.parametrize("kind", [ReLoRA, ReMoRA])
@pytest.mark.parametrize("by", ["state", "file"])
def test_a_state_from_before_a_restart_brings_the_original_base_back(kind, by, tmp_path) -> None:
    method = kind(rank=4, learning_rate=1e-2, restart_every=2, restart_warmup=1)
    model = attached(method, nudge=True)
    base = {n: layer.base.weight.clone() for n, layer in adapted_layers(model)}
    method.save(model, tmp_path)
    state = {n: t.clone() for n, t in method.state(model).items()}
    expected, deltas = run_llama(model.eval()), method.delta_weights(model)
    optimizer = torch.optim.AdamW(method.parameter_groups(model))
    method.after_step(model, optimizer, 2)
    assert all(layer.original is not None for _, layer in adapted_layers(model))
    if by == "state":
        method.load_state(model, state)
    else:
        method.load(model, tmp_path)
    for name, layer in adapted_layers(model):
        assert torch.equal(layer.base.weight, base[name]) and layer.original is None
    assert all(torch.equal(d, deltas[n]) for n, d in method.delta_weights(model).items())
    assert torch.equal(run_llama(model)["logits"], expected["logits"])


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    """Not even the layers before the one that is missing."""
    method: AdapterMethod = MoRA(rank=4)
    model, other = attached(method, nudge=True), attached(method)
    state = method.state(model)
    del state[next(reversed(state))]
    with pytest.raises(MethodError, match=r"has no model\.layers\.1"):
        method.load_state(other, state)
    assert not any(d.any() for d in method.delta_weights(other).values())


def test_full_fine_tuning_has_nothing_to_compare(tmp_path) -> None:
    model = saved(FFT(learning_rate=1.0), tmp_path)
    fresh = attached(FFT())
    FFT().load(fresh, tmp_path)
    assert torch.equal(run_llama(fresh)["logits"], run_llama(model)["logits"])
    assert type(load_adapter(llama(), tmp_path)) is FFT


def test_full_fine_tuning_saves_running_statistics(tmp_path) -> None:
    """And no buffer that the model itself does not save."""

    def normed() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        model.register_buffer("scratch", torch.zeros(1), persistent=False)
        return model

    method, model, x = FFT(target_modules=["0"]), normed(), torch.randn(8, 4)
    method.attach(model)
    model.train()(x)
    method.save(model, tmp_path)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == model.state_dict().keys()
    fresh = normed()
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    state = method.state(model)
    with pytest.raises(MethodError, match=r"the saved 1\.running_mean has shape \(3,\)"):
        method.load_state(normed(), state | {"1.running_mean": torch.zeros(3)})
    older = {name: state[name] for name, _ in model.named_parameters()}  # as it was saved at first
    untouched = normed()
    method.load_state(untouched, older)
    assert torch.equal(untouched[1].running_mean, torch.zeros(4))
    assert torch.equal(untouched[0].weight, model[0].weight)
