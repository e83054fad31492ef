"""General text for forgetting: there offline, cut where limited, and refused where unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import TaskError
from tasks.forgetting import Forgetting, articles, pydoc_topics
from tasks.pretrain import PretrainTask
from tasks.text import TextTask
from tasks.uuid import UuidTask


def test_topics_are_there_and_are_text() -> None:
    topics = pydoc_topics()
    assert len(topics) > 50
    assert all(text.strip() for _, text in topics)


def test_an_untouched_model_scores_the_same_twice(tiny: Any, tokenizer: Any) -> None:
    task = UuidTask(pairs=2, forgetting=["pydoc_topics"], forgetting_limit=3)
    (scorer,) = task.forgetting_scorers()
    first, second = (scorer.score(tiny, tokenizer, 4) for _ in range(2))
    metric = first["pydoc_topics_bits_per_byte"]
    assert first == second
    assert metric.n == 3
    assert metric.example_ids == [title for title, _ in pydoc_topics()[:3]]


def test_articles_are_cut_at_their_headings_and_lose_no_line() -> None:
    lines = ["", " = First = ", "text", " = = Part = = ", "more", " = Second = ", "end"]
    found = articles(lines)
    assert [title for title, _ in found] == ["First", "Second"]
    assert found[0][1].splitlines() == lines[1:5]


def test_wikitext_is_read_from_local_files(data_dir: Path) -> None:
    part = Forgetting(["wikitext2"], data_dir=str(data_dir), limit=2)
    part.prepare()
    (scorer,) = part.scorers()
    assert scorer.name == "wikitext2"
    (card,) = part.data_card()
    assert card["rows"] == 4358


def test_wikitext_comes_raw_from_the_hub() -> None:
    """In the tokenised one a word in sixteen is `<unk>`."""
    ((source, _),) = Forgetting(["wikitext2"], data_dir=None, limit=None).sets()
    assert source.config == "wikitext-2-raw-v1"


def test_auto_takes_what_is_at_hand(tmp_path: Path) -> None:
    part = Forgetting("auto", data_dir=str(tmp_path), limit=1)
    part.prepare()
    assert [scorer.name for scorer in part.scorers()] == ["pydoc_topics"]


@pytest.mark.parametrize(
    ("corpus", "title"), [("topics", "assignment"), ("python_source", "pydoc_data/topics.py")]
)
def test_what_is_trained_on_is_not_what_is_forgotten(
    tmp_path: Path, corpus: str, title: str
) -> None:
    """Python's library carries the help topics: training on it is learning them."""
    task = TextTask(corpus, forgetting="auto", forgetting_limit=2, data_dir=str(tmp_path))
    assert title in {text.title for text in task.train}
    assert [scorer.name for scorer in task.forgetting_scorers()] == ["docstrings"]
    with pytest.raises(TaskError, match="pydoc_topics, which this task trains on"):
        TextTask(corpus, forgetting=["docstrings", "pydoc_topics"])


def test_a_sample_is_not_trained_on_and_forgotten() -> None:
    with pytest.raises(TaskError, match="c4_sample, which this task trains on"):
        PretrainTask("c4_sample", forgetting=["c4_sample"])


def test_auto_does_not_pass_over_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "winogrande").mkdir()
    (tmp_path / "winogrande" / "validation.jsonl").write_text("{}\n")
    with pytest.raises(TaskError, match=r"line 1: column 'sentence' is missing"):
        Forgetting("auto", data_dir=str(tmp_path), limit=1).prepare()


@pytest.mark.parametrize(
    ("parts", "limit", "words"),
    [
        (["boolq"], None, "'boolq'; known parts: pydoc_topics"),
        (["auto", "wikitext2"], None, "'auto' stands alone"),
        (["pydoc_topics"], 0, "task.forgetting_limit is 0"),
    ],
)
def test_refuses_unknown_parts(parts: list[str], limit: int | None, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Forgetting(parts, data_dir=None, limit=limit)


def test_a_missing_set_is_named_before_anything_runs(tmp_path: Path) -> None:
    task = UuidTask(pairs=1, forgetting=["hellaswag"], data_dir=str(tmp_path))
    with pytest.raises(TaskError, match=r"Rowan/hellaswag.*task\.forgetting=auto takes"):
        task.prepare()
