"""FSDP2 reads a model in parts: the same numbers as when it is read whole, in less memory."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import set_seed

from bench.run import models
from bench.run.build import build
from methods import Method
from methods.errors import MethodError
from methods.fft import FFT
from tests.bench.run.test_distributed import FORK, curve, in_two, only_record

CONF = Path(__file__).resolve().parents[3] / "conf"
METHODS = sorted(f.stem for f in (CONF / "method").glob("*.yaml") if f.stem != "_base")
# In two processes, forks of one: how much of a cell's model each of them holds.
LOADED = """
import sys
from hydra import compose, initialize_config_module
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import bench.run.cell
from bench.run import distributed, sharding
from bench.run.plan import plan
from bench.run.prepare import prepare

def work():
    with initialize_config_module("conf", version_base="1.3"):
        cell = prepare(plan(compose("config", sys.argv[1:])))
    distributed.join("cpu")
    loaded = sharding.load(cell.plan.config, cell.method, cell.placement, cell.placement.dtype)
    parts = list(loaded.model.parameters())
    held = sum(p.to_local().numel() for p in parts) / sum(p.numel() for p in parts)
    print(f"share {held}\\n", end="", flush=True)

rendezvous = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", max_restarts=0, **rendezvous), work)()
"""
PARTS = [sys.executable, "-c", LOADED]
STEPS = ["trainer.max_steps=3", "analysis.spectrum=true"]


def conf(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()))


def whole(seed: int) -> Any:
    cpu = torch.device("cpu")
    return models.load(conf("tiny"), dtype=torch.float32, device=cpu, seed=seed).model


@cache
def settings(name: str) -> Any:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("conf", version_base="1.3"):
        cfg = compose("config", [f"method={name}", "method.learning_rate=1e-3", "model=tiny"])
    return OmegaConf.to_container(cfg.method, resolve=True)


def method(name: str) -> Method:
    made: Method = build(settings(name))
    return made


def begun(name: str, seed: int) -> dict[str, torch.Tensor]:
    """What a method has made when it is attached, on a base of this seed."""
    made, model = method(name), whole(seed)
    set_seed(0)
    made.attach(model)
    return {key: value.clone() for key, value in made.state(model).items()}


@pytest.mark.parametrize("name", METHODS)
def test_only_a_method_that_says_so_begins_with_numbers_of_the_base(name: str) -> None:
    """The others are attached to weights in the precision of their file, and rounded later."""
    made = method(name)
    one, other = begun(name, 0), begun(name, 1)
    assert one.keys() == other.keys()
    if not made.reads_base and not made.trains_base:
        assert all(torch.equal(one[key], other[key]) for key in one)
    elif name == "dora":
        assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("how", ["copy", "as loaded", "no"])
def test_full_fine_tuning_keeps_what_it_is_told_to(how: Any) -> None:
    """A copy is its own; what is kept as loaded is no second one; nothing is nothing."""
    made, model = FFT(learning_rate=1e-3), whole(0)
    made.keep_start(how)
    made.attach(model)
    weight = model.model.layers[0].self_attn.q_proj.weight
    begin = weight.detach().clone()
    weight.data = weight.data + 1  # as FSDP2 does, which puts others in their place
    if how == "no":
        with pytest.raises(MethodError, match="has not kept the weights"):
            made.delta_weights(model)
        return
    deltas = made.delta_weights(model)
    assert torch.equal(deltas["model.layers.0.self_attn.q_proj"], weight.detach() - begin)
    held = made._start["model.layers.0.self_attn.q_proj"]
    assert torch.equal(held, begin)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder, in half precision, as LLaMA-2 is stored."""
    path = tmp_path_factory.mktemp("stored")
    whole(0).to(torch.float16).save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fft", "mora"])
def test_each_process_holds_its_part_and_no_more(name: str, tiny: list[str]) -> None:
    out = in_two(*tiny, f"method={name}", "distributed=fsdp2", launcher=PARTS)
    shares = [float(line.split()[1]) for line in out.splitlines() if line.startswith("share ")]
    assert len(shares) == 2 and sum(shares) == pytest.approx(1)
    assert max(shares) < 0.52  # rows that two do not divide


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["method=fft"],
        ["method=dora"],
        ["method=mora", "method.also_train=[embed_tokens,lm_head,'*norm']"],
    ],
    ids=["fft", "dora", "also_train"],
)
def test_a_model_that_is_read_in_parts_trains_as_one_that_is_read_whole(
    arguments: list[str], precision: str, folder: Path, run: Any, tiny: list[str], tmp_path: Path
) -> None:
    """Two processes, against one that has it whole: stored in fp16, to train in another dtype."""
    stored = [
        "model=hub", f"model.source={folder}", "model.label=stored", "model.tokenizer=bytes",
    ]  # fmt: skip
    cell = [*STEPS, *stored, f"precision={precision}", *arguments]
    in_two(*tiny, *cell, "distributed=fsdp2", "trainer.batch_size=2", launcher=FORK)
    both = only_record(tmp_path / "runs")
    assert run(*cell, f"results_dir={tmp_path / 'one'}").status == 0
    one = only_record(tmp_path / "one")
    near = 1e-5 if precision == "fp32" else 2e-2
    assert curve(both, "loss")[0] == pytest.approx(curve(one, "loss")[0], rel=near / 10)
    assert curve(both, "loss") == pytest.approx(curve(one, "loss"), rel=near)
    assert both["parameters"] == one["parameters"] and both["model"] == one["model"]
    for name, layer in one["spectrum"]["layers"].items():
        assert both["spectrum"]["layers"][name]["frobenius"] == pytest.approx(
            layer["frobenius"], rel=1e-3 if precision == "fp32" else 0.2
        )
