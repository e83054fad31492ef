"""Tuners of peft as methods: contract, format, and what the bridge refuses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import nn

from methods import MethodError, load_adapter
from methods.contract import llama, run_llama
from methods.peft_bridge import Peft
from methods.peft_tuners import TUNERS, main, subject_of, violations


def nudged(method: Peft, model: nn.Module) -> nn.Module:
    """``model`` with the tuner attached, away from its start."""
    method.attach(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


# VeRA passes in test_contract.py, as the default of conf/method/peft.yaml.
PASS = ("LoRA", "IA3")
SLOW = ("DoRA", "PiSSA", "HiRA", "RandLoRA", "OFT", "LoKr")


@pytest.mark.parametrize(
    "tuner", [*PASS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_tuner_keeps_the_contract(tuner: str) -> None:
    assert violations(subject_of(tuner)) == {}


def test_the_table_names_what_a_tuner_does_not_keep(capsys) -> None:
    assert main(["SHiRA", "Lily"]) == 0
    out = capsys.readouterr().out
    assert "11 of 11" in out and "5 of 11" in out
    assert "Lily, merge: peft cannot merge Lily (peft)" in out
    with pytest.raises(SystemExit) as error:
        main(["GaLore"])
    assert error.value.code == 2 and "unknown tuner GaLore; choose LoRA" in capsys.readouterr().err


@pytest.mark.parametrize("tuner", ["VeRA", "LoKr"])
def test_peft_reads_what_the_bridge_saves(tuner: str, tmp_path) -> None:
    subject = subject_of(tuner)
    method, model = subject.trained()
    method.save(model, tmp_path)
    found = subject.outputs(PeftModel.from_pretrained(llama(), tmp_path))["logits"]
    torch.testing.assert_close(found, subject.outputs(model)["logits"], rtol=1e-5, atol=1e-5)


def test_delta_weight_is_peft_s_own() -> None:
    method, model = subject_of("LoKr").trained()
    deltas = method.delta_weights(model)
    for name, delta in deltas.items():
        expected = model.get_submodule(name).get_delta_weight("default").detach()
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-6)


def test_a_configuration_object_and_its_fields_mean_the_same() -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    objects = Peft(peft_config=config, learning_rate=1e-3)
    assert objects.label == "Lora (peft)" and objects.target_modules == ("q_proj", "v_proj")
    assert objects.settings()["rank"] == 4
    again = Peft(**objects.settings())
    assert again.settings() == objects.settings()
    lists = OmegaConf.create({"modules": ["q_proj"]}).modules  # what Hydra hands over unconverted
    assert Peft(peft_config=peft.LoraConfig(target_modules=lists), learning_rate=1e-3).settings()


def test_the_method_s_patterns_apply_where_the_configuration_names_none() -> None:
    method = Peft(
        peft_config=TUNERS["LoRA"], learning_rate=1e-3, target_modules=["layers.0.*.q_proj"]
    )
    model = llama()
    method.attach(model)
    assert list(method.delta_weights(model)) == ["model.layers.0.self_attn.q_proj"]
    run_llama(method.merge(model))


@pytest.mark.parametrize(
    "beside",
    [
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=str,
)
def test_what_trains_beside_the_tuner_is_merged_too(beside: dict[str, Any], tmp_path: Path) -> None:
    method = Peft(peft_config={"peft_type": "LORA", "r": 4} | beside)
    model = nudged(method, llama())
    expected = run_llama(model)["logits"]
    assert len(method.delta_weights(model)) == 14
    method.save(model, tmp_path / "adapter")
    again = llama()
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(run_llama(again.eval())["logits"], expected)
    method.merge(model)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in llama().named_modules()]
    model.save_pretrained(tmp_path / "merged")
    read = type(model).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(run_llama(read)["logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
def test_a_wrapped_model(wrap: Any, when: str) -> None:
    """Wrapped before or after attaching, it is the model inside that is adapted and merged."""
    method, model = Peft(peft_config={"peft_type": "LORA", "r": 4}), llama()
    if when == "before":
        wrapped = wrap(model)
        nudged(method, wrapped)
    else:
        wrapped = wrap(nudged(method, model))
    expected = run_llama(model)["logits"]
    assert "model.layers.0.self_attn.q_proj" in method.delta_weights(wrapped)
    assert method.merge(wrapped) is wrapped and method.merge(wrapped) is wrapped
    assert {n: type(m) for n, m in model.named_modules()} == {
        n: type(m) for n, m in llama().named_modules()
    }
    torch.testing.assert_close(run_llama(model)["logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "BOFT", "boft_block_size": 16}, "must be divisible by boft_block_size"),
        ({"peft_type": "LORA", "init_lora_weights": "nonsense"}, "Unknown initialization"),
        ({"peft_type": "LORA", "modules_to_save": ["q_proj"], "r": 0}, "should be a positive"),
    ],
    ids=lambda value: str(value.get("peft_type")) if isinstance(value, dict) else "",
)
def test_a_refused_attach_leaves_the_model_as_it_was(fields: dict[str, Any], message: str) -> None:
    model = llama()
    before = [(n, id(m)) for n, m in model.named_modules()]
    values = {n: (id(p), p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    with pytest.raises(MethodError, match=message):
        Peft(peft_config=fields).attach(model)
    assert [(n, id(m)) for n, m in model.named_modules()] == before
    for name, parameter in model.named_parameters():
        same, value, trains = values[name]
        assert id(parameter) == same and parameter.requires_grad == trains
        assert torch.equal(parameter, value)
    assert not hasattr(model, "peft_config")
    method = Peft(peft_config=TUNERS["LoRA"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        method.attach(model)
    assert len(method.delta_weights(model)) == 14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_config": {"peft_type": "MAGIC"}}, "peft_type='MAGIC' is unknown to peft; choose"),
        ({"peft_config": {"peft_type": "VERA", "rr": 1}}, "peft_config: .*'rr'"),
        ({"peft_config": 3}, "peft_config is a int, not a configuration of peft"),
        ({"peft_config": peft.PromptTuningConfig()}, "PromptTuningConfig changes no weight"),
        (
            {"peft_config": {"peft_type": "ADALORA", "total_step": 10}},
            r"AdaLoraConfig .*\(update_and_allocate\).* choose another tuner",
        ),
        (
            {"peft_config": {"peft_type": "ADAMSS", "use_asa": True}},
            "AdamssConfig .* use_asa=False",
        ),
        ({"rank": 16}, "rank=16 does not reach a tuner of peft"),
        ({"alpha": 16}, "alpha=16 does not reach a tuner"),
        ({"also_train": ["lm_head"]}, "does not reach a tuner"),
    ],
    ids=str,
)
def test_mistakes(settings, message) -> None:
    with pytest.raises(MethodError, match=message):
        Peft(**{"peft_config": TUNERS["LoRA"], "learning_rate": 1e-3} | settings)


def test_a_tuner_whose_ranks_stay_as_they_are_is_no_mistake() -> None:
    assert Peft(peft_config={"peft_type": "ADAMSS"}).label == "Adamss (peft)"


@pytest.mark.parametrize("tuner", ["VeRA", "PiSSA", "SHiRA"])
def test_a_model_without_weights_is_enough_to_find_mistakes(tuner: str) -> None:
    settings = {"peft_config": TUNERS[tuner], "learning_rate": 1e-3}
    Peft(**settings).attach(skeleton())
    with pytest.raises(MethodError, match="'query' matches no layer"):
        Peft(target_modules=["query"], **settings).attach(skeleton())


def skeleton() -> torch.nn.Module:
    model = llama()
    with torch.device("meta"):
        return type(model)(model.config)


def test_mistakes_that_show_at_the_model() -> None:
    with pytest.raises(MethodError, match="peft cannot attach Miss"):
        Peft(peft_config={"peft_type": "MISS", "r": 64}, learning_rate=1e-3).attach(llama())
    with pytest.raises(MethodError, match="'query' matches no layer"):
        Peft(peft_config=TUNERS["LoRA"], learning_rate=1e-3, target_modules=["query"]).attach(
            llama()
        )
    with pytest.raises(MethodError, match=r"layer 0\.out_proj: MultiheadAttention takes"):
        Peft(peft_config=TUNERS["LoRA"], target_modules=["out_proj"]).attach(
            torch.nn.Sequential(torch.nn.MultiheadAttention(16, 2))
        )
    with pytest.raises(MethodError, match="no tuner of peft is attached"):
        Peft(peft_config=TUNERS["LoRA"], learning_rate=1e-3).state(llama())
