"""Continual pretraining on local text: packed, held out, scored under its own name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks import TaskError
from tasks.continual import BiomedicineTask, FinanceTask


def test_biomedicine_runs_on_local_abstracts(data_dir: Path, tiny: Any, tokenizer: Any) -> None:
    task = BiomedicineTask(
        corpus="biomed_abstracts",
        max_documents=20,
        block=256,
        scores=["biomed_cloze"],
        limit=3,
        held_out_texts=2,
        data_dir=str(data_dir),
    )
    task.prepare()
    assert task.name == "biomedicine_standin"
    rows = task.train_dataset(tokenizer)
    assert set(rows.column_names) == {"input_ids", "labels", "position_ids"}
    found = {k: v for s in task.scorers() for k, v in s.score(tiny, tokenizer, 4).items()}
    assert found["biomed_cloze_acc"].n == 3
    assert found["biomed_abstracts_held_out_perplexity"].n == 2
    cards = {card["name"]: card for card in task.data_card()}
    assert cards["biomed_abstracts/train"]["rows"] == 20
    assert cards["biomed_abstracts/test"]["overlap"]["rows_that_overlap"] == 0


def test_finance_trains_on_sentences_where_no_news_is_there(data_dir: Path, tokenizer: Any) -> None:
    task = FinanceTask(
        corpus="finance_sentences", max_documents=10, block=64, data_dir=str(data_dir)
    )
    task.prepare()
    assert task.name == "finance_standin"
    assert len(task._texts) == 20
    assert len(task.train_dataset(tokenizer)) > 10
    assert task.scorers() == []


@pytest.mark.parametrize(
    ("task", "hub_id"),
    [(BiomedicineTask, "PUBMED_title_abstracts"), (FinanceTask, "ashraq/financial-news-articles")],
)
def test_a_missing_corpus_is_named(task: Any, hub_id: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=hub_id):
        task(data_dir=str(tmp_path)).prepare()


def test_refuses_an_unknown_corpus() -> None:
    with pytest.raises(TaskError, match="pubmed_abstracts or biomed_abstracts"):
        BiomedicineTask(corpus="pile")


def test_compressed_abstracts_are_read_as_the_hub_serves_them(
    tmp_path: Path, tokenizer: Any
) -> None:
    """The Pile's PubMed abstracts are one .jsonl.zst."""
    (tmp_path / "pubmed_abstracts").mkdir()
    lines = "".join(json.dumps({"text": f"Abstract {i}."}) + "\n" for i in range(3))
    packed = tmp_path / "pubmed_abstracts" / "train.jsonl.zst"
    packed.write_bytes(zstandard.compress(lines.encode()))
    task = BiomedicineTask(block=16, data_dir=str(tmp_path))
    task.prepare()
    rows = task.train_dataset(tokenizer)
    ids = [t for row in rows["input_ids"] for t in row if t != tokenizer.pad_token_id]
    assert tokenizer.decode(ids) == "Abstract 0.</s>Abstract 1.</s>Abstract 2.</s>"


def write(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    (folder / name).mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / "train.jsonl").write_text(lines)


def test_reading_comprehension_is_mixed_joined_and_cut(tmp_path: Path, tokenizer: Any) -> None:
    texts = [f"Title {i}\nA sentence, that is all." for i in range(4)]
    write(tmp_path, "pubmed_abstracts", [{"text": text} for text in texts])
    write(tmp_path, "wizardlm", [{"instruction": f"Ask {i}", "output": "Say"} for i in range(4)])
    settings: dict[str, Any] = {"block": 32, "mask": "none", "data_dir": str(tmp_path)}
    task = BiomedicineTask(
        preprocess="reading_comprehension", instructions=["wizardlm"], **settings
    )
    task.prepare()
    assert (task.name, task.label) == ("biomedicine", "Biomedicine")
    rows = task.train_dataset(tokenizer)
    text = tokenizer.decode([t for row in rows["input_ids"] for t in row])
    documents = text.split("</s>")
    assert documents[1].startswith("Ask ")
    assert documents[2].startswith("Title 1\n")
    assert "Title 1" in documents[2].split("\n\n", 1)[1]  # asked for
    assert {tuple(row) for row in rows["position_ids"]} == {tuple(range(32))}
    assert [card["name"] for card in task.data_card()] == [
        "pubmed_abstracts/train",
        "wizardlm/train",
    ]

    raw = BiomedicineTask(max_blocks=2, **settings)
    assert (raw.name, raw.label) == ("biomedicine_raw", "Biomedicine, raw text")
    assert len(raw.train_dataset(tokenizer)) == 2


def test_overlap_is_looked_for_in_all_that_is_trained_on(tmp_path: Path) -> None:
    """Half of the text may be instructions, and a test's question may stand among them."""
    question = " ".join(f"word{i}" for i in range(20))
    write(tmp_path, "pubmed_abstracts", [{"text": f"Abstract {i}."} for i in range(2)])
    write(tmp_path, "wizardlm", [{"instruction": question, "output": "Yes"}])
    (tmp_path / "biomed_cloze").mkdir()
    row = {"context": question, "choices": ["a", "b"], "answer": 0}
    (tmp_path / "biomed_cloze" / "test.jsonl").write_text(json.dumps(row))
    task = BiomedicineTask(
        instructions=["wizardlm"], scores=["biomed_cloze"], data_dir=str(tmp_path)
    )
    cards = {card["name"]: card for card in task.data_card()}
    found = cards["biomed_cloze/test"]["overlap"]
    assert (found["train_rows"], found["rows_that_overlap"]) == (4, 1)


def test_a_missing_set_of_instructions_is_named(tmp_path: Path) -> None:
    write(tmp_path, "pubmed_abstracts", [{"text": "A."}])
    with pytest.raises(TaskError, match=r"OpenOrca.*take task\.instructions=\[\]"):
        BiomedicineTask(instructions=["open_orca"], data_dir=str(tmp_path)).prepare()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preprocess": "clean"}, "task.preprocess is 'clean'; take reading_comprehension or none"),
        ({"mask": "all"}, "task.mask is 'all'"),
        ({"instructions": ["alpaca"]}, "task.instructions is 'alpaca'"),
        ({"instruction_ratio": -1}, "task.instruction_ratio is -1"),
        ({"max_blocks": 0}, "task.max_blocks is 0"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError) as caught:
        FinanceTask(**settings)
    assert words in str(caught.value)
