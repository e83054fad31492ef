"""Every experiment at both scales composes, its cells can be built, its numbers are the paper's.

Nothing is trained. Whole grids are composed where they are small; of the others every choice once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

from bench.errors import UserError
from bench.judge import paper
from bench.run import checks, models
from bench.run.build import build
from bench.run.plan import Plan, plan
from bench.sweep import dryrun, outcomes
from bench.sweep.estimate import DEVICES, estimate
from bench.sweep.grid import Composer

CONF = Path(__file__).resolve().parent.parent / "conf"
SCALES = ("laptop", "paper")
# What the paper shows, and what is asked beyond it. An experiment more needs no entry here.
ARTEFACTS = (
    "table1_main", "table2_uuid", "table3_pretraining", "table4_operators", "fig2_lora_ranks",
    "lr_fairness", "learn_forget", "cost",
)  # fmt: skip
BOTH = [(e, s) for e in ARTEFACTS for s in SCALES]
# Every experiment that is here, at the scales that it has.
HERE = [
    (experiment, scale)
    for experiment, scales in outcomes.experiments(CONF / "experiment").items()
    for scale in scales
    if experiment != "none"
]
WHOLE = 12  # combinations that are all composed


class Grid:
    """An experiment at one scale: its combinations, and its cells as far as they are needed."""

    def __init__(self, experiment: str, scale: str) -> None:
        overrides = [f"experiment={experiment}", f"scale={scale}"]
        with initialize_config_module("conf", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            self.master = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
            self.combinations = dryrun.combinations(loader, self.master)
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
        """All of a small grid; else the first, and each other value once."""
        if len(self.combinations) <= WHOLE:
            return unique(self.cell(c) for c in self.combinations)
        values: dict[str, list[str]] = {}
        for combination in self.combinations:
            for item in combination:
                known = values.setdefault(item.split("=", 1)[0], [])
                if item not in known:
                    known.append(item)
        single = [(item,) for items in values.values() for item in items[1:]]
        return unique(self.cell(c) for c in [(), *single])


def unique(cells: Iterable[Plan]) -> list[Plan]:
    return list({cell.cell: cell for cell in cells}.values())


def arms(experiment: str, scale: str) -> dict[str, Any]:
    """The experiment's table, as written."""
    written: Any = OmegaConf.to_container(grid(experiment, scale).master.arms)
    return dict(written)


def leaves(table: Any) -> Iterator[Any]:
    """The rates, or lists of rates, of a table."""
    if isinstance(table, dict):
        for part in table.values():
            yield from leaves(part)
    else:
        yield table


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
    assert set(BOTH) <= set(HERE)


@pytest.mark.parametrize(("experiment", "scale"), HERE)
def test_the_file_is_all_there_is_to_read(experiment: str, scale: str) -> None:
    """It is named after its folder, and takes nothing of another experiment's."""
    assert outcomes.refuse([f"experiment={experiment}", f"scale={scale}"]) is None
    written = yaml.safe_load((CONF / f"experiment/{experiment}/{scale}.yaml").read_text())
    assert written["experiment_name"] == experiment
    taken = [key for item in written["defaults"] if isinstance(item, dict) for key in item]
    assert {key.removeprefix("optional ").split("@")[0] for key in taken} <= {
        "/task", "/model", "/trainer", "/arms",
    }  # fmt: skip


@pytest.mark.parametrize(("experiment", "scale"), HERE)
def test_cells_can_be_built(experiment: str, scale: str) -> None:
    cells = grid(experiment, scale).cells()
    assert cells
    for cell in cells:
        config = cell.config
        assert (config["experiment_name"], config["scale_name"]) == (experiment, scale)
        assert 0 < cell.method.learning_rate < 0.1
        checks.trainer(config["trainer"])
        assert built(yaml.safe_dump(config["task"] | {"data_dir": None})).name
        if config["model"]["kind"] == "scratch":
            models.architecture(config["model"])
        assert estimate(config, build(config["method"]), DEVICES["a100"]).hours


@pytest.mark.parametrize("experiment", ARTEFACTS)
def test_laptop_needs_no_data_and_less_than_an_hour(experiment: str) -> None:
    grid_ = grid(experiment, "laptop")
    cells = unique(grid_.cell(c) for c in grid_.combinations)
    for cell in cells:
        assert cell.config["model"]["kind"] in ("wheel", "scratch")
        built(yaml.safe_dump(cell.config["task"] | {"data_dir": None})).prepare()
    methods = [build(c.config["method"]) for c in cells]
    took = zip(cells, methods, strict=True)
    hours = [estimate(c.config, method, DEVICES["cpu"]).hours or 0 for c, method in took]
    others = 25 / 3600  # loading and scoring
    assert sum(hours) + len(cells) * others < 0.8


# ---- the paper's numbers ----------------------------------------------------------------------


def test_learning_rates_are_the_papers() -> None:
    for task, methods in arms("table1_main", "paper")["rates"].items():
        for method, by_rank in methods.items():
            for rank in (8, 256):
                stated = paper.learning_rates(task, method, None if method == "fft" else rank)
                written = by_rank[rank] if isinstance(by_rank, dict) else by_rank
                found = written if isinstance(written, list) else [written]
                assert set(found) == set(stated), (task, method, rank)
    for method, rates in arms("table2_uuid", "paper")["rates"].items():
        stated = paper.learning_rates("uuid", method, None if method == "fft" else 8)
        assert set(rates if isinstance(rates, list) else [rates]) == set(stated)


# experiment, choices, and what the cell must hold: paper, Table 5 and sections 3, 5.2, 5.3.
NUMBERS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "table1_main",
        "task=instruction method=lora method.rank=8 trial=1",
        {"learning_rate": 2e-4, "alpha": 16, "max_steps": ceil(326_000 * 2 / 128),
         "warmup_steps": 500, "schedule": "cosine"},
    ),
    (
        "table1_main",
        "task=math method=mora method.rank=8 trial=0",
        {"learning_rate": 2e-4, "operator": "rotation", "max_steps": ceil(395_000 * 3 / 128),
         "warmup_steps": 300, "schedule": "cosine"},
    ),
    (
        "table1_main",
        "task=math method=mora method.rank=256 trial=1",
        {"learning_rate": 5e-5, "operator": "sharing"},
    ),
    (
        "table1_main",
        "task=math method=lora_plus method.rank=256 variant=1",
        {"learning_rate": 1e-4, "lr_ratio": 4.0, "alpha": 128},
    ),
    (
        "table1_main",
        "task=math method=relora method.rank=8 variant=0",
        {"restart_every": 1000, "restart_warmup": 50, "schedule": "jagged_cosine"},
    ),
    (
        "table1_main",
        "task=finance method=dora method.rank=256 trial=1",
        {"learning_rate": 4e-4, "max_steps": 5000, "warmup_steps": 150, "schedule": "linear"},
    ),
    (
        "table1_main",
        "task=biomedicine method=mora method.rank=8 trial=1",
        {"learning_rate": 5e-4},
    ),
    ("table1_main", "task=finance method=fft", {"learning_rate": 3e-5, "block": 2048}),
    ("table4_operators", "method.operator=truncation method.rank=256", {"learning_rate": 3e-5}),
    (
        "table2_uuid",
        "method=mora method.rank=256 trial=2",
        {"learning_rate": 2e-4, "operator": "sharing", "max_steps": 1000, "pairs": 10_000},
    ),
    ("fig2_lora_ranks", "method=lora method.rank=64 trial=0", {"learning_rate": 1e-4}),
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
    [
        ("table1_main", 128),
        ("table2_uuid", 1000),
        ("table3_pretraining", 1024),
        ("learn_forget", 128),
    ],
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


# ---- rates and operators ------------------------------------------------------------------------


@pytest.mark.parametrize(("experiment", "scale"), HERE)
def test_moras_operator_is_stated_at_every_rank(experiment: str, scale: str) -> None:
    """At a rank that the file does not speak of, none is chosen."""
    stated = arms(experiment, scale).get("operator")
    swept = grid(experiment, scale).master.hydra.sweeper.params
    method = str(swept.get("method", grid(experiment, scale).master.method.name))
    if "mora" not in method.split(","):
        return
    assert stated
    for rank in str(swept.get("method.rank", "")).split(","):
        choices = ["method=mora", *([f"method.rank={rank}"] if rank else [])]
        cell = grid(experiment, scale).cell(choices)
        if not {"method.operator", "arms.operator"} & set(swept):
            of_rank = stated[cell.config["method"]["rank"]] if isinstance(stated, dict) else stated
            assert cell.config["method"]["operator"] == of_rank


@pytest.mark.parametrize(
    ("experiment", "choices", "operator"),
    [
        ("table2_uuid", "method.rank=8", "rotation"),
        ("table2_uuid", "method.rank=64", "sharing"),
        ("table3_pretraining", "method.rank=16", "sharing"),
        ("table3_pretraining", "method.rank=8", "sharing"),
        ("table1_main", "method.rank=64", "sharing"),
        ("table4_operators", "method.rank=64 method.operator=rotation", "rotation"),
    ],
)
def test_the_operator_is_the_one_that_the_file_says(
    experiment: str, choices: str, operator: str
) -> None:
    cell = grid(experiment, "laptop").cell(["method=mora", *choices.split()])
    assert cell.config["method"]["operator"] == operator


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            "method=dora",
            "experiment table2_uuid, conf/experiment/table2_uuid/laptop.yaml, gives no learning ",
        ),
        (
            "method=dora",
            "method dora at rank 8 on task uuid: add it under arms.rates, or say method.l",
        ),
        ("method=mora method.rank=16", "no operator for method mora at rank 16 on task uuid: add"),
        ("method=relora method.learning_rate=1e-3", "arms.restart_every, or say method.restart_ev"),
    ],
)
def test_what_a_file_does_not_say_is_refused_by_name(choices: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        grid("table2_uuid", "laptop").cell(choices.split())
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_method_that_a_file_does_not_name_runs_once_its_rate_is_given() -> None:
    cell = grid("table2_uuid", "laptop").cell(["method=dora", "method.learning_rate=1e-3"])
    assert (cell.method.name, cell.method.learning_rate) == ("dora", 1e-3)


def test_a_trial_beyond_the_list_is_refused() -> None:
    tuning = grid("lr_fairness", "laptop")
    rates = [tuning.cell(["method=lora", f"trial={i}"]).method.learning_rate for i in range(4)]
    assert rates == arms("lr_fairness", "laptop")["rates"]["lora"][8]
    for beyond in (4, -1):
        with pytest.raises(UserError, match="lists 4 under arms"):
            tuning.cell(["method=lora", f"trial={beyond}"])


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="3 processes"):
        grid("table1_main", "paper").cell(["distributed.processes=3"])


@pytest.mark.parametrize("scale", SCALES)
def test_tuning_gives_every_method_as_many_trials_and_keeps_its_seeds_apart(scale: str) -> None:
    tuning = grid("lr_fairness", scale)
    (number,) = {len(rates) for rates in leaves(arms("lr_fairness", scale)["rates"])}
    assert all(len(set(rates)) == number for rates in leaves(arms("lr_fairness", scale)["rates"]))
    swept = tuning.master.hydra.sweeper.params
    assert str(swept["trial"]).split(",") == [str(i) for i in range(number)]
    validation = tuning.master.validation_seeds
    assert int(swept["seed"]) in validation and not {0, 1, 2, 42, 43, 44} & set(validation)
    # Validation cells are Table 2's but for rate and seed, so that they can choose for it.
    same = ["method=lora", "method.learning_rate=1e-3", "seed=7"]
    assert tuning.cell(same).cell == grid("table2_uuid", scale).cell(same).cell
