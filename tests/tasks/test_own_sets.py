"""A data set stated in one YAML trains and scores; what is wrong in it is told by its key."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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

    found = last_response(says("user", "assistant", "user", "assistant", "user"), "</s>")
    assert found == ("<|user|>\nu\n<|assistant|>\na</s>\n<|user|>\nu\n<|assistant|>\n", "a")
    assert last_response([*says("user"), {"role": "assistant", "content": " "}], "</s>") is None
    assert last_response(says("user"), "</s>") is None
    assert last_response([], "</s>") is None


def turns(*said: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(said)
    return {"turns": [{"role": r, "content": s} for r, s in zip(roles, said, strict=False)]}


TURNS: dict[str, Any] = {
    "name": "talks",
    "licence": "CC0",
    "splits": {"train": "train", "test": "test"},
    "columns": {"messages": "turns"},
}


def test_a_response_is_scored_after_the_text_of_training(
    tmp_path: Path, tiny: Any, tokenizer: Any
) -> None:
    """EOS stands after the assistant's earlier turns."""
    for split in ("train", "test"):
        write(tmp_path, "talks", split, [turns("Hi", "Ho", "Bye?", "Bye.")])
    task = InstructionTask(train_set=TURNS, scores=[], data_dir=str(tmp_path))
    (row,) = task.train_dataset(tokenizer)
    ids = row["input_ids"][:-1]  # EOS is not scored
    answer = len("Bye.")
    with torch.no_grad():
        logs = tiny(torch.tensor([ids])).logits[0].log_softmax(-1)
    nats = [-float(logs[i - 1, ids[i]]) for i in range(len(ids) - answer, len(ids))]
    (scorer,) = task.scorers()
    metric = scorer.score(tiny, tokenizer, 2)["talks_response_perplexity"]
    assert metric.value == pytest.approx(math.exp(sum(nats) / answer), rel=1e-4)


def test_a_context_that_a_model_has_no_room_for_is_cut_from_the_left(
    tmp_path: Path, tiny: Any, tokenizer: Any
) -> None:
    room = tiny.config.max_position_embeddings
    frame = len("<|user|>\n\n<|assistant|>\n")
    write(tmp_path, "talks", "train", [turns("Hi", "Ho")])
    long = "abc" * room
    # A byte a token: of the question its last bytes are left, as many as there is room for.
    for question in (long, long[-(room - frame - 1) :]):
        write(tmp_path, "talks", "test", [turns(question, "yy")])
        (scorer,) = InstructionTask(train_set=TURNS, scores=[], data_dir=str(tmp_path)).scorers()
        cut = scorer.score(tiny, tokenizer, 2)["talks_response_perplexity"].value
        text = f"<|user|>\n{question}\n<|assistant|>\n"[-(room - 1) :] + "yy"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = tiny(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        nats = [-float(logs[i, ids[-1]]) for i in (-2, -1)]
        assert cut == pytest.approx(math.exp(sum(nats) / 2), rel=1e-4)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"from": "human", "value": "Hi"}, "message 2 of a conversation has no text as its 'role'"),
        ({"role": "assistant", "content": None}, "has no text as its 'content'"),
        ({"role": "assistant"}, "has no text as its 'content'"),
    ],
)
def test_a_message_of_another_shape_is_named_with_its_row(
    tmp_path: Path, tokenizer: Any, message: dict[str, Any], words: str
) -> None:
    """The rows that a rehearsal reads are sound."""
    rows = [turns("Hi", f"Ho {i}") for i in range(11)]
    rows[10]["turns"][1] = message
    for split in ("train", "test"):
        write(tmp_path, "talks", split, rows)
    task = InstructionTask(train_set=TURNS, scores=[], data_dir=str(tmp_path))
    with pytest.raises(TaskError, match=f"the training set, row 11: .*{words}"):
        task.train_dataset(tokenizer)
    with pytest.raises(TaskError, match=f"set talks, split test, row 11: .*{words}"):
        task.scorers()


@pytest.mark.parametrize(
    ("response", "answer", "wanted"),
    [
        ("So. The answer is: 7", None, ("So. The answer is: 7", "7")),
        ("So.\n#### 7", None, ("So.\n#### 7\nThe answer is: 7", "7")),
        ("So.", 7, ("So.\nThe answer is: 7", "7")),
        ("The answer is: 7.", "7 km", ("The answer is: 7.", "7 km")),
        # Prose that says nearly as much.
        (
            "The answer is not 4, since 2 + 3 is more.\n#### 5",
            None,
            (
                "The answer is not 4, since 2 + 3 is more.\n#### 5\nThe answer is: 5",
                "5",
            ),
        ),
        ("The answer is odd.", 7, ("The answer is odd.\nThe answer is: 7", "7")),
        ("The answer is 7.", None, ("The answer is 7.\nThe answer is: 7", "7")),
        ("The answer is:\n#### 7", None, ("The answer is:\n#### 7\nThe answer is: 7", "7")),
        ("The answer is:", 7, ("The answer is:\nThe answer is: 7", "7")),
        # A column that holds a 0.5 is read as floats.
        ("So.", 7.0, ("So.\nThe answer is: 7", "7")),
        ("So.", 0.5, ("So.\nThe answer is: 0.5", "0.5")),
    ],
)
def test_where_an_answer_is_read(response: str, answer: Any, wanted: tuple[str, str]) -> None:
    assert own_response(response, answer) == wanted


@pytest.mark.parametrize("response", ["So.", "The answer is:\n7", "So.\n####"])
def test_a_response_without_an_answer_is_refused(response: str) -> None:
    with pytest.raises(TaskError, match=f"columns states no answer: {re.escape(repr(response))}"):
        own_response(response)


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
