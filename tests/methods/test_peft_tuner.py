"""MoRA as a tuner of peft: the same delta W as ours, and all that peft does with its own tuners."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods import MethodError, MoRA
from methods.contract import llama, run_llama
from methods.mora import Square
from methods.operators import OperatorName
from methods.peft_bridge import Peft
from methods.peft_tuner import MoraConfig, tuner
from tests.methods.conftest import SHAPES, inputs
from tests.methods.steps import losses

OPERATORS = get_args(OperatorName)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model, its trainable parameters drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def adapted(seed: int = 0, **fields: Any) -> Any:
    """The small LLaMA with a MoRA of peft whose M is not zero."""
    fields = {"r": 4, "operator": "rotation"} | fields
    return randomised(get_peft_model(llama(), MoraConfig(**fields)), seed).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return run_llama(model)["logits"]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


# --------------------------------------------------------------------------------------- the same


@pytest.mark.parametrize("compat", ["exact", "published"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_agrees_with_our_mora_at_every_shape(shapes, operator: str, compat: str) -> None:
    settings = {"operator": operator, "compat": compat}
    ours, xs = shapes(), inputs(6)
    MoRA(rank=8, target_modules=list(SHAPES), compute="plain", **settings).attach(ours)
    config = MoraConfig(r=8, target_modules=list(SHAPES), **settings)
    theirs = get_peft_model(shapes(), config)
    assert all(torch.equal(y, shapes()(xs)[k]) for k, y in theirs(xs).items())  # the start
    randomised(ours), randomised(theirs)
    expected, found = ours(xs), theirs(xs)
    sum(y.square().sum() for y in expected.values()).backward()
    sum(y.square().sum() for y in found.values()).backward()
    for name in SHAPES:
        layer = theirs.base_model.model.layers[name]
        assert close(found[name], expected[name]), name
        assert close(layer.mora_M["default"].weight.grad, ours.layers[name].M.grad), name
        assert close(layer.get_delta_weight("default"), ours.layers[name].delta_weight()), name


@pytest.mark.parametrize("operator", OPERATORS)
def test_m_is_turned_in_its_own_precision_and_rounded_then(operator: OperatorName) -> None:
    """So that gradients in bf16 are as near as those of our own layers."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(64, size, generator=generator).bfloat16() for size in (256, 128))
    made = MoRA(rank=6, operator=operator).build(256, 128)
    base = nn.Linear(256, 128, bias=False, dtype=torch.bfloat16)
    theirs = tuner.MoraLinear(base, "default", MoraConfig(r=6, operator=operator))
    m = nn.Parameter(0.1 * torch.randn(made.side, made.side, generator=generator))
    theirs.mora_M["default"].weight = m

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.grad(y, m, dy.to(y.dtype))[0].double()

    ours, exact = Square(made), gradient(made.apply(x.double(), m))
    ways = ours.plain(x, x, base.weight, None, m), ours.added(x, m), theirs(x)
    plain, *others = (float((gradient(y) - exact).norm() / exact.norm()) for y in ways)
    assert 0 < plain < 4e-3 and others == pytest.approx([plain] * 2, rel=0.05)


def test_adapts_by_default_what_ours_does() -> None:
    ours = llama()
    MoRA(rank=8, compute="plain").attach(ours)
    theirs = get_peft_model(llama(), MoraConfig(r=8, operator="rotation"))
    names = sorted(theirs.base_model.targeted_module_names)
    assert names == sorted(
        n.removesuffix(".M") for n, p in ours.named_parameters() if p.requires_grad
    )
    assert close(logits(randomised(theirs)), logits(randomised(ours)))


def test_layers_to_transform_holds_for_the_default_targets_too() -> None:
    model = get_peft_model(llama(), MoraConfig(r=4, layers_to_transform=[0]))
    names = model.base_model.targeted_module_names
    everywhere = get_peft_model(llama(), MoraConfig(r=4)).base_model.targeted_module_names
    assert sorted(names) == sorted(n for n in everywhere if n.startswith("model.layers.0."))
    assert 0 < len(names) < len(everywhere)


def test_conv1d_stores_its_weight_the_other_way_round() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    conv, x = nn.Sequential(Conv1D(70, 50)), torch.randn(3, 50)
    model = get_peft_model(conv, MoraConfig(target_modules=["0"], fan_in_fan_out=True))
    expected = randomised(model)(x)
    assert close(model.merge_and_unload()(x), expected, 1e-5)


def test_dropout_is_of_training_alone() -> None:
    model = adapted(mora_dropout=0.5)
    assert torch.equal(logits(model), logits(adapted()))
    model.train()
    assert not close(logits(model), logits(model), 1e-3)


# ------------------------------------------------------------------------------ what peft can do


@pytest.mark.parametrize("operator", OPERATORS)
def test_saved_and_read(operator: str, tmp_path: Path) -> None:
    model = adapted(
        operator=operator, input_groups="contiguous", target_modules=["q_proj", "up_proj"]
    )
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["operator"]) == ("MORA", 4, operator)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert (
        "base_model.model.model.layers.0.self_attn.q_proj.mora_M.weight" in names
        and len(names) == 4
    )
    assert type(PeftConfig.from_pretrained(tmp_path)) is MoraConfig
    again = PeftModel.from_pretrained(llama(), tmp_path)
    assert close(logits(again), logits(model))
    assert not any(p.requires_grad for p in again.parameters())
    trained = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True)
    assert sum(p.requires_grad for p in trained.parameters()) == 4


def test_a_file_that_names_m_without_its_module_is_read(tmp_path: Path) -> None:
    """As this package wrote it at first."""
    model = adapted()
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state = {key.removesuffix(".weight"): value for key, value in load_file(file).items()}
    assert all(key.endswith(".mora_M") for key in state)
    save_file(state, file)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path)), logits(model))
    bridge = Peft(peft_config=MoraConfig(r=4, operator="rotation"))
    plain = llama()
    bridge.attach(plain)
    bridge.load(plain, tmp_path)
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unload_gives_a_plain_model(safe: bool) -> None:
    model = adapted()
    expected = logits(model)
    plain = model.merge_and_unload(safe_merge=safe)
    assert type(plain) is type(llama()) and close(logits(plain), expected, 1e-5)
    assert [n for n, _ in plain.named_modules()] == [n for n, _ in llama().named_modules()]


def test_safe_merge_refuses_what_is_not_finite() -> None:
    model = adapted(target_modules=["q_proj"])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    before = layer.weight.clone()
    with torch.no_grad():
        layer.mora_M["default"].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"NaNs detected .* adapter default seems to be broken"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.weight, before) and not layer.merged


def test_merging_and_taking_back() -> None:
    model, base = adapted(), logits(llama())
    expected = logits(model)
    model.merge_adapter()
    assert close(logits(model), expected, 1e-5)
    model.unmerge_adapter()
    assert close(logits(model), expected, 1e-5)
    model.merge_adapter()
    with model.disable_adapter():
        assert close(logits(model), base, 1e-5)


def test_disabling_gives_the_base_model() -> None:
    model = adapted()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(llama()))
    assert not close(logits(model), logits(llama()), 1e-2)


def test_several_adapters_are_added_chosen_and_deleted() -> None:
    model = adapted(seed=1)
    model.add_adapter("other", MoraConfig(r=2, operator="sharing"))
    first = logits(model)
    assert torch.equal(first, logits(adapted(seed=1)))  # the first is still the active one
    model.set_adapter("other")
    assert torch.equal(logits(model), logits(llama()))
    randomised(model, seed=2)
    other = logits(model)
    assert close(other, logits(adapted(seed=2, r=2, operator="sharing")))
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not close(both, first, 1e-3) and not close(both, other, 1e-3)
    merged = model.merge_and_unload(adapter_names=["default", "other"])
    assert close(logits(merged), both, 1e-5)


def test_every_parameter_has_its_adapter_s_name_between_dots() -> None:
    """By which others find and copy an adapter, such as TRL's DPOTrainer."""
    model = adapted()
    model.add_adapter("other", MoraConfig(r=2))
    found = [n for n, _ in model.named_parameters() if "mora_" in n]
    assert found and all(".default." in n or ".other." in n for n in found)


def test_a_configuration_fits_the_next_model_as_if_it_were_new() -> None:
    config = MoraConfig(r=2)
    get_peft_model(llama(), config)
    deep = copy.deepcopy(llama().config)
    deep.num_hidden_layers, deep.layer_types = 4, None
    names = get_peft_model(type(llama())(deep), config).base_model.targeted_module_names
    assert len(names) == 2 * len(get_peft_model(llama(), config).base_model.targeted_module_names)


def test_all_linear_is_the_linear_layers_also_where_others_are_named_alike() -> None:
    layers, norms = nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleList([nn.LayerNorm(8)])
    model = nn.ModuleDict({"layers": layers, "norms": norms})
    config = MoraConfig(r=2)
    assert get_peft_model(model, config).base_model.targeted_module_names == ["layers.0"]


def test_a_batch_of_several_adapters_is_refused() -> None:
    model, ids = adapted(), torch.arange(24).reshape(2, 12)
    for run in (model, model.generate):
        with pytest.raises(MethodError, match="MoRA has no mixed batches"):
            run(input_ids=ids, adapter_names=["default", "__base__"])


def test_a_deleted_adapter_leaves_nothing_behind() -> None:
    model = adapted(seed=1)
    first = logits(model)
    model.add_adapter("other", MoraConfig(r=2))
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)
    assert "other" not in str(list(model.state_dict())) + str(model)


def test_bfloat16_base_trains_in_float32_and_merges_rounded_once() -> None:
    model = randomised(get_peft_model(llama().bfloat16(), MoraConfig(r=4))).eval()
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    expected = (layer.weight.float() + layer.get_delta_weight("default")).bfloat16()
    before = logits(model)
    merged = model.merge_and_unload()
    assert before.dtype == torch.bfloat16 and close(logits(merged).float(), before.float(), 0.1)
    assert torch.equal(merged.model.layers[0].mlp.up_proj.weight, expected)


def test_training_moves_m_alone() -> None:
    model = get_peft_model(llama(), MoraConfig(r=4))
    base = {n: p.clone() for n, p in llama().named_parameters()}
    found = losses(model)
    assert found[-1] < found[0]
    for name, parameter in model.unload().named_parameters():
        assert torch.equal(parameter, base[name]), name


# -------------------------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, "r=0 must be a whole number of at least 1"),
        ({"operator": "mobius"}, "truncation | sharing | decoupling | rotation"),
        ({"compat": "both"}, "choose exact | published"),
        ({"mora_dropout": 1.0}, "mora_dropout=1.0 must be at least 0 and below 1"),
        ({"mora_dropout": "0.1"}, "mora_dropout='0.1' must be a number"),
        ({"mora_dropout": None}, "mora_dropout=None must be a number"),
        ({"layers_pattern": "layers"}, "no meaning without layers_to_transform"),
        (
            {"target_modules": r".*\.q_proj", "layers_to_transform": [0]},
            r"have no meaning with a pattern (target_modules='.*\\.q_proj')",
        ),
    ],
    ids=str,
)
def test_settings_that_mean_nothing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError) as error:
        MoraConfig(**fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 17}, "k_proj: rank=17 is above the rank that a weight of 32 inputs and 16 outputs"),
        ({"target_modules": ["embed_tokens"]}, "model.embed_tokens: it is a Embedding, and MoRA"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_adapted(fields: dict[str, Any], message: str) -> None:
    model = llama()
    before = [(id(m), m.training) for m in model.modules()]
    with pytest.raises(MethodError, match=r"^layer model") as error:
        get_peft_model(model, MoraConfig(**fields))
    assert message in str(error.value)
    assert [(id(m), m.training) for m in model.modules()] == before
    # Whatever is adapted next is adapted as if nothing had been: the base is frozen.
    trained = get_peft_model(model, MoraConfig(r=4, target_modules=["up_proj"]))
    assert all("up_proj.mora_M" in n for n, p in trained.named_parameters() if p.requires_grad)


def test_a_further_adapter_that_is_refused_leaves_the_first_alone() -> None:
    model = adapted()
    before = logits(model), [n for n, _ in model.named_parameters()]
    with pytest.raises(MethodError, match="k_proj: rank=17"):
        model.add_adapter("big", MoraConfig(r=17))
    assert torch.equal(logits(model), before[0])
    assert [n for n, _ in model.named_parameters()] == before[1]


def test_a_layer_that_is_never_called_is_refused() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    with pytest.raises(MethodError, match=r"^layer attention\.out_proj: MultiheadAttention takes"):
        get_peft_model(model, MoraConfig(r=2, target_modules=["out_proj"]))


def test_another_mora_in_peft_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, "MORA", LoraConfig)
    with pytest.raises(ImportError, match="has a MORA of its own"):
        tuner.register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING["MORA"] is LoraConfig
