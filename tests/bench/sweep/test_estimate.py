"""Estimates: sizes, FLOPs, memory against measured peaks, and the refusal of what cannot fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import records
from bench.run import models
from bench.run.build import build
from bench.sweep import dryrun, estimate, footprint
from bench.sweep.shapes import shape_of, trained
from methods import Method, kept

ROOT = Path(__file__).resolve().parents[3]
ALONE = {"strategy": "none", "processes": 1}


def conf(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text()))


def method(name: str, **settings: Any) -> Method:
    made: Method = build({"_target_": name, "learning_rate": 1e-3, **settings})
    return made


def config(model: str, batch: int = 1, **trainer: Any) -> dict[str, Any]:
    """What an estimate reads of a cell's configuration."""
    settings = conf("trainer", "default") | {"batch_size": batch} | trainer
    return {
        "model": conf("model", model),
        "task": {"name": "instruction", "max_tokens": 2048},
        "precision": "bf16",
        "distributed": ALONE,
        "analysis": {"spectrum": False, "rank_cuts": []},
        "trainer": settings,
    }


# ---- sizes and FLOPs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama2_7b", 6_738_415_616),
        ("llama3_8b", 8_030_261_248),
        ("smollm2_135m_wheel", 134_515_008),
        ("llama_250m", 247_524_096),
    ],
)
def test_sizes_of_models_that_are_not_loaded(name: str, parameters: int) -> None:
    shape = shape_of(conf("model", name))
    assert shape is not None and shape.parameters == parameters


def test_a_model_that_lies_elsewhere_is_not_known() -> None:
    assert shape_of(conf("model", "hub") | {"source": "no/such"}) is None


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("methods.fft.FFT", {}),
        ("methods.lora.LoRA", {"rank": 8, "also_train": ["embed_tokens", "lm_head", "*norm"]}),
        ("methods.mora.MoRA", {"rank": 8, "target_modules": ["q_proj", "down_proj"]}),
        ("methods.dora.DoRA", {"rank": 4}),
    ],
)
def test_trained_parameters_are_those_of_the_attached_model(
    target: str, settings: dict[str, Any]
) -> None:
    cfg = conf("model", "tiny")
    made, model = method(target, **settings), models.skeleton(cfg)
    made.attach(model)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = shape_of(cfg)
    assert shape is not None
    adapters, base = trained(shape, made)
    assert adapters + sum(base.values()) == counted


def test_flops_count_what_trains_once_more() -> None:
    """By hand: one layer of width 2, feed-forward 3, a vocabulary of 5."""
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    widths = dict(zip(keys, (2, 3, 1, 1), strict=True)) | {"vocab_size": 5}
    shape = shape_of({"kind": "scratch", "name": "t", "architecture": widths})
    assert shape is not None
    multiplied = 4 * 2 * 2 + 3 * 2 * 3 + 5 * 2
    _, everything = trained(shape, method("methods.fft.FFT"))
    _, nothing = trained(shape, method("methods.lora.LoRA", rank=1))
    assert estimate.flops(shape, everything, again=False) == 6 * multiplied
    assert estimate.flops(shape, nothing, again=False) == 4 * multiplied
    assert estimate.flops(shape, nothing, again=True) == 6 * multiplied
    assert estimate.flops(shape, {"lm_head.weight": 10}, again=False) == 4 * multiplied + 2 * 10


# ---- memory -----------------------------------------------------------------------------------


def test_memory_of_a_model_dwarfs_no_optimiser() -> None:
    """Full fine-tuning holds 16 bytes a parameter, and 4 in the optimiser's step; fsdp2 divides."""
    shape = shape_of(conf("model", "llama2_7b"))
    assert shape is not None
    cell = config("llama2_7b")
    fft, lora = method("methods.fft.FFT"), method("methods.lora.LoRA", rank=8)

    def peak(made: Method) -> int:
        return footprint.footprint(shape, made, cell, 8, cpu=False).peak

    alone = peak(fft)
    gradients = 4 * shape.parameters  # of which the optimiser's step holds as much again
    assert alone == pytest.approx(20 * shape.parameters, rel=0.01)
    adapters, _ = trained(shape, lora)
    assert peak(lora) == pytest.approx(2 * shape.parameters + 20 * adapters, rel=0.02)
    cell["distributed"] = {"strategy": "fsdp2", "processes": 8}
    parts = footprint.footprint(shape, fft, cell, 8, cpu=False)
    assert parts.weights + parts.moments + 2 * parts.gradients == pytest.approx(alone / 8, rel=0.01)
    assert parts.gradients == gradients // 8
    assert parts.kept > 8 * shape.unit  # one layer's weights and gradients are whole
    host = footprint.footprint(shape, fft, cell, 8, cpu=False).host
    libraries = 8 * (footprint.LIBRARIES + footprint.TOKENIZER * shape.vocabulary)
    # Weights are mapped once; the first process writes weights and moments.
    assert host == libraries + (4 + 12) * shape.parameters


@pytest.mark.parametrize("device", ["a100", "cpu"])
def test_each_process_holds_the_stated_examples_unless_they_lie_on_disk(device: str) -> None:
    def told(**task: Any) -> estimate.Estimate:
        cell = config("tiny") | {"distributed": {"strategy": "ddp", "processes": 8}}
        cell["task"] |= task
        lora = method("methods.lora.LoRA", rank=8)
        return estimate.estimate(cell, lora, estimate.DEVICES[device])

    none, few = told(), told(max_examples=500)
    assert none.host and few.host and none.bytes and few.bytes
    assert few.host - none.host == 8 * 500 * 600 * (4 + 4)  # input_ids and labels are int32
    assert few.bytes - none.bytes == (500 * 600 * 8 if device == "cpu" else 0)
    assert told(max_examples=None) == told(max_examples=100_001) == none


def test_formed_weights_take_a_share_of_what_is_free() -> None:
    """As methods/kept.py grants it; none where FSDP2 shards, and none that a refusal rests on."""
    shape, cell = shape_of(conf("model", "llama2_7b")), config("llama2_7b")
    assert shape is not None
    whole = 2 * sum(a * b for a, b in shape.linears.values())  # bf16

    def formed(free: int, **settings: Any) -> int:
        made = method("methods.mora.MoRA", rank=8, **settings)
        return footprint.footprint(shape, made, cell, 8, cpu=False, free=free).formed

    assert formed(400 << 30) == formed(0, compute="cached") == whole
    assert formed(80 << 30) == int(kept.SHARE * (80 << 30)) < whole
    assert formed(0) == formed(400 << 30, compute="fused") == 0
    cell["distributed"] = {"strategy": "fsdp2", "processes": 2}
    assert formed(400 << 30) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)  # SmolLM2 in bf16, 32 examples at a time, on one slow core
@pytest.mark.parametrize("name", ["fft", "lora", "mora"])
@pytest.mark.parametrize(
    ("model", "precision", "batch"),
    [
        ("tiny", "fp32", 8),
        ("docs_1m", "fp32", 8),
        pytest.param("smollm2_135m_wheel", "fp32", 8, marks=pytest.mark.model),
        pytest.param("smollm2_135m_wheel", "bf16", 8, marks=pytest.mark.model),
        pytest.param("smollm2_135m_wheel", "bf16", 32, marks=pytest.mark.model),
    ],
)
def test_a_measured_peak_is_the_estimate(
    model: str, precision: str, batch: int, name: str, tmp_path: Path
) -> None:
    """Three steps in a process of its own; the record's peak is the process's, in training."""
    cell = [
        f"model={model}", f"precision={precision}", f"trainer.batch_size={batch}",
        f"method={name}", "task.pairs=32", "task.score_pairs=2", "trainer.max_steps=3",
        "device=cpu", "threads=1", "tracker=none", "analysis.merge_audit=false",
        "trainer.checkpoint_minutes=0", f"results_dir={tmp_path}",
    ]  # fmt: skip
    (row,) = dryrun.look(cell, "cpu").rows
    assert row.estimate.bytes is not None
    subprocess.run([sys.executable, "-m", "bench", *cell], cwd=ROOT, check=True)
    (file,) = tmp_path.glob("*.json")
    measured = records.read(file)["cost"]["peak_memory_bytes"]
    assert row.estimate.bytes == pytest.approx(measured, rel=0.15)


# ---- what cannot fit --------------------------------------------------------------------------


def test_full_fine_tuning_of_7b_is_refused_with_what_would_do() -> None:
    fft, cell = method("methods.fft.FFT"), config("llama2_7b", batch=8)
    reason = estimate.refused(cell, fft, "cuda", 80 << 30)
    assert reason is not None and "the device has 85.9 GB" in reason
    assert "distributed=fsdp2 distributed.processes=" in reason
    assert "trainer.gradient_checkpointing=true" in reason
    cell["distributed"] = {"strategy": "fsdp2", "processes": 8}
    cell["trainer"] |= {"batch_size": 1, "gradient_checkpointing": True}
    assert estimate.refused(cell, fft, "cuda", 80 << 30) is None


def test_the_remedy_fits_and_keeps_the_examples_of_a_step() -> None:
    """Of every room from small to large, for adapters and for full fine-tuning."""
    shape = shape_of(conf("model", "llama2_7b"))
    assert shape is not None
    for made in (method("methods.fft.FFT"), method("methods.lora.LoRA", rank=8)):
        cell = config("llama2_7b", batch=16, accumulation=2)
        for gigabytes in (1, 12, 24, 48, 80, 400):
            available = gigabytes << 30
            found = footprint.remedy(shape, made, cell, 2048, available, cpu=False)
            if found is None:
                assert gigabytes <= 12
                continue
            told = dict(word.split("=") for word in found.split())
            trainer = cell["trainer"] | {
                key.removeprefix("trainer."): yaml.safe_load(value)
                for key, value in told.items()
                if key.startswith("trainer.")
            }
            processes = int(told.get("distributed.processes", 1))
            assert trainer["batch_size"] * trainer["accumulation"] * processes == 32
            spread = {"strategy": told.get("distributed", "none"), "processes": processes}
            changed = cell | {"trainer": trainer, "distributed": spread}
            assert footprint.fits(shape, made, changed, 2048, available, cpu=False)


def test_a_cell_that_cannot_fit_does_not_start(
    run: Any, records_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "room", lambda device: 300_000_000)
    monkeypatch.setattr(models, "load", None)  # no model is loaded for it
    ended = run("method=fft")
    assert ended.status == 2 and "the machine has 0.3 GB" in ended.err
    assert "check_memory=false" in ended.err and not records_of()


def test_the_dry_run_tells_what_cannot_fit() -> None:
    found = dryrun.look(
        ["model=llama2_7b", "method=fft,lora", "trainer.batch_size=8", "task.pairs=8"], "a100"
    )
    text = dryrun.text(found)
    assert "Refused, as they cannot fit:" in text
    assert text.count("needs about") == 1 and "LLaMA-2 7B, FFT: needs about" in text
