"""An experiment is its folder: one of one's own, and what is refused on the way to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException

from bench.errors import UserError
from bench.run.plan import plan
from bench.sweep import dryrun, outcomes

CONF = Path(__file__).resolve().parent.parent / "conf"

MINE = """
# @package _global_
# How many UUID pairs a tiny model memorises.
defaults:
  - /task: uuid
  - /model: tiny
  - optional /arms@method: ${method}
  - _self_
experiment_name: study/mine
task: {pairs: 4}
arms:
  rates:
    lora: {4: [1.0e-3, 2.0e-3], 8: 1.0e-3}
    mora: [1.0e-3, 3.0e-3]
  operator: {4: rotation, 8: sharing}
method: {learning_rate: "${arm:rates}"}
trainer: {max_steps: 2}
hydra:
  sweeper:
    params:
      method: lora,mora
      method.rank: 4,8
      trial: 0,1
      seed: 0,100
"""


def example() -> str:
    """The experiment that the README shows."""
    lines = (CONF.parent / "README.md").read_text().splitlines()
    first = next(
        i for i, line in enumerate(lines) if line.endswith("conf/experiment/mine/laptop.yaml")
    )
    last = next(i for i, line in enumerate(lines) if i > first and not line.strip())
    return "\n".join(line.removeprefix("    ") for line in lines[first + 1 : last])


@contextmanager
def newcomer(folder: Path, text: str = MINE) -> Iterator[list[str]]:
    """The overrides of an experiment that lies outside the package; Hydra is started."""
    file = folder / "experiment" / "study" / "mine" / "laptop.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with initialize_config_module("conf", version_base="1.3"):
        yield ["experiment=study/mine", f"hydra.searchpath=[file://{folder}]"]


def test_an_experiment_is_its_folder(tmp_path: Path) -> None:
    """Nothing else names it; Hydra's own composition, a sweep and a dry run see the same."""
    with newcomer(tmp_path) as chosen:
        config = compose("config", [*chosen, "method.rank=8", "trial=1"])
        composed = plan(config)
    found = dryrun.look(chosen)
    assert (composed.method.learning_rate, composed.config["method"]["operator"]) == (
        3e-3, "sharing",
    )  # fmt: skip
    assert str(composed.folder) == "results/runs/study/mine"
    # LoRA at rank 8 has one rate, so that both trials are one cell.
    assert (found.combinations, len(found.rows)) == (16, 14)
    assert composed.cell in {row.plan.cell for row in found.rows}
    assert found.title == "experiment study/mine, scale laptop"


def test_the_readmes_experiment_runs_as_it_says(tmp_path: Path) -> None:
    with newcomer(tmp_path, example()) as chosen:
        pass
    lora = [*chosen, "method=lora", "method.rank=8"]
    tried = dryrun.look([*lora, "seed=100", "trial=0,1"]).rows
    assert [row.plan.method.learning_rate for row in tried] == [1e-3, 3e-3]
    mora = dryrun.look([*chosen, "method=mora"]).rows
    assert [r.plan.config["method"]["operator"] for r in mora] == ["rotation", "sharing"]


def test_an_experiment_without_a_task_is_refused_by_name(tmp_path: Path) -> None:
    text = MINE.replace("  - /task: uuid\n", "").replace("task: {pairs: 4}\n", "")
    with newcomer(tmp_path, text) as chosen:
        config = compose("config", chosen)
    with pytest.raises(UserError, match="experiment study/mine names no task: add `- /task: NAME`"):
        plan(config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=tabel2"], "no such experiment; choose "),
        (["experiment=table2_uuid", "scale=huge"], "it has laptop | paper"),
        (["experiment=null"], "no such experiment"),
        (["experiment=table2_uuid,cost"], "one experiment a command"),
        (["experiment=table2_uuid", "scale=laptop,paper"], "one experiment a command"),
    ],
)
def test_an_unknown_experiment_is_refused_with_the_list(arguments: list[str], words: str) -> None:
    refusal = outcomes.refuse(arguments)
    assert refusal is not None and words in refusal


@pytest.mark.parametrize("chosen", ["experiment=tabel2", "experiment=table2_uuid/laptop"])
def test_hydra_itself_refuses_an_unknown_experiment(chosen: str) -> None:
    with (
        initialize_config_module("conf", version_base="1.3"),
        pytest.raises(HydraException),
    ):
        compose("config", [chosen])


def test_hydra_prints_an_experiment() -> None:
    """The command of the user's guide, in a process of its own."""
    command = [sys.executable, "-m", "bench", "experiment=table1_main", "scale=paper"]
    done = subprocess.run(
        [*command, "--cfg", "job"], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert printed["experiment_name"] == "table1_main"
    assert printed["model"]["name"] == "llama2_7b"
    assert printed["task"]["train_set"] == "metamathqa"
    assert printed["arms"]["rates"]["math"]["mora"][8] == [2.0e-4, 3.0e-4]
