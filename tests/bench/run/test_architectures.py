"""Every method on models that are no LLaMA: attach, train, score, merge, save, read again.

Random weights of a few layers: the code paths, and nothing about what these models can do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.run import models
from bench.run.device import resolve
from bench.run.scoring import Scoring
from bench.sweep import shapes
from methods.fft import FFT
from methods.mora import MoRA
from tasks.uuid import UuidTask

CONF = Path(__file__).resolve().parents[3] / "conf"
METHODS = sorted(f.stem for f in (CONF / "method").glob("*.yaml") if f.stem != "_base")
RESTARTS = ["method.restart_every=1", "method.restart_warmup=0"]
# Phi-3 joins projections, under names of its own; GPT-NeoX has biases, LayerNorm and no gate.
OTHERS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"],
}


def conf(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()))


def other(kind: str) -> dict[str, Any]:
    """The tiny model as another architecture."""
    made = conf("tiny")
    shape = {k: v for k, v in made["architecture"].items() if k != "rms_norm_eps"}
    if kind == "gpt_neox":
        del shape["num_key_value_heads"]
    elif kind == "phi3":
        shape["pad_token_id"] = 0
    return made | {"architecture": shape | {"model_type": kind}}


def cell(run: Any, records_of: Any, tmp_path: Path, name: str, *arguments: str) -> None:
    """Two steps; what was saved scores as the record says."""
    extra = RESTARTS if name in ("relora", "remora") else []
    ended = run(
        f"method={name}", "trainer.max_steps=2", "save_adapter=true", "save_model=true",
        "analysis.spectrum=true", "analysis.before=true", *extra, *arguments,
    )  # fmt: skip
    assert ended.status == 0, ended.err
    (record,) = records_of()
    assert record["curves"]["train"][-1]["step"] == 2
    if record["merge_audit"] is not None:
        assert record["merge_audit"]["max_abs"] < 1e-3
    kept = tmp_path / "runs" / record["saved_model"]["folder"]
    hub = conf("hub") | {"source": str(kept), "label": "saved", "tokenizer": "bytes"}
    saved = models.load(hub, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    assert saved.card["architecture"] == record["model"]["architecture"]
    task = UuidTask(pairs=8)
    scoring = Scoring(task.scorers(), [], saved.tokenizer, resolve("cpu", "fp32"), 32)
    again = scoring.final(saved.model)
    assert set(again) == set(record["metrics"])
    for metric, found in again.items():
        assert found.value == pytest.approx(record["metrics"][metric]["value"], abs=1e-4)


@pytest.mark.parametrize(
    "name",
    [name if name == "mora" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_every_method_on_qwen3(name: str, run: Any, records_of: Any, tmp_path: Path) -> None:
    cell(run, records_of, tmp_path, name, "model=tiny_qwen3")


@pytest.mark.parametrize("name", ["fft", "mora"])
@pytest.mark.parametrize("kind", OTHERS)
def test_layers_of_other_names(
    kind: str, name: str, run: Any, records_of: Any, tmp_path: Path
) -> None:
    shape = ",".join(f"{k}:{str(v).lower()}" for k, v in other(kind)["architecture"].items())
    cell(
        run, records_of, tmp_path, name,
        "~model.architecture", f"+model.architecture={{{shape}}}",
        f"method.target_modules=[{','.join(OTHERS[kind])}]",
    )  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_a_pattern_without_a_layer_names_the_layers(kind: str, run: Any) -> None:
    shape = ",".join(f"{k}:{str(v).lower()}" for k, v in other(kind)["architecture"].items())
    ended = run("~model.architecture", f"+model.architecture={{{shape}}}", "method=lora")
    assert ended.status == 2
    assert "'q_proj' matches no layer" in ended.err and OTHERS[kind][0].split(".")[0] in ended.err


@pytest.mark.parametrize("settings", [conf("tiny_qwen3"), *map(other, OTHERS)])
def test_the_estimate_knows_their_sizes(settings: dict[str, Any]) -> None:
    bare = models.skeleton(settings)
    shape = shapes.shape_of(settings)
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in bare.parameters())
    names = OTHERS.get(settings["architecture"]["model_type"])
    chosen = {} if names is None else {"target_modules": names}
    for method in (FFT(**chosen), MoRA(rank=4, **chosen)):
        model = models.skeleton(settings)
        method.attach(model)
        adapters, base = shapes.trained(shape, method)
        counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert adapters + sum(base.values()) == counted


def test_an_unknown_architecture_is_one_message() -> None:
    from bench.errors import UserError

    settings = conf("tiny")
    settings["architecture"] = settings["architecture"] | {"model_type": "vit"}
    with pytest.raises(UserError, match="knows no causal language model 'vit'"):
        models.check(settings)
