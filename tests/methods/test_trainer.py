"""Methods in transformers' Trainer: groups, restarts, and checkpoints that hold adapters alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from methods import FFT, LoRA, LoRAPlus, Method, MethodError, MoRA, ReLoRA, ReMoRA, load_adapter
from methods.base import adapted_layers
from methods.contract import llama, run_llama
from methods.trainer import callback, connect, optimizer

# Twelve examples of eight tokens: three batches of four an epoch.
DATA = [{"input_ids": row, "labels": row} for row in (torch.arange(96).reshape(12, 8) * 7 % 256)]

METHODS = {
    "mora": lambda: MoRA(rank=4, operator="rotation"),
    "mora_cached": lambda: MoRA(rank=4, operator="rotation", compute="cached"),
    "mora_dropout": lambda: MoRA(rank=4, operator="sharing", dropout=0.2),
    "lora_plus": lambda: LoRAPlus(rank=4, lr_ratio=16),
    "beside": lambda: MoRA(rank=4, also_train=["*norm"]),
    "relora": lambda: ReLoRA(rank=4, restart_every=3, restart_warmup=1),
    "remora": lambda: ReMoRA(rank=4, restart_every=3, restart_warmup=1),
}


def trainer(
    folder: Path,
    method: Method,
    model: nn.Module | None = None,
    chosen: Any = None,
    **arguments: Any,
) -> Any:
    """A connected Trainer: 8 steps, a checkpoint after every fourth."""
    if model is None:
        model = llama()
        torch.manual_seed(3)
        method.attach(model)
    settings = {
        "max_steps": 8,
        "save_steps": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(output_dir=str(folder), **(settings | arguments))
    made = Trainer(
        model, args, train_dataset=DATA, eval_dataset=DATA[:4], optimizer_cls_and_kwargs=chosen
    )
    connect(made, method)
    return made


def losses(of: Any) -> list[float]:
    return [entry["loss"] for entry in of.state.log_history if "loss" in entry]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return run_llama(model.eval())["logits"]


@pytest.mark.parametrize("name", METHODS)
def test_adapters_are_saved_and_a_resumed_run_goes_on_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    whole = trainer(tmp_path / "whole", METHODS[name]())
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    whole.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "whole" / "checkpoint-8", tmp_path / "final"):
        files = {file.name for file in folder.iterdir()}
        assert {"adapter_model.safetensors", "method.json", "training_args.bin"} <= files
        assert not {"model.safetensors", "pytorch_model.bin", "config.json"} & files
        plain = llama()
        load_adapter(plain, folder)
        assert torch.equal(logits(plain), logits(whole.model))
    values = sum(v.numel() for v in load_file(folder / "adapter_model.safetensors").values())
    if not hasattr(whole.method, "restart_every"):  # a restart leaves its sum in the base weight
        assert values == sum(p.numel() for p in whole.model.parameters() if p.requires_grad)

    again = trainer(tmp_path / "again", METHODS[name]())
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert losses(again)[-4:] == losses(whole)[-4:]
    assert same(again.method.state(again.model), whole.method.state(whole.model))
    deltas = again.method.delta_weights(again.model), whole.method.delta_weights(whole.model)
    assert same(*deltas)  # since the original base weight, restarts included


@pytest.mark.parametrize("name", ["mora", "remora"])
def test_the_best_checkpoint_comes_back(name: str, tmp_path: Path) -> None:
    best = trainer(
        tmp_path, METHODS[name](), eval_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    best.train()
    folder = Path(best.state.best_model_checkpoint)
    assert folder.name == "checkpoint-2"  # the highest loss is the best here
    plain = llama()
    load_adapter(plain, folder)
    assert torch.equal(logits(plain), logits(best.model))
    evaluated = best.evaluate()["eval_loss"]
    assert evaluated == pytest.approx(best.state.best_metric, rel=1e-6)


def test_the_methods_rates_are_the_optimisers(tmp_path: Path) -> None:
    of = trainer(tmp_path, METHODS["lora_plus"](), weight_decay=0.1, lr_scheduler_type="constant")
    of.create_optimizer()
    groups = of.optimizer.param_groups
    assert [g["lr"] for g in groups] == [1e-2, 16e-2]
    assert {g["weight_decay"] for g in groups} == {0.1}
    trained = {id(p) for p in of.model.parameters() if p.requires_grad}
    assert {id(p) for g in groups for p in g["params"]} == trained
    own = trainer(tmp_path, LoRA(rank=4, learning_rate=3e-3))
    assert own.create_optimizer().param_groups[0]["lr"] == 3e-3
    assert own.method.learning_rate == 3e-3


def test_weight_decay_spares_what_the_trainer_spares(tmp_path: Path) -> None:
    of = trainer(tmp_path, METHODS["beside"](), weight_decay=0.1)
    own = Trainer(of.model, of.args, train_dataset=DATA)

    def decay(made: Any) -> dict[int, float]:
        groups = made.create_optimizer().param_groups
        return {id(p): g["weight_decay"] for g in groups for p in g["params"]}

    found = decay(of)
    assert found == decay(own) and set(found.values()) == {0.0, 0.1}


def test_model_init_attaches_the_method_to_each_model(tmp_path: Path) -> None:
    method = METHODS["mora"]()

    def model_init() -> nn.Module:
        model = llama()
        method.attach(model)
        return model

    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no"
    )
    of = Trainer(args=args, train_dataset=DATA, model_init=model_init)
    connect(of, method)
    of.train()
    of.save_model(str(tmp_path / "final"))
    assert load_file(tmp_path / "final" / "adapter_model.safetensors")
    outside = Trainer(args=args, train_dataset=DATA, model_init=llama)
    method.attach(outside.model)
    connect(outside, method)
    with pytest.raises(MethodError, match="attach the method inside model_init"):
        outside.train()
    outside.model = llama()
    with pytest.raises(MethodError, match="attach the method inside model_init"):
        outside.save_model(str(tmp_path / "empty"))
    assert not (tmp_path / "empty" / "adapter_model.safetensors").exists()


def test_callback_and_optimiser_alone_resume_a_restarted_run(tmp_path: Path) -> None:
    def made(folder: Path) -> Any:
        model, method = llama(), METHODS["remora"]()
        method.attach(model)
        args = TrainingArguments(
            output_dir=str(folder), max_steps=6, save_steps=4, logging_steps=1, report_to="none",
            per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        groups = optimizer(method, model, args)
        of = Trainer(
            model, args, train_dataset=DATA, optimizers=(groups, None), callbacks=[callback(method)]
        )
        of.method = method
        return of

    whole, again = made(tmp_path / "whole"), made(tmp_path / "again")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert losses(again)[-2:] == losses(whole)[-2:]
    deltas = again.method.delta_weights(again.model), whole.method.delta_weights(whole.model)
    assert same(*deltas)


def test_an_optimiser_s_class_of_ones_own_is_taken(tmp_path: Path) -> None:
    chosen = torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}
    of = trainer(tmp_path, METHODS["lora_plus"](), chosen=chosen, weight_decay=0.1)
    made = of.create_optimizer()
    assert type(made) is torch.optim.SGD
    assert [g["lr"] for g in made.param_groups] == [0.5, 8.0]
    assert {(g["momentum"], g["weight_decay"]) for g in made.param_groups} == {(0.9, 0.1)}
    assert chosen[1] == {"lr": 0.5, "momentum": 0.9}
    own = trainer(tmp_path, LoRA(rank=4, learning_rate=3e-3), chosen=chosen)
    assert own.create_optimizer().param_groups[0]["lr"] == 3e-3


@pytest.mark.parametrize(
    "chosen",
    [
        (lambda: torch.optim.SGD, {}),
        (torch.optim.SGD, {"params": []}),
        (torch.optim.SGD, {"model": None}),
        (torch.optim.SGD, {"optimizer_dict": {}}),
    ],
    ids=["factory", "params", "model", "optimizer_dict"],
)
def test_an_optimiser_that_chooses_its_own_parameters_is_refused(
    chosen: Any, tmp_path: Path
) -> None:
    of = trainer(tmp_path, METHODS["lora_plus"](), chosen=chosen)
    with pytest.raises(MethodError, match=r"chooses its parameters itself.*optimizers=\("):
        of.create_optimizer()


def test_restarts_come_after_the_optimisers_step(tmp_path: Path) -> None:
    of = trainer(tmp_path, METHODS["remora"](), max_steps=3, gradient_accumulation_steps=2)
    of.method.restart_at_end = True
    of.train()
    assert of.state.global_step == 3
    for _, layer in adapted_layers(of.model):
        assert layer.original is not None and not layer.M.any()
        assert not torch.equal(layer.base.weight.cpu(), layer.original)
        assert layer.M not in of.optimizer.state
    ends = trainer(tmp_path, METHODS["remora"](), max_steps=3)
    ends.train()  # no restart where no step follows
    assert all(layer.original is None for _, layer in adapted_layers(ends.model))


def test_an_optimiser_of_ones_own_is_kept(tmp_path: Path) -> None:
    model, method = llama(), METHODS["mora"]()
    method.attach(model)
    own = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    of = Trainer(model, args, train_dataset=DATA, optimizers=(own, None))
    connect(of, method)
    assert of.create_optimizer() is own


def test_refusals_in_words(tmp_path: Path) -> None:
    model = llama()
    with pytest.raises(MethodError, match="MoRA is not attached to the Trainer's model"):
        trainer(tmp_path, METHODS["mora"](), model)
    with pytest.raises(MethodError, match="FFT trains the model itself"):
        trainer(tmp_path, FFT(), model)
    of = trainer(tmp_path, METHODS["mora"]())
    with pytest.raises(MethodError, match="MoRA is connected already"):
        connect(of, of.method)
    of.train()
    other = trainer(tmp_path, MoRA(rank=8))
    with pytest.raises(MethodError, match="saved with rank=4, this method has rank=8"):
        other.train(resume_from_checkpoint=True)
