"""Every experiment at both scales composes, its cells can be built, its numbers are the paper's.

Nothing is trained. Whole grids are composed where they are small; of the others every method at
every rank, and every other choice once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from bench.judge import paper
from bench.run import models, training
from bench.run.build import build
from bench.run.plan import Plan, plan
from bench.sweep.dryrun import combinations
from bench.sweep.estimate import DEVICES, estimate
from bench.sweep.grid import Composer

CONF = Path(__file__).resolve().parent.parent / "conf"
EXPERIMENTS = sorted(f.stem for f in (CONF / "experiment").glob("*.yaml") if f.stem != "none")
SCALES = ("laptop", "paper")
BOTH = [(e, s) for e in EXPERIMENTS for s in SCALES]
ARTEFACTS = {
    "table1_main", "table2_uuid", "table3_pretraining", "table4_operators", "table6_biomed",
    "table7_finance", "fig2_lora_ranks", "fig3_uuid_curves", "fig4_pretraining_curves",
    "fig5_spectrum", "lr_fairness", "learn_forget", "cost",
}  # fmt: skip
WHOLE = 40  # combinations that are all composed


class Grid:
    """An experiment at one scale: its combinations, and its cells as far as they are needed."""

    def __init__(self, experiment: str, scale: str) -> None:
        overrides = [f"experiment={experiment}", f"scale={scale}"]
        with initialize_config_module("conf", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            self.master = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
            self.combinations = combinations(loader, self.master)
            self.composer = Composer(loader, self.master)
        self._cells: dict[tuple[str, ...], Plan] = {}

    def cell(self, overrides: Sequence[str]) -> Plan:
        """The cell of a combination, or with some choices made: of the first that has them."""
        chosen = dict(item.split("=", 1) for item in overrides)
        free = {**dict(item.split("=", 1) for item in self.combinations[0]), **chosen}
        key = tuple(f"{k}={v}" for k, v in free.items())
        if key not in self._cells:
            self._cells[key] = plan(self.composer.compose(key))
        return self._cells[key]

    def cells(self) -> list[Plan]:
        """All of a small grid; else methods times ranks, and each other value once."""
        if len(self.combinations) <= WHOLE:
            return unique(self.cell(c) for c in self.combinations)
        values: dict[str, list[str]] = {}
        for combination in self.combinations:
            for item in combination:
                known = values.setdefault(item.split("=", 1)[0], [])
                if item not in known:
                    known.append(item)
        both = [(m, r) for m in values.pop("method") for r in values.pop("method.rank", [""])]
        single = [(item,) for items in values.values() for item in items[1:]]
        return unique(self.cell([item for item in c if item]) for c in [*both, *single])


def unique(cells: Iterable[Plan]) -> list[Plan]:
    return list({cell.cell: cell for cell in cells}.values())


def protocol(experiment: str, scale: str) -> dict[str, Any]:
    """What the setting says for each method and rank, as written."""
    written: Any = OmegaConf.to_container(grid(experiment, scale).master.protocol)
    return dict(written)


@cache
def grid(experiment: str, scale: str) -> Grid:
    return Grid(experiment, scale)


@cache
def built(task: str) -> Any:
    return build(yaml.safe_load(task))


def examples_a_step(config: dict[str, Any]) -> int:
    trainer = config["trainer"]
    return int(trainer["batch_size"] * trainer["accumulation"] * config["distributed"]["processes"])


# ---- all of them ------------------------------------------------------------------------------


def test_each_artefact_has_its_experiment_at_both_scales() -> None:
    assert set(EXPERIMENTS) == ARTEFACTS
    settings = {f.stem for f in (CONF / "setting").glob("*.yaml")}
    assert settings == {f"{e}_{s}" for e, s in BOTH}


@pytest.mark.parametrize(("experiment", "scale"), BOTH)
def test_cells_can_be_built(experiment: str, scale: str) -> None:
    cells = grid(experiment, scale).cells()
    assert cells
    for cell in cells:
        config = cell.config
        assert (config["experiment_name"], config["scale_name"]) == (experiment, scale)
        assert config["protocol"]["split"] in ("reported", "validation")
        assert 0 < cell.method.learning_rate < 0.1
        training.check(config["trainer"])
        assert built(yaml.safe_dump(config["task"] | {"data_dir": None})).name
        if config["model"]["kind"] == "scratch":
            models.architecture(config["model"])
        assert estimate(config, cell.method, DEVICES["a100"]).hours


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_laptop_needs_no_data_and_less_than_an_hour(experiment: str) -> None:
    grid_ = grid(experiment, "laptop")
    cells = unique(grid_.cell(c) for c in grid_.combinations)
    for cell in cells:
        assert cell.config["model"]["kind"] in ("wheel", "scratch")
        built(yaml.safe_dump(cell.config["task"] | {"data_dir": None})).prepare()
    hours = [estimate(c.config, c.method, DEVICES["cpu"]).hours or 0 for c in cells]
    others = 25 / 3600  # loading and scoring
    assert sum(hours) + len(cells) * others < 0.8


# ---- the paper's numbers ----------------------------------------------------------------------


def test_learning_rates_are_the_papers() -> None:
    said = protocol("table1_main", "paper")
    for task, rates in said["learning_rates"].items():
        for method, kind in said["kind"].items():
            for rank in (8, 256):
                stated = paper.learning_rates(task, method, None if method == "fft" else rank)
                assert set(rates[kind][f"r{rank}"].values()) == set(stated), (task, method, rank)
    for method, rates in protocol("table2_uuid", "paper")["learning_rates"].items():
        stated = paper.learning_rates("uuid", method, None if method == "fft" else 8)
        assert set(rates.values()) == set(stated)


# experiment, choices, and what the cell must hold: paper, Table 5 and sections 3, 5.2, 5.3.
NUMBERS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "table1_main",
        "task=instruction method=lora method.rank=8 protocol.trial=high",
        {"learning_rate": 2e-4, "alpha": 16, "max_steps": ceil(326_000 * 2 / 128),
         "warmup_steps": 500, "schedule": "cosine"},
    ),
    (
        "table1_main",
        "task=math method=mora method.rank=8 protocol.trial=low",
        {"learning_rate": 2e-4, "operator": "rotation", "max_steps": ceil(395_000 * 3 / 128),
         "warmup_steps": 300, "schedule": "cosine"},
    ),
    (
        "table1_main",
        "task=math method=mora method.rank=256 protocol.trial=high",
        {"learning_rate": 5e-5, "operator": "sharing"},
    ),
    (
        "table1_main",
        "task=math method=lora_plus method.rank=256 protocol.variant=second",
        {"learning_rate": 1e-4, "lr_ratio": 4.0, "alpha": 128},
    ),
    (
        "table1_main",
        "task=math method=relora method.rank=8 protocol.variant=first",
        {"restart_every": 1000, "restart_warmup": 50, "schedule": "jagged_cosine"},
    ),
    (
        "table1_main",
        "task=finance method=dora method.rank=256 protocol.trial=high",
        {"learning_rate": 4e-4, "max_steps": 5000, "warmup_steps": 150, "schedule": "linear"},
    ),
    ("table6_biomed", "method=mora method.rank=8 protocol.trial=high", {"learning_rate": 5e-4}),
    ("table7_finance", "method=fft", {"learning_rate": 3e-5, "block": 2048}),
    ("table4_operators", "method.operator=truncation method.rank=256", {"learning_rate": 3e-5}),
    (
        "table2_uuid",
        "method=mora method.rank=256 protocol.trial=high",
        {"learning_rate": 2e-4, "operator": "sharing", "max_steps": 1000, "pairs": 10_000},
    ),
    ("fig2_lora_ranks", "method=lora method.rank=64 protocol.trial=low", {"learning_rate": 1e-4}),
    (
        "table3_pretraining",
        "model=llama_1b3 method=remora",
        {"rank": 128, "max_steps": 10_000, "block": 512, "restart_every": 2000, "layouts": 2,
         "restart_warmup": 50, "schedule": "jagged_cosine", "reset_optimizer": "full",
         "also_train": ["embed_tokens", "lm_head", "*norm"], "hidden_size": 2048},
    ),
    ("table3_pretraining", "model=llama_250m method=mora", {"operator": "sharing"}),
]  # fmt: skip


@pytest.mark.parametrize(("experiment", "choices", "numbers"), NUMBERS)
def test_paper_scale_has_the_papers_numbers(
    experiment: str, choices: str, numbers: dict[str, Any]
) -> None:
    config = grid(experiment, "paper").cell(choices.split()).config
    parts = [config["method"], config["trainer"], config["task"], config["model"]]
    found = {k: v for part in parts for k, v in part.items()}
    found |= config["model"].get("architecture", {})
    assert {key: found[key] for key in numbers} == numbers


@pytest.mark.parametrize(
    ("experiment", "examples"),
    [("table1_main", 128), ("table2_uuid", 1000), ("table3_pretraining", 1024)],
)
@pytest.mark.parametrize("processes", [1, 8])
def test_a_step_takes_the_papers_batch_on_any_number_of_processes(
    experiment: str, examples: int, processes: int
) -> None:
    cell = grid(experiment, "paper").cell([f"distributed.processes={processes}"])
    assert examples_a_step(cell.config) == examples


def test_grids_have_the_papers_rows() -> None:
    def swept(experiment: str, key: str) -> list[str]:
        return str(grid(experiment, "paper").master.hydra.sweeper.params[key]).split(",")

    assert {m for m, _ in paper.TABLE1} == set(swept("table1_main", "method"))
    assert {m for m, _ in paper.TABLE3} == set(swept("table3_pretraining", "method"))
    assert set(paper.TABLE4) == set(swept("table4_operators", "method.operator"))
    assert {r for m, r in paper.FIG2 if m == "lora"} == {
        int(r) for r in swept("fig2_lora_ranks", "method.rank")
    }
    assert swept("table3_pretraining", "model") == ["llama_250m", "llama_1b3"]


# ---- experiments that belong together ---------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("part", "whole", "choices"),
    [
        ("fig3_uuid_curves", "table2_uuid", "method=mora"),
        ("fig4_pretraining_curves", "table3_pretraining", "method=relora"),
        ("fig5_spectrum", "table3_pretraining", "method=lora"),
        ("table6_biomed", "table1_main", "method=lora method.rank=8 task={scale}biomedicine"),
        ("table7_finance", "table1_main", "method=mora method.rank=8 task={scale}finance"),
    ],
)
def test_a_part_shares_the_cells_and_the_folder_of_the_whole(
    part: str, whole: str, choices: str, scale: str
) -> None:
    folder = "" if scale == "paper" else "laptop/"
    made = choices.format(scale=folder).split()
    a, b = grid(part, scale).cell(made), grid(whole, scale).cell(made)
    assert (a.cell, a.folder) == (b.cell, b.folder)


@pytest.mark.parametrize("scale", SCALES)
def test_tuning_gives_every_method_the_same_trials_and_keeps_its_seeds_apart(scale: str) -> None:
    tuning = grid("lr_fairness", scale)
    trials = protocol("lr_fairness", scale)["trials"]
    grids = [g for m in trials.values() for g in (m.values() if "r8" in m else [m])]
    assert {tuple(g) for g in grids} == {tuple(grids[0])}
    assert all(len(set(g.values())) == len(grids[0]) for g in grids)
    swept = str(tuning.master.hydra.sweeper.params["protocol.trial"]).split(",")
    assert swept == list(grids[0])
    for seed, split in ((100, "validation"), (0, "reported"), (42, "reported")):
        assert tuning.cell([f"seed={seed}"]).config["protocol"]["split"] == split
    # Validation cells are Table 2's but for rate and seed, so that they can choose for it.
    same = ["method=lora", "method.learning_rate=1e-3", "seed=7"]
    assert tuning.cell(same).cell == grid("table2_uuid", scale).cell(same).cell


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
    assert printed["protocol"]["learning_rates"]["math"]["mora"]["r8"] == {
        "low": 2.0e-4, "high": 3.0e-4,
    }  # fmt: skip
