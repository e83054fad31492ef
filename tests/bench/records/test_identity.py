"""Identity: what determines the numbers makes another cell, and nothing else does."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import records
from bench.records import identity
from bench.records.fields import page

CONFIG: dict[str, Any] = {
    "seed": 3,
    "results_dir": "results/runs/x",
    "data_dir": None,
    "precision": "auto",
    "threads": None,
    "experiment_name": "adhoc",
    "perturb": 0.0,
    "perturb_seed": 0,
    "method": {"_target_": "methods.mora.MoRA", "name": "mora", "rank": 8},
    "task": {"_target_": "tasks.uuid.UuidTask", "name": "uuid", "pairs": 4, "seed": 3},
    "model": {
        "name": "tiny",
        "label": "Tiny",
        "note": "a note",
        "source": "random",
        "sha256": None,
    },
    "trainer": {"max_steps": 6, "score_steps": [3], "log_every": 1, "data_seed": 3},
    "tracker": {"mode": "none"},
    "distributed": {"processes": 1},
}
SETTINGS = {"rank": 8, "learning_rate": 1e-3, "operator": "rotation"}


def cell(resolved: str = "fp32", **changes: Any) -> str:
    """The id with some dotted keys of the configuration changed."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = config
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return records.cell_id(identity.identity(config, SETTINGS, resolved))


@pytest.mark.parametrize(
    "change",
    [
        {"model__label": "Another"}, {"model__note": None}, {"model__name": "renamed"},
        {"task__name": "renamed"}, {"task__label": "Pairs"}, {"trainer__score_steps": [1, 2, 6]},
        {"trainer__log_every": 2}, {"trainer__checkpoint_minutes": 9}, {"results_dir": "elsewhere"},
        {"data_dir": "data"}, {"threads": 4}, {"experiment_name": "table2_uuid"},
        {"tracker": {"mode": "offline"}}, {"perturb_seed": 5}, {"task__new_option": None},
        {"precision": "bf16"}, {"trainer__max_steps": 6.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_determines_nothing_makes_no_other_cell(change: dict[str, Any]) -> None:
    assert cell(**change) == cell()


@pytest.mark.parametrize(
    "change",
    [
        {"resolved": "bf16"}, {"seed": 4}, {"task__pairs": 5}, {"trainer__max_steps": 7},
        {"model__source": "other"}, {"model__sha256": "0" * 64}, {"trainer__data_seed": 9},
        {"distributed__processes": 2}, {"perturb": 1e-6}, {"method___target_": "methods.lora.LoRA"},
        {"trainer__optimizer": "sgd"},
    ],
    ids=str,
)  # fmt: skip
def test_what_determines_numbers_makes_another(change: dict[str, Any]) -> None:
    assert cell(**change) != cell()


def test_cells_of_one_id_are_cells_of_one_row() -> None:
    """However their numbers are written."""
    whole, real = ({"trainer": {"weight_decay": x}, "seed": 1} for x in (0, 0.0))
    assert identity.cell_id(whole) == identity.cell_id(real)
    assert repr(identity.row(whole)) == repr(identity.row(real))


def test_each_perturbation_is_a_cell_of_its_own() -> None:
    ids = {cell(perturb=1e-6, perturb_seed=seed) for seed in range(5)}
    assert len(ids) == 5 and cell() not in ids


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_row_is_what_differs_in_the_seed_alone(one: int, two: int) -> None:
    def row(seed: int, **more: Any) -> dict[str, Any]:
        config = copy.deepcopy(CONFIG) | {"seed": seed}
        config["task"]["seed"] = config["trainer"]["data_seed"] = seed
        config["trainer"] |= more
        return identity.row(identity.identity(config, SETTINGS, "fp32"))

    assert row(one) == row(two) == row(one, score_steps=[1])
    assert row(one) != row(two, max_steps=8)


def test_a_record_names_the_cell_that_made_it(run: Callable[..., Any], records_of: Any) -> None:
    """The identity read back from a record is the one that the plan hashed."""
    assert run("method=fft", "trainer.max_steps=2").status == 0
    assert run("method=mora", "trainer.max_steps=2", "seed=1").status == 0
    for record in records_of():
        assert records.cell_id(identity.of_record(record)) == record["cell"]


def test_a_record_of_version_1_counts_as_done(
    run: Callable[..., Any], records_of: Any, tmp_path: Path
) -> None:
    """Its file has an id that hashed labels and no precision; the cell is the same."""
    command = ("method=lora", "trainer.max_steps=2")
    assert run(*command).status == 0
    (record,) = records_of()
    folder = tmp_path / "runs"
    (folder / f"{record['cell']}.json").unlink()
    old = record | {"schema_version": 1, "cell": "0123456789abcdef"}
    for key in ("perturb", "perturb_seed"):
        old["config"].pop(key, None)
    file = folder / "0123456789abcdef.json"
    file.write_text(json.dumps(old))
    from bench.run import plan

    plan._of_version_1.cache_clear()
    assert "1 cell: 1 done before" in run(*command).out
    assert [file.name for file in folder.glob("*.json")] == ["0123456789abcdef.json"]
    assert "1 cell: 1 ok" in run(*command, "model.label=x", "trainer.max_steps=3").out
    old["environment"]["precision"] = "bf16"
    file.write_text(json.dumps(old))
    plan._of_version_1.cache_clear()
    assert "1 cell: 1 ok" in run(*command).out  # bf16 is no fp32


def test_committed_records_keep_apart_and_keep_together(root: Path) -> None:
    """No committed record is orphaned or confused: today's identity tells apart what ids did."""
    files = [file for file in records.find(root / "results") if "runs" not in file.parts]
    for folder in sorted({file.parent for file in files}):
        found = [records.read(file, head_only=True) for file in files if file.parent == folder]
        ids = {records.cell_id(identity.of_record(record)) for record in found}
        assert len(ids) == len(found), folder
        assert all(record["environment"]["git_dirty"] is False for record in found), folder


def test_the_reference_page_is_that_of_the_table(root: Path) -> None:
    assert (root / "bench" / "records" / "FIELDS.md").read_text() == page()
