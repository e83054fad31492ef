"""Scores whose answers a model's context cannot hold are refused before the model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.run import models
from bench.sweep import dryrun
from tasks.prompts import metamath_eval_prompt
from tasks.rehearsal import Room
from tests.tasks.rows import ROWS

LONGER = "model.architecture.max_position_embeddings"
SUMS = (
    "{name: sums, licence: CC0, splits: {train: train, test: test}, "
    "columns: {query: q, response: a}}"
)
PROMPT = len(metamath_eval_prompt(""))  # in bytes, the tokens of the tiny model
SETS = ("gsm8k", "fin_ner", "sums")


@pytest.fixture
def cell(tmp_path: Path) -> list[str]:
    """A cell of the tiny model, whose context is 512 bytes, on local files."""
    for name in SETS:
        (tmp_path / name).mkdir()
        row: Any = ROWS.get(name, lambda i: {"q": f"{i} + 1?", "a": f"The answer is: {i + 1}"})
        for split in ("train", "test"):
            lines = "".join(json.dumps(row(i)) + "\n" for i in range(30))
            (tmp_path / name / f"{split}.jsonl").write_text(lines)
    return [
        "task=math_gsm8k", "model=tiny", "method=lora", "method.learning_rate=1e-3", "tracker=none",
        "precision=fp32", "device=cpu", "task.forgetting=[]", f"data_dir={tmp_path}",
        f"results_dir={tmp_path / 'runs'}",
    ]  # fmt: skip


def told(cell: list[str]) -> list[str]:
    return [str(lack) for lack in dryrun.look(cell, "cpu").needs.missing]


@pytest.mark.parametrize(
    ("change", "name", "needed", "answer"),
    [
        (
            ["task.scores=[gsm8k_metamath]"],
            "gsm8k_metamath",
            PROMPT + len("What is 0+0?") + 512,
            512,
        ),
        # Examples before a question may be cut: what is left is a token and the answer.
        (["task.scores=[gsm8k]", f"{LONGER}=256"], "gsm8k", 257, 256),
        (["task.scores=[fin_ner]", f"{LONGER}=64"], "fin_ner", 101, 100),
        (
            [f"task.train_set={SUMS}", "task.scores=[]"],
            "sums, split test,",
            PROMPT + len("0 + 1?") + 400,
            400,
        ),
    ],
)
def test_the_dry_run_tells_of_an_answer_that_does_not_fit(
    change: list[str], name: str, needed: int, answer: int, cell: list[str]
) -> None:
    (line,) = told([*cell, *change])
    said = f"{name} needs a context of {needed} tokens, {answer} of them for the answer, and tiny"
    assert said in line and "take a model with a longer one" in line


def test_a_cell_with_such_a_score_is_refused_before_a_model_is_loaded(
    cell: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "load", None)
    scored = [*cell, "task.scores=[gsm8k_metamath]"]
    needed = PROMPT + len("What is 0+0?") + 512
    assert main(scored) == 2
    said = f"gsm8k_metamath needs a context of {needed} tokens, 512 of them for the answer"
    assert said in capsys.readouterr().err
    assert told([*scored, f"{LONGER}={needed - 1}"]) != told([*scored, f"{LONGER}={needed}"]) == []


def test_a_tokenizer_that_is_not_at_hand_is_not_fetched_for_it(cell: list[str]) -> None:
    """LLaMA-2 has 4,096 tokens: MetaMath's 512 fit, whatever its tokenizer makes of the prompt."""
    lines = told([*cell, "task.scores=[gsm8k_metamath]", "model=llama2_7b"])
    assert not [line for line in lines if "needs a context" in line]


def test_a_prompt_counts_where_it_may_not_be_cut(cell: list[str]) -> None:
    (row,) = dryrun.look([*cell, "task.scores=[gsm8k_metamath,gsm8k]"], "cpu").rows
    from bench.run.kept import task

    made = task(row.plan.config)
    assert [lack.name for lack in made.overlong(Room("m", 513))] == []
    assert [lack.name for lack in made.overlong(Room("m", 513, len))] == ["gsm8k_metamath"]
    assert [lack.name for lack in made.overlong(Room("m", 256))] == ["gsm8k_metamath", "gsm8k"]
