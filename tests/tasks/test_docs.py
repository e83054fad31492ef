"""The docstring corpus, its split and its cloze; and the task on the tiny model, offline."""

from __future__ import annotations

import ast
import gc
from typing import Any

import pytest

from tasks import TaskError
from tasks.docs import DocsTask
from tasks.docstrings import CLOZE_WORDS_BEFORE, Document, _documents, cloze_items, documents


@pytest.fixture(scope="module")
def task() -> DocsTask:
    return DocsTask(packages=["numpy"], block=128, held_out_texts=3, cloze_questions=5)


LONG = "word " * 80


def test_objects_are_found_by_name_with_their_signature() -> None:
    source = (
        f'class A:\n    def f(self, x=1):\n        """{LONG}"""\n    def g(self):\n        """s"""'
    )
    (document,) = _documents(ast.parse(source), "m")
    assert document.name == "m.A.f"
    assert document.text == f"m.A.f(self, x=1)\n\n{LONG}\n"


def test_modules_are_split_whole_and_no_text_comes_twice(task: DocsTask) -> None:
    modules = {
        held: {d.module for d in task.corpus if d.held_out == held} for held in (True, False)
    }
    assert modules[True] and modules[False]
    assert not modules[True] & modules[False]
    bodies = [d.text.partition("\n\n")[2] for d in task.corpus]
    assert len(set(bodies)) == len(bodies)
    assert task.corpus == documents(["numpy"])


@pytest.mark.parametrize("was_on", [True, False])
def test_a_failed_reading_leaves_the_garbage_collector_as_it_was(was_on: bool) -> None:
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(TaskError, match="not an installed package"):
            documents(["no_such_package"])
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


def test_cloze_asks_for_known_names_that_the_context_does_not_give(task: DocsTask) -> None:
    trained = {d.short_name for d in task.corpus if not d.held_out}
    by_name = {d.name: d for d in task.corpus}
    items = cloze_items(task.corpus)
    assert len(items) > 20
    for item in items:
        document = by_name[item.document]
        name = item.choices[item.answer]
        assert document.held_out
        assert name in trained
        assert document.text.startswith(item.context + name)
        assert len(item.context.split()) >= CLOZE_WORDS_BEFORE
        assert len(set(item.choices)) == 4
        assert not any(choice in item.context.split() for choice in item.choices)
    assert len({item.answer for item in items}) == 4  # no place is always right


def test_a_hand_made_cloze() -> None:
    modules = [f"p.m{i}" for i in range(100)]
    held = next(m for m in modules if Document("", m, "").held_out)
    kept = next(m for m in modules if not Document("", m, "").held_out)
    names = ["alpha_one", "bravo_two", "carol_abc", "delta_six"]
    train = [Document(f"{kept}.{name}", kept, name) for name in names]
    text = f"{LONG}see `p.bravo_two`, `bravo_two` again and `unknown`."
    (item,) = cloze_items([*train, Document(f"{held}.x", held, text)])
    assert item.context == f"{LONG}see `p."
    assert item.choices[item.answer] == "bravo_two"
    assert sorted(item.choices) == names
    assert cloze_items([*train, Document(f"{held}.x", held, "see `bravo_two`")]) == []
    assert cloze_items([*train, Document(f"{kept}.x", kept, text)]) == []


def test_the_task_runs_on_the_tiny_model(task: DocsTask, tiny: Any, tokenizer: Any) -> None:
    task.prepare()
    rows = task.train_dataset(tokenizer)
    assert {len(row["input_ids"]) for row in rows.select(range(5))} == {128}
    held_out, cloze = task.scorers()
    perplexity = held_out.score(tiny, tokenizer, 8)["docs_held_out_perplexity"]
    assert perplexity.n == 3
    assert perplexity.value > 1
    accuracy = cloze.score(tiny, tokenizer, 8)["docs_cloze_accuracy"]
    assert accuracy.n == 5
    assert accuracy.chance == pytest.approx(0.25)
    assert held_out.cache_key() and cloze.cache_key()


def test_the_card_reports_both_splits_and_their_overlap(task: DocsTask) -> None:
    train, test = task.data_card()
    assert train["rows"] + test["rows"] == len(task.corpus)
    assert "numpy" in train["revision"]
    assert test["overlap"]["test_rows"] == test["rows"]


@pytest.mark.parametrize("package", ["no_such_package", "no-such", "math"])
def test_refuses_what_is_no_installed_package(package: str) -> None:
    with pytest.raises(TaskError, match="not an installed package"):
        DocsTask(packages=[package]).prepare()


def test_refuses_no_packages_and_a_corpus_too_small() -> None:
    with pytest.raises(TaskError, match="empty"):
        DocsTask(packages=[])
    with pytest.raises(TaskError, match="too few"):
        DocsTask(packages=["numpy"], max_documents=1).scorers()
