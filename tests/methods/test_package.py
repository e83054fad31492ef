"""The package as it is met from outside: through Hydra, and by import alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

import methods
from methods import AdapterMethod, Method, MethodError
from methods.contract import llama
from methods.discover import classes
from tests.methods.test_contract import NAMES


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_module("conf", version_base="1.3"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_hydra_instantiates_what_is_composed(hydra, name: str) -> None:
    cfg = compose("config", overrides=[f"method={name}", "model=tiny", "seed=5"])
    method = instantiate(cfg.method)
    assert isinstance(method, Method) and method.name == name == cfg.method.name
    assert method.learning_rate == cfg.method.learning_rate
    assert getattr(method, "seed", 5) == 5
    again = json.loads(json.dumps(method.settings()))  # plain values, for records and files
    assert again == method.settings()
    method.attach(llama())


@pytest.mark.parametrize("rank", [1, 8, 16])
def test_the_operator_is_not_chosen_by_the_rank(hydra, rank: int) -> None:
    cfg = compose("config", overrides=["method=mora", "model=tiny", f"method.rank={rank}"])
    assert cfg.method.operator == "rotation"


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_a_method_takes_its_own_name_and_no_other(kind: type[Method]) -> None:
    settings = {"peft_config": {"peft_type": "VERA"}} if kind.name == "peft" else {}
    if issubclass(kind, AdapterMethod):
        settings["rank"] = 4
    assert kind(name=kind.name, **settings).name == kind.name
    with pytest.raises(MethodError, match="name='other' is not"):
        kind(name="other", **settings)


def test_every_method_is_imported_by_its_class() -> None:
    names = {kind.__name__ for kind in classes()}
    assert {"FFT", "LoRA", "LoRAPlus", "MoRA", "Peft", "ReMoRA", "Sparse"} <= names
    for kind in classes():
        assert getattr(methods, kind.__name__) is kind and kind.__name__ in dir(methods)
    with pytest.raises(ImportError, match="cannot import name 'Mora'"):
        from methods import Mora  # type: ignore[attr-defined] # noqa: F401
    assert not hasattr(methods, "nothing")


LIGHT = """
import sys
import methods.peft_tuner, methods.trainer
from methods import FFT, LoRA, MoRA, Sparse, attach
from torch import nn
for method in (FFT(target_modules=["0"]), *(k(rank=2, target_modules=["0"]) for k in (LoRA, MoRA, Sparse))):
    model = nn.Sequential(nn.Linear(8, 8))
    assert attach(model, method) is method
    method.save(model, sys.argv[1])
    method.load(model, sys.argv[1])
heavy = {"transformers", "peft", "hydra", "omegaconf", "datasets", "accelerate", "bench", "tasks"}
print(sorted(heavy & set(sys.modules)))
"""  # noqa: E501


def test_torch_and_safetensors_are_all_that_is_needed(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path)],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("kind", [methods.FFT, methods.LoRA, methods.LoRAPlus, methods.MoRA])
def test_a_rate_is_needed_for_parameter_groups_alone(kind: type[Method], tmp_path: Path) -> None:
    settings = {"rank": 4} if issubclass(kind, AdapterMethod) else {}
    method, model = kind(**settings), llama()
    method.attach(model)
    with pytest.raises(MethodError, match="made without a learning rate: give learning_rate="):
        method.parameter_groups(model)
    method.save(model, tmp_path)
    assert type(methods.load_adapter(llama(), tmp_path)) is kind
    assert kind(learning_rate=1e-3, **settings).parameter_groups(model)[0]["lr"] == 1e-3
