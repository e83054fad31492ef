"""All that a task lacks can be asked for; prepare() stops at the first of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import Task, TaskError
from tasks.checks import MAX_SEED
from tasks.continual import FinanceTask
from tasks.data import Missing
from tasks.docs import DocsTask
from tasks.facts import FactsTask
from tasks.instruction import InstructionTask
from tasks.math_symbolic import MathSymbolicTask
from tasks.maths import MathsTask
from tasks.pretrain import PretrainTask
from tasks.text import TextTask
from tasks.uuid import UuidTask


def names(task: Task) -> list[tuple[str, str | None]]:
    return [(item.name, item.split) for item in task.missing()]


def test_training_sets_scores_and_forgetting_are_all_listed_once(tmp_path: Path) -> None:
    task = MathsTask(
        scores=["gsm8k", "gsm8k_metamath", "math"],
        forgetting=["hellaswag", "pydoc_topics", "wikitext2"],
        data_dir=str(tmp_path),
    )
    assert names(task) == [
        ("metamathqa", "train"),
        ("gsm8k", "test"),
        ("gsm8k", "train"),
        ("math", "test"),
        ("hellaswag", "validation"),
        ("wikitext2", "test"),
    ]
    first = task.missing()[0]
    assert first.hub_id == "meta-math/MetaMathQA"
    assert first.looked_in == str(tmp_path / "metamathqa" / "train.jsonl")
    assert first.why.startswith("the hub gave: ")
    with pytest.raises(TaskError) as caught:
        task.prepare()
    assert str(caught.value) == str(first)


def test_what_is_there_is_not_listed_and_what_is_broken_is(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    row = json.dumps({"question": "q", "answer": "#### 1"})
    (tmp_path / "gsm8k" / "train.jsonl").write_text(row)
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": ""}\n')
    task = MathsTask(train_set="gsm8k", scores=["gsm8k"], data_dir=str(tmp_path))
    (broken,) = task.missing()
    assert (broken.name, broken.split, broken.why) == ("gsm8k", "test", "broken")
    assert "line 1" in str(broken)


def test_without_a_folder_nothing_was_looked_in() -> None:
    (item,) = PretrainTask(corpus="c4_sample").missing()
    assert (item.looked_in, item.hub_id) == (None, None)
    assert "MORA_BENCH_DATA" in str(item)


def test_packages_that_are_not_installed_are_all_listed() -> None:
    assert names(DocsTask(packages=["no_such", "numpy", "nor_this"])) == [
        ("no_such", None),
        ("nor_this", None),
    ]


@pytest.mark.parametrize(
    "task",
    [
        UuidTask(pairs=1),
        FactsTask(facts=1, forgetting=["docstrings", "pydoc_topics"]),
        TextTask(),
        TextTask(corpus="cpp_headers"),
        DocsTask(),
        PretrainTask(),
        MathSymbolicTask(train_items=1, test_items=1),
    ],
)
def test_embedded_tasks_miss_nothing(task: Task) -> None:
    assert task.missing() == []
    task.prepare()


def test_every_task_of_the_configuration_answers(root: Path, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    files = sorted(path.stem for path in (root / "conf" / "task").glob("*.yaml"))
    assert len(files) > 10
    with initialize_config_module("conf", version_base="1.3"):
        for name in files:
            config = compose("config", [f"task={name}", f"data_dir={tmp_path}"])
            settings = dict(config["task"])
            label = settings.pop("name")
            task: Task = instantiate(settings)
            assert task.name == label
            found = task.missing()
            assert all(isinstance(item, Missing) and item.name and item.why for item in found)
            if found:
                with pytest.raises(TaskError):
                    task.prepare()
            else:
                task.prepare()


TASKS: list[Any] = [
    UuidTask,
    FactsTask,
    TextTask,
    DocsTask,
    PretrainTask,
    MathSymbolicTask,
    MathsTask,
    InstructionTask,
    FinanceTask,
]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 99999999999999999999, 1.5, True, "0"])
def test_a_seed_out_of_range_is_refused_in_words(kind: Any, seed: Any) -> None:
    with pytest.raises(TaskError, match=r"seed is .*a whole number from 0 to 4,294,967,295"):
        kind(seed=seed)


def test_the_largest_seed_works(tokenizer: Any) -> None:
    assert UuidTask(pairs=1, seed=MAX_SEED).train_dataset(tokenizer)
    assert FactsTask(facts=1, seed=MAX_SEED).train_dataset(tokenizer)
    assert MathSymbolicTask(train_items=2, test_items=2, seed=MAX_SEED).train_dataset(tokenizer)


@pytest.mark.parametrize(
    ("kind", "key", "least"),
    [
        (UuidTask, "pairs", 1),
        (UuidTask, "score_pairs", 1),
        (FactsTask, "facts", 1),
        (MathSymbolicTask, "train_items", 1),
        (MathSymbolicTask, "test_items", 1),
        (DocsTask, "block", 2),
        (DocsTask, "held_out_texts", 1),
        (DocsTask, "max_documents", 1),
        (DocsTask, "cloze_questions", 0),
        (PretrainTask, "block", 2),
        (PretrainTask, "shards", 1),
        (PretrainTask, "max_blocks", 1),
        (PretrainTask, "validation_texts", 1),
        (FinanceTask, "block", 2),
        (FinanceTask, "limit", 1),
        (FinanceTask, "max_documents", 1),
        (FinanceTask, "held_out_texts", 1),
        (MathsTask, "limit", 1),
        (MathsTask, "max_examples", 1),
        (InstructionTask, "max_tokens", 2),
        (TextTask, "block", 2),
        (TextTask, "held_out_characters", 1),
        (TextTask, "forgetting_limit", 1),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_made(
    kind: Any, key: str, least: int
) -> None:
    for value in (least - 1, -1, 10**9, 10**30, 2.5, "many"):
        with pytest.raises(TaskError, match=rf"task\.{key} is .*from {least} to [\d,]+"):
            kind(**{key: value})


def test_a_very_long_number_is_not_written_out() -> None:
    with pytest.raises(TaskError) as caught:
        UuidTask(pairs=10**1000)
    assert len(str(caught.value)) < 120


def test_a_refusal_costs_no_memory_and_no_time() -> None:
    """The pairs of a huge task are not drawn by its constructor."""
    task = UuidTask(pairs=1_000_000)
    assert sys.getsizeof(task.__dict__) < 10_000
    assert "pairs" not in task.__dict__
