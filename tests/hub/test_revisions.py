"""A pinned revision makes another cell, none leaves cells as they were, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.rows import group
from bench.records import identity
from bench.report.notes import notes
from tasks import TaskError
from tasks.maths import MathsTask
from tests.bench.studies import make_record

TASK = {"_target_": "tasks.maths.MathsTask", "train_set": "gsm8k"}


def cell(**more: Any) -> str:
    config = {"seed": 0, "task": {**TASK, **more}, "method": {"_target_": "methods.lora.LoRA"}}
    return records.cell_id(identity.identity(config, {"rank": 8}, "fp32"))


def test_a_pin_is_another_cell_and_none_is_the_cell_of_before() -> None:
    assert cell(revisions=None) == cell()
    pinned = [cell(revisions={"gsm8k": commit}) for commit in ("a" * 40, "b" * 40)]
    assert len({cell(), *pinned}) == 3


def test_a_pin_reaches_training_set_benchmarks_and_what_may_be_forgotten() -> None:
    task = MathsTask(
        train_set="gsm8k",
        scores=["gsm8k", "math"],
        forgetting=["wikitext2", "hellaswag"],
        revisions={"gsm8k": "v1", "wikitext2": "v2", "hellaswag": "v3"},
    )
    found = {(source.name, split): source.revision for source, split in task.every_set()}
    assert found == {
        ("gsm8k", "train"): "v1", ("gsm8k", "test"): "v1", ("math", "test"): None,
        ("wikitext2", "test"): "v2", ("hellaswag", "validation"): "v3",
    }  # fmt: skip
    assert {scorer.name: scorer.revisions for scorer in task.benchmarks.scorers()} == {
        "gsm8k": task.revisions,
        "math": task.revisions,
    }


def test_an_unknown_set_is_no_pin() -> None:
    with pytest.raises(TaskError, match=r"task\.revisions names gsm9k; known sets: .*gsm8k"):
        MathsTask(revisions={"gsm9k": "v1"})


def _record(folder: Path, method: str, commit: str, model: str | None) -> None:
    card = {"name": "gsm8k/train", "hub_id": "openai/gsm8k", "revision": commit, "path": None}
    record = make_record(method)
    record["task"] = record["task"] | {"data": [card]}
    record["model"] = record["model"] | {"revision": model}
    (folder / f"{record['cell']}.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("commits", "models", "said"),
    [
        (("a" * 40, "a" * 40), ("c" * 40, "c" * 40), []),
        (("a" * 40, "b" * 40), ("c" * 40, "c" * 40), ["gsm8k/train"]),
        (("a" * 40, "b" * 40), ("c" * 40, "d" * 40), ["gsm8k/train", "the model"]),
    ],
)
def test_the_report_says_where_rows_differ_in_revision(
    tmp_path: Path, commits: Any, models: Any, said: list[str]
) -> None:
    for method, commit, model in zip(("lora", "mora"), commits, models, strict=True):
        _record(tmp_path, method, commit, model)
    (section,) = group(collect(tmp_path).cells)
    found = [line for line in notes(section, "accuracy") if "revision" in line or "data" in line]
    assert [line.partition(" of ")[2].partition(":")[0] for line in found] == said
    for line in found:
        assert line.startswith("WARNING: rows differ in the revision") and "LoRA" in line
