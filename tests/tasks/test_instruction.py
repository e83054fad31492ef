"""Instruction tuning: open-instruct's text, loss on assistants' turns, cuts counted."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from transformers import ByT5Tokenizer

from tasks import TaskError, examples, packing
from tasks.examples import Cuts, Segments, examples_dataset, take
from tasks.instruction import InstructionTask, chat_segments
from tasks.tokens import IGNORED, segments_encode

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye?"},
    {"role": "assistant", "content": "Bye."},
]
TEXT = (
    "<|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\nHello</s>\n"
    "<|user|>\nBye?\n<|assistant|>\nBye.</s>"
)


def write(folder: Path, talks: list[Any]) -> str:
    (folder / "tulu_v2").mkdir()
    lines = [
        json.dumps({"dataset": "d", "id": str(i), "messages": talk}) for i, talk in enumerate(talks)
    ]
    (folder / "tulu_v2" / "train.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_text_and_loss_are_open_instructs() -> None:
    segments = chat_segments(TALK, "</s>")
    assert "".join(text for text, _ in segments) == TEXT
    assert [text for text, learnt in segments if learnt] == ["Hello</s>\n", "Bye.</s>"]


def test_rows_learn_assistants_turns_alone(tmp_path: Path, tokenizer: Any) -> None:
    task = InstructionTask(scores=[], data_dir=write(tmp_path, [TALK]))
    task.prepare()
    (row,) = task.train_dataset(tokenizer)
    # ByT5 drops blanks after its EOS.
    assert tokenizer.decode(row["input_ids"]) == TEXT.replace("</s>\n", "</s>")
    learnt = tokenizer.decode([t for t in row["labels"] if t != IGNORED])
    assert learnt == "Hello</s>Bye.</s>"
    assert all(b in (a, IGNORED) for a, b in zip(row["input_ids"], row["labels"], strict=True))


def test_long_rows_are_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    late = [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]
    long = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * 90}]
    folder = write(tmp_path, [TALK[1:3], late, long])
    task = InstructionTask(scores=[], max_tokens=60, data_dir=folder)
    rows = task.train_dataset(tokenizer)
    assert [len(row["input_ids"]) for row in rows] == [
        len("<|user|>\nHi\n<|assistant|>\nHello") + 1,
        60,
    ]
    assert task.data_card()[0]["cuts"].startswith("2 examples kept, 1 of them cut to 60 tokens; 1")


def test_refuses_a_length_that_leaves_nothing_to_learn(tmp_path: Path, tokenizer: Any) -> None:
    folder = write(tmp_path, [TALK])
    with pytest.raises(TaskError, match="max_tokens=5: raise it"):
        InstructionTask(scores=[], max_tokens=5, data_dir=folder).train_dataset(tokenizer)
    with pytest.raises(TaskError, match="max_tokens is 1"):
        examples_dataset([], list, tokenizer, 1)


# ---- a large set ------------------------------------------------------------------------------

MANY: list[Segments] = [[(f"{i}" * i, False), (f"say {i}", True)] for i in range(1, 40)]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few examples are a large set."""
    monkeypatch.setattr(packing, "LARGE", 3)


def test_a_large_set_has_the_rows_on_disk_that_it_has_in_memory(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, cut = [], 0
    for segments in MANY:
        ids, labels = segments_encode(tokenizer, segments)
        if set(labels[:30]) != {IGNORED}:
            rows.append({"input_ids": ids[:30], "labels": labels[:30]})
            cut += len(ids) > 30
    held, cuts = examples_dataset(MANY, list, tokenizer, 30)
    monkeypatch.setattr(packing, "LARGE", 3)
    stored, as_many = examples_dataset(MANY, list, tokenizer, 30)
    assert stored.cache_files and not held.cache_files
    assert stored.to_list() == held.to_list() == rows
    assert stored.features == held.features
    assert cuts == as_many == Cuts(len(rows), cut, len(MANY) - len(rows))
    assert cuts.cut and cuts.dropped


@pytest.mark.usefixtures("large")
def test_a_large_set_is_tokenised_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, cuts = examples_dataset(MANY, list, tokenizer, 40)
    asked = []

    def once_more(tokenizer: Any, segments: Segments) -> tuple[list[int], list[int]]:
        asked.append(segments)
        return segments_encode(tokenizer, segments)

    monkeypatch.setattr(examples, "segments_encode", once_more)
    again, as_many = examples_dataset(MANY, list, ByT5Tokenizer(), 40)
    assert again.cache_files == first.cache_files and as_many == cuts
    assert again.to_list() == first.to_list()
    assert asked == MANY[:1]  # whether there is a row at all


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("other", ["tokenizer", "template", "text", "length", "library", "code"])
def test_what_is_made_otherwise_lies_in_another_file(
    other: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(tokenizer: Any, data: Any = MANY, segments: Any = list, length: int = 40) -> Any:
        return examples_dataset(data, segments, tokenizer, length)[0].cache_files

    first = files(tokenizer)
    if other == "tokenizer":
        found = files(ByT5Tokenizer(extra_ids=0, additional_special_tokens=["say"]))
    elif other == "template":
        found = files(tokenizer, segments=lambda item: [*item, ("\n", True)])
    elif other == "text":
        found = files(tokenizer, [*MANY[:20], [("a", False), ("b", True)], *MANY[21:]])
    elif other == "length":
        found = files(tokenizer, length=41)
    elif other == "library":
        monkeypatch.setattr("tokenizers.__version__", "0")
        found = files(tokenizer)
    else:
        monkeypatch.setattr("inspect.getsource", lambda module: module.__name__)
        found = files(tokenizer)
    assert found and found != first


@pytest.mark.usefixtures("large")
def test_a_large_set_with_nothing_to_learn_is_refused_too(tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="max_tokens=2: raise it"):
        examples_dataset(MANY[5:], list, tokenizer, 2)


@pytest.mark.parametrize("large", [False, True])
def test_a_token_takes_few_bytes_of_memory(
    large: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two int32 in Arrow; as lists of Python's integers it took above a hundred at the peak."""
    count, length = 3000, 100

    def encoded(tokenizer: Any, segments: Segments) -> tuple[list[int], list[int]]:
        ids = [int(segments[0][0]) + 1000 + i for i in range(length)]
        return ids, list(ids)

    monkeypatch.setattr(examples, "segments_encode", encoded)
    monkeypatch.setattr(packing, "LARGE", count - large)
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        data, _ = examples_dataset(range(count), lambda i: [(str(i), True)], tokenizer, length)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = pyarrow.total_allocated_bytes() - before
    assert len(data) == count
    assert held < (1 if large else 9) * count * length
    assert peak < 25 * count * length  # a batch of rows on its way to Arrow


def test_refuses_a_role_that_no_one_knows() -> None:
    with pytest.raises(TaskError, match="the role 'tool'"):
        chat_segments([{"role": "tool", "content": ""}], "</s>")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_set": "alpaca"}, "'alpaca'"),
        ({"scores": ["boolq"]}, "'boolq'; known: mmlu, mmlu_chat"),
        ({"scores": ["boolq_2shot"]}, "'boolq_2shot'; known: mmlu"),
        ({"scores": ["math_4shot"]}, "math has no split to take shots from"),
        ({"limit": 0}, "task.limit is 0"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        InstructionTask(**settings)


def test_a_stand_in_goes_by_its_own_name() -> None:
    assert InstructionTask(train_set="tulu_v2_standin").name == "instruction_standin"
    assert InstructionTask().name == "instruction"


def test_a_sample_is_the_same_every_time_and_keeps_the_order() -> None:
    import datasets

    data = datasets.Dataset.from_dict({"n": list(range(50))})
    picked = take(data, 10)["n"][:]
    assert picked == take(data, 10)["n"][:] == sorted(picked)
    assert take(data, None) is data
    with pytest.raises(TaskError, match="max_examples is 0"):
        take(data, 0)


class Pairs:
    """A tokenizer that takes two letters at a time, so that tokens may straddle a seam."""

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[str]]:
        return {"input_ids": [text[i : i + 2] for i in range(0, len(text), 2)]}


def test_segments_are_tokenised_apart_where_a_token_would_straddle_a_seam() -> None:
    clean = segments_encode(Pairs(), [("abcd", False), ("ef", True)])
    assert clean == (["ab", "cd", "ef"], [IGNORED, IGNORED, "ef"])
    apart = segments_encode(Pairs(), [("abc", False), ("def", True)])
    assert apart == (["ab", "c", "de", "f"], [IGNORED, IGNORED, "de", "f"])


def test_the_local_stand_in_runs(data_dir: Path, tokenizer: Any) -> None:
    task = InstructionTask(
        train_set="tulu_v2_standin", max_examples=20, scores=["mmlu_0shot"], data_dir=str(data_dir)
    )
    task.prepare()
    assert len(task.train_dataset(tokenizer)) == 20
    train, test, _ = task.data_card()
    assert train["rows"] == 20
    assert test["overlap"]["train_rows"] == 20
