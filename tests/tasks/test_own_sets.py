"""A data set stated in one YAML trains and scores; what is wrong in it is told by its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import TaskError
from tasks.answers import same_answer
from tasks.instruction import InstructionTask, last_response
from tasks.maths import MathsTask, own_response
from tasks.prompts import metamath_eval_prompt

MATHS: dict[str, Any] = {
    "name": "sums",
    "label": "Sums",
    "licence": "CC0",
    "splits": {"train": "train", "test": "validation"},
    "columns": {"query": "problem", "response": "solution", "answer": "result"},
}
CHAT: dict[str, Any] = {
    "name": "talks",
    "licence": "CC0",
    "splits": {"train": "train", "test": "test"},
    "columns": {"prompt": "ask", "response": "say"},
}


def write(folder: Path, name: str, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / name).mkdir(exist_ok=True)
    lines = "\n".join(map(json.dumps, rows))
    (folder / name / f"{split}.jsonl").write_text(lines)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for split, first in (("train", 0), ("test", 50)):
        numbers = range(first, first + 8)
        sums = [
            {"problem": f"{n} + 1?", "solution": f"It is {n + 1}.", "result": n + 1}
            for n in numbers
        ]
        write(tmp_path, "sums", split, sums)
        write(tmp_path, "talks", split, [{"ask": f"Say {n}", "say": f"Yes, {n}"} for n in numbers])
    return str(tmp_path)


def test_one_yaml_in_a_folder_of_ones_own_trains_and_scores(
    tmp_path: Path, folder: str, root: Path
) -> None:
    (tmp_path / "mine" / "task").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "my_sums.yaml").write_text(
        "_target_: tasks.maths.MathsTask\n"
        "name: sums\n"
        f"train_set: {json.dumps(MATHS)}\n"
        "scores: []\n"
        "limit: 2\n"
        "seed: ${seed}\n"
        "data_dir: ${data_dir}\n"
    )
    told = ["task=my_sums", "model=tiny", "method=lora", "method.learning_rate=1e-3"]
    told += ["tracker=none", "model.architecture.max_position_embeddings=1024"]
    told += ["trainer.max_steps=2", f"data_dir={folder}", f"results_dir={tmp_path / 'results'}"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--config-dir", str(tmp_path / "mine"), *told],
        cwd=root,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    (file,) = (tmp_path / "results").glob("*.json")
    record = json.loads(file.read_text())
    assert record["status"] == "ok"
    assert record["task"]["name"] == "sums"
    assert record["metrics"]["sums_exact_match"]["n"] == 2
    train, test = record["task"]["data"]
    assert (train["name"], train["rows"], train["licence"]) == ("sums/train", 8, "CC0")
    assert test["overlap"]["train_rows"] == 8


def test_maths_learns_the_answer_in_metamaths_form(
    folder: str, tokenizer: Any, recall: Callable[..., Any]
) -> None:
    task = MathsTask(train_set=MATHS, scores=[], data_dir=folder)
    assert (task.name, task.label) == ("sums", "Sums")
    task.prepare()
    row = task.train_dataset(tokenizer)[0]
    learnt = [t for t in row["labels"] if t != -100]
    assert tokenizer.decode(learnt) == "It is 1.\nThe answer is: 1</s>"
    (scorer,) = task.scorers()
    known = {
        metamath_eval_prompt(f"{n} + 1?"): f" So. The answer is: {n + 1}.0</s>" for n in (50, 52)
    }
    found = scorer.score(recall(known), tokenizer, 8)
    assert found["sums_exact_match"].value == 2 / 8
    assert found["sums_extracted"].value == 2 / 8


def test_instruction_scores_the_last_responses(folder: str, tiny: Any, tokenizer: Any) -> None:
    task = InstructionTask(train_set=CHAT, scores=[], limit=3, data_dir=folder)
    task.prepare()
    text = tokenizer.decode(task.train_dataset(tokenizer)[0]["input_ids"])
    assert text == "<|user|>\nSay 0\n<|assistant|>\nYes, 0</s>"
    (scorer,) = task.scorers()
    metric = scorer.score(tiny, tokenizer, 2)["talks_response_perplexity"]
    assert metric.n == 3
    assert metric.value > 1


def test_messages_are_a_form_too(tmp_path: Path, tokenizer: Any) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    write(tmp_path, "talks", "train", [{"turns": talk}])
    stated = {"name": "talks", "licence": "CC0", "columns": {"messages": "turns"}}
    task = InstructionTask(train_set=stated, scores=[], data_dir=str(tmp_path))
    assert tokenizer.decode(task.train_dataset(tokenizer)[0]["input_ids"]).endswith("Ho</s>")
    assert task.scorers() == []


def test_the_last_response_is_the_assistants() -> None:
    def says(*roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": role[0]} for role in roles]

    found = last_response(says("user", "assistant", "user", "assistant", "user"))
    assert found == ("<|user|>\nu\n<|assistant|>\na\n<|user|>\nu\n<|assistant|>\n", "a")
    assert last_response(says("user")) is None
    assert last_response([]) is None


@pytest.mark.parametrize(
    ("response", "answer", "wanted"),
    [
        ("So. The answer is: 7", None, ("So. The answer is: 7", "7")),
        ("So.\n#### 7", None, ("So.\n#### 7\nThe answer is: 7", "7")),
        ("So.", 7, ("So.\nThe answer is: 7", "7")),
        ("The answer is: 7.", "7 km", ("The answer is: 7.", "7 km")),
    ],
)
def test_where_an_answer_is_read(response: str, answer: Any, wanted: tuple[str, str]) -> None:
    assert own_response(response, answer) == wanted


def test_a_response_without_an_answer_is_refused() -> None:
    with pytest.raises(TaskError, match=r"columns states no answer: 'So\.'"):
        own_response("So.")


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("12", "12.0", True),
        ("-3", "3", False),
        ("A", "a", True),
        ("x", "3", False),
        (None, "a", False),
    ],
)
def test_answers_are_compared(given: str | None, wanted: str, same: bool) -> None:
    assert same_answer(given, wanted) is same


def test_what_is_missing_is_listed_with_its_hub_id(tmp_path: Path) -> None:
    stated = MATHS | {"hub_id": "some/sums", "revision": "abc"}
    task = MathsTask(train_set=stated, scores=[], data_dir=str(tmp_path))
    assert [(m.name, m.split, m.hub_id) for m in task.missing()] == [
        ("sums", "train", "some/sums"),
        ("sums", "test", "some/sums"),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"licence": None}, "train_set lacks 'licence'; its keys: name, licence"),
        ({"hub": "a/b"}, "train_set has the unknown key 'hub'"),
        ({"name": "../up"}, "train_set.name is '../up'"),
        ({"name": "gsm8k"}, "no name of tasks/sets.py"),
        ({"columns": {"query": "q"}}, "columns states query; state query and response"),
        ({"columns": ["q"]}, "state a mapping"),
        ({"splits": {"test": "test"}}, "splits lacks 'train'"),
        ({"splits": {"train": "train", "dev": "x"}}, "splits has the unknown key 'dev'"),
    ],
)
def test_refuses_a_set_stated_wrongly(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        MathsTask(train_set=MATHS | change, scores=[])
    assert said in str(caught.value)
