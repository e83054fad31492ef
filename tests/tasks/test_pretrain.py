"""Pretraining data: packed blocks, held-out documents apart, C4 named file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import TaskError
from tasks.pretrain import PretrainTask
from tasks.sets import c4_shards


def test_docs_run_offline_on_the_tiny_model(tiny: Any, tokenizer: Any) -> None:
    task = PretrainTask(packages=["datasets"], block=64, max_blocks=9, validation_texts=2)
    task.prepare()
    rows = task.train_dataset(tokenizer)
    assert len(rows) == 9
    assert {len(row["input_ids"]) for row in rows} == {64}
    (scorer,) = task.scorers()
    metric = scorer.score(tiny, tokenizer, 4)["docs_validation_perplexity"]
    assert metric.n == 2
    assert not metric.higher_is_better


def test_without_a_mask_blocks_are_trained_and_scored(tiny: Any, tokenizer: Any) -> None:
    task = PretrainTask(
        packages=["datasets"], block=64, max_blocks=3, validation_texts=2, mask="none"
    )
    rows = task.train_dataset(tokenizer)
    assert {tuple(row) for row in rows["position_ids"]} == {tuple(range(64))}
    (scorer,) = task.scorers()
    assert list(scorer.score(tiny, tokenizer, 4)) == ["docs_validation_blocks_perplexity"]


def test_c4_is_without_a_mask_and_docs_as_they_were(root: Path) -> None:
    stated = {
        name: yaml.safe_load((root / "conf" / "task" / f"{name}.yaml").read_text())
        for name in ("c4", "pretrain")
    }
    assert stated["c4"]["mask"] == "none"
    assert "mask" not in stated["pretrain"]  # the committed cells' identity
    assert PretrainTask().mask == "documents"


def test_a_sample_of_c4_is_split_by_document(data_dir: Path, tokenizer: Any) -> None:
    task = PretrainTask(corpus="c4_sample", data_dir=str(data_dir), validation_texts=None)
    task.prepare()
    train, held_out = task._texts
    assert len(train) == 270
    assert len(held_out) == 30
    assert not set(train) & set(held_out)
    (card,) = task.data_card()
    assert card["overlap"]["test_rows"] == 30
    assert task.scorers()[0].name == "c4_sample_validation"


def test_c4_takes_the_files_asked_for() -> None:
    files = c4_shards(2).data_files
    assert files is not None
    assert files["train"][-1] == "en/c4-train.00001-of-01024.json.gz"


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="allenai/c4"):
        PretrainTask(corpus="c4", data_dir=str(tmp_path)).prepare()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"corpus": "pile"}, "'pile'"),
        ({"corpus": "c4", "shards": 0}, "task.shards is 0"),
        ({"mask": "x"}, "task.mask"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        PretrainTask(**settings)
