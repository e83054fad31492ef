"""MoRA in TRL's SFTTrainer and DPOTrainer, as a method of this package and as a tuner of peft."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch import nn
from transformers import ByT5Tokenizer

from methods import LoRAPlus, MoRA, load_adapter
from methods.contract import llama, run_llama
from methods.peft_tuner import MoraConfig
from methods.trainer import connect

trl = pytest.importorskip("trl", reason="the package trl is not installed")

ROWS = [{"input_ids": row} for row in (torch.arange(96).reshape(12, 8) * 7 % 256).tolist()]


def trainer(folder: Path, model: nn.Module, **more: Any) -> Any:
    args = trl.SFTConfig(
        output_dir=str(folder), max_steps=6, save_steps=3, per_device_train_batch_size=4,
        learning_rate=1e-2, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True,
        bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list(ROWS)
    tokenizer = ByT5Tokenizer()
    return trl.SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer, **more)


def losses(of: Any) -> list[float]:
    return [entry["loss"] for entry in of.state.log_history if "loss" in entry]


@pytest.mark.parametrize("method", [MoRA(rank=4), LoRAPlus(rank=4)], ids=lambda m: m.name)
def test_a_method_trains_saves_and_resumes(method: Any, tmp_path: Path) -> None:
    def made(folder: Path) -> Any:
        model = llama()
        torch.manual_seed(0)
        method.attach(model)
        of = trainer(folder, model)
        connect(of, method)
        return of

    whole = made(tmp_path / "whole")
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    again = made(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(again)[-3:] == losses(whole)[-3:]
    again.save_model(str(tmp_path / "final"))
    files = {file.name for file in (tmp_path / "final").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    read = llama()
    load_adapter(read, tmp_path / "final")
    assert torch.equal(run_llama(read)["logits"], run_llama(whole.model.eval())["logits"])


def test_a_tuner_of_peft_trains_saves_and_resumes(tmp_path: Path) -> None:
    config = MoraConfig(r=4, task_type="CAUSAL_LM")
    whole = trainer(tmp_path / "whole", llama(), peft_config=config)
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    again = trainer(tmp_path / "again", llama(), peft_config=config)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(again)[-3:] == losses(whole)[-3:]
    files = {file.name for file in (tmp_path / "whole" / "checkpoint-6").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files


@pytest.mark.slow
def test_dpo_refers_to_the_adapter_that_was_trained_before(tmp_path: Path) -> None:
    """At rate 0 the policy is its own reference, whose loss is log 2."""
    config = copy.deepcopy(llama().config)
    config.vocab_size = len(ByT5Tokenizer())
    torch.manual_seed(0)
    model = get_peft_model(type(llama())(config), MoraConfig(r=4, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    rows = [{"prompt": f"ab{i}", "chosen": "yes", "rejected": "no!"} for i in range(4)]
    args = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=1, learning_rate=0.0, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list(rows)
    of = trl.DPOTrainer(model, args=args, train_dataset=data, processing_class=ByT5Tokenizer())
    of.train()
    assert losses(of) == pytest.approx([math.log(2)], abs=1e-6)
