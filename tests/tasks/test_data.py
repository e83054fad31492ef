"""Loading and judging data: local files are checked line by line, nothing missing waits long."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
import zstandard

from tasks import TaskError
from tasks.data import card, check_lines, load, part_name, require
from tasks.overlap import overlap
from tasks.scores import SCORES
from tasks.sets import SETS
from tasks.source import Source

SOURCE = Source(
    name="toy",
    licence="none",
    columns=("question", "answer"),
    texts=("question",),
    files={"train": "train.jsonl"},
    hub_id="nobody/toy",
)
ROWS = [{"question": f"q{i}", "answer": i} for i in range(3)]


def write(folder: Path, lines: list[Any], name: str = "train.jsonl") -> Path:
    path = folder / "toy" / name
    path.parent.mkdir(exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n")
    return path


def test_loads_the_local_file_and_tells_of_it(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    data = load(SOURCE, "train", tmp_path)
    assert list(data) == ROWS
    entry = card(SOURCE, "train", data, tmp_path)
    assert entry["rows"] == 3
    assert entry["path"] == "toy/train.jsonl"
    assert entry["hub_id"] == "nobody/toy"
    write(tmp_path, ROWS[:2])
    assert card(SOURCE, "train", data, tmp_path)["fingerprint"] != entry["fingerprint"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([ROWS[0], {"question": "q"}], "line 2: column 'answer' is missing"),
        ([ROWS[0], '{"question": "q1", '], "line 2: no valid JSON"),
        ([ROWS[0], "", ROWS[1]], "line 2: the line is empty"),
        ([ROWS[0], "[1]"], "line 2: a JSON object is needed, not list"),
        ([{"question": " ", "answer": 1}], "line 1: column 'question' is empty"),
        ([{"question": None, "answer": 1}], "line 1: column 'question' is empty"),
        ([{"question": [], "answer": 1}], "line 1: column 'question' is empty"),
        ([*ROWS, ROWS[1]], "line 4: repeats line 2"),
        ([ROWS[0], {"question": "\ud83d", "answer": 1}], "line 2: column 'question' holds half of"),
        ([{"question": "q", "answer": ["\ude00"]}], "line 1: column 'answer' holds half of"),
        (["{"] * 8, "and 3 more"),
    ],
)
def test_refuses_a_broken_file_with_file_line_and_column(
    tmp_path: Path, lines: list[Any], words: str
) -> None:
    path = write(tmp_path, lines)
    with pytest.raises(TaskError, match=r"train\.jsonl") as caught:
        require(SOURCE, "train", tmp_path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_characters_may_be_written_in_halves(tmp_path: Path) -> None:
    rows = [{"question": "\U0001f600", "answer": 1}]
    assert "\\ud83d" in write(tmp_path, rows).read_text()
    assert list(load(SOURCE, "train", tmp_path)) == rows


def test_a_file_that_makes_no_table_is_named_with_the_cause(tmp_path: Path) -> None:
    """Line by line all is well; the type of a column changes where it has been settled."""
    rows = [{"question": "q" * 100_000 + str(i), "answer": i} for i in range(120)]
    path = write(tmp_path, [*rows, {"question": "last", "answer": {"of": "another type"}}])
    require(SOURCE, "train", tmp_path)
    with pytest.raises(TaskError, match="its lines make no table") as caught:
        load(SOURCE, "train", tmp_path)
    assert str(path) in str(caught.value) and "another type" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_maths_test_split_goes_by_two_names(tmp_path: Path) -> None:
    (tmp_path / "math").mkdir()
    row = {"problem": "1?", "level": "1", "type": "a", "solution": "$1$"}
    for name, count in (("test_1000.jsonl", 1), ("test.jsonl", 2)):
        rows = [row | {"problem": f"{i}?"} for i in range(count)]
        (tmp_path / "math" / name).write_text("\n".join(map(json.dumps, rows)))
        data = load(SETS["math"], "test", tmp_path)
        assert len(data) == count
        assert card(SETS["math"], "test", data, tmp_path)["path"] == f"math/{name}"


def test_refuses_a_file_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    path.write_text("")
    with pytest.raises(TaskError, match="no rows"):
        require(SOURCE, "train", tmp_path)


def test_repeats_of_the_published_set_pass_and_no_more(tmp_path: Path) -> None:
    source = Source(**{**vars(SOURCE), "repeats": {"train": 1}})
    check_lines(write(tmp_path, [*ROWS, ROWS[0]]), source, "train")
    with pytest.raises(TaskError, match="repeats line"):
        check_lines(write(tmp_path, [*ROWS, ROWS[0], ROWS[0]]), source, "train")


@pytest.mark.parametrize("with_folder", [False, True])
def test_a_missing_set_is_one_message_within_seconds(tmp_path: Path, with_folder: bool) -> None:
    start = time.monotonic()
    with pytest.raises(TaskError) as caught:
        load(SETS["gsm8k"], "test", tmp_path if with_folder else None)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert "gsm8k" in message
    assert "openai/gsm8k, config main" in message
    assert (str(tmp_path) if with_folder else "MORA_BENCH_DATA") in message
    assert "\n" not in message


def test_a_missing_training_set_tells_what_to_take_instead() -> None:
    with pytest.raises(TaskError, match=r"or take task=math_gsm8k.*which needs no data\.$"):
        require(SETS["metamathqa"], "train", None)


def test_a_set_that_is_on_no_hub_says_so() -> None:
    with pytest.raises(TaskError, match="on no hub"):
        require(SETS["tulu_v2_standin"], "train", None)


def test_a_part_does_not_get_the_name_of_the_whole() -> None:
    assert part_name("math", 5000, 5000) == "math"
    assert part_name("math", 1000, None) == "math"
    assert part_name("math", 1000, 5000) == "math_1000_of_5000"


def test_overlap_finds_shared_runs_of_words_only() -> None:
    words = [f"w{i}" for i in range(40)]
    train = [" ".join(words)]
    shares = "A new start: " + ", ".join(words[5:18]) + " and another end"
    nearly = " ".join([*words[5:17], "other", *words[18:29]])
    report = overlap(train, [shares, nearly, "short", ""])
    assert report["rows_that_overlap"] == 1
    assert report["first"] == [0]
    assert report["test_rows"] == 4
    assert overlap(["short"], ["SHORT!"])["rows_that_overlap"] == 1


def test_every_local_set_is_sound(data_dir: Path) -> None:
    checked = 0
    for source in SETS.values():
        for split in source.files:
            path = source.path(split, data_dir)
            if path is not None:
                check_lines(path, source, split)
                checked += 1
    assert checked > 0


def test_a_compressed_file_is_checked_and_read(tmp_path: Path) -> None:
    plain = write(tmp_path, ROWS)
    packed = plain.with_name("train.jsonl.zst")
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    data = load(SOURCE, "train", tmp_path)
    assert list(data) == ROWS
    assert card(SOURCE, "train", data, tmp_path)["path"] == "toy/train.jsonl.zst"
    packed.write_bytes(zstandard.compress(b'{"question": "q"}\n'))
    with pytest.raises(TaskError, match=r"zst: line 1: column 'answer' is missing"):
        require(SOURCE, "train", tmp_path)


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    plain = write(tmp_path, ROWS)
    plain.rename(plain.with_name("train.jsonl.zst"))
    with pytest.raises(TaskError, match=r"train\.jsonl\.zst: no whole zstandard file"):
        require(SOURCE, "train", tmp_path)


def test_a_converted_branch_is_read_by_its_files(tmp_path: Path) -> None:
    """It has a folder a configuration and knows none by name: all levels of agreement would mix."""
    source = SETS["financial_phrasebank"]
    for config, count in (("sentences_50agree", 3), ("sentences_allagree", 2)):
        rows = [{"sentence": config, "label": 0}] * count
        (tmp_path / config / "train").mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / config / "train" / "0000.parquet")
    files = dict(source.data_files or {})
    data = datasets.load_dataset(str(tmp_path), source.config, split="train", data_files=files)
    assert data["sentence"][:] == ["sentences_50agree"] * 3
    for other in SETS.values():
        if other.revision == "refs/convert/parquet":
            assert other.config is None and set(other.data_files or {}) == set(other.files)


def test_the_papers_finance_and_medicine_read_adaptllms_files(root: Path) -> None:
    """None of them is a script, a renamed set or a configuration of a converted branch."""
    for task, repository in (("finance", "finance-tasks"), ("biomedicine", "medicine-tasks")):
        stated = yaml.safe_load((root / "conf" / "task" / f"{task}.yaml").read_text())
        read = {name: SCORES[name].sources() for name in stated["scores"] if name != "biommlu"}
        for name, sources in read.items():
            ((source, split),) = sources
            assert (source.hub_id, split) == (f"AdaptLLM/{repository}", "test"), name
            assert isinstance(source.config, str) and source.revision is None
