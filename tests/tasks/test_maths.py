"""Mathematics: MetaMath's training text, its rehearsal on GSM8K, and a missing set told at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import TaskError
from tasks.answers import gsm8k_response
from tasks.harness import TASK_FILES
from tasks.lm_eval.functions import metamath_gsm8k_scores
from tasks.maths import MathsTask, metamath_segments
from tasks.prompts import metamath_eval_prompt
from tasks.tokens import IGNORED

ANSWER = "He has <<3*4=12>>12 and 2 more.\nThat is 14.\n#### 14"


def test_training_text_is_metamaths() -> None:
    (prompt, learns), (response, learnt) = metamath_segments("Q?", "A.", "</s>")
    assert prompt.endswith("### Instruction:\nQ?\n\n### Response:")
    assert (learns, response, learnt) == (False, "A.</s>", True)


def test_a_gsm8k_solution_in_metamaths_form_is_scored_right() -> None:
    response = gsm8k_response(ANSWER)
    assert response == "He has 12 and 2 more.\nThat is 14.\n#### 14\nThe answer is: 14"
    assert metamath_gsm8k_scores({"answer": ANSWER}, [response])["exact_match"] == 1.0


def test_a_missing_set_is_one_message_within_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(TaskError) as caught:
        MathsTask(data_dir=str(tmp_path)).prepare()
    assert time.monotonic() - start < 10
    assert "meta-math/MetaMathQA" in str(caught.value)
    assert str(tmp_path / "metamathqa" / "train.jsonl") in str(caught.value)


def test_refuses_an_unknown_training_set() -> None:
    with pytest.raises(TaskError, match="metamathqa or gsm8k"):
        MathsTask(train_set="orca")


def test_gsm8k_rehearses_it_under_its_own_name(data_dir: Path, tokenizer: Any) -> None:
    task = MathsTask(
        train_set="gsm8k", max_examples=30, scores=["gsm8k_metamath"], data_dir=str(data_dir)
    )
    task.prepare()
    assert task.name == "math_gsm8k_train"
    rows = task.train_dataset(tokenizer)
    assert max(len(row["input_ids"]) for row in rows) <= 512
    learnt = tokenizer.decode([t for t in rows[0]["labels"] if t != IGNORED])
    assert "Below is an instruction" not in learnt
    train, test = task.data_card()
    assert "cut to 512 tokens" in train["cuts"]
    assert test["overlap"]["test_rows"] == 1319


def test_a_query_with_a_line_break_is_trained_as_instruction_and_input() -> None:
    """MetaMath's train_math.py; scoring never splits."""
    (prompt, _), _ = metamath_segments("Solve.\nx = 1\ny = 2", "A.", "</s>")
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSolve.\n\n### Input:\nx = 1\ny = 2\n\n### Response:"
    )
    scored = metamath_eval_prompt("Solve.\nx = 1")
    assert "### Input" not in scored
    assert "### Instruction:\nSolve.\nx = 1\n\n### Response: Let's" in scored


def test_the_average_is_of_metamaths_scores_alone(root: Path) -> None:
    """What is averaged is `scores`; lm-eval's stand beside."""
    stated = yaml.safe_load((root / "conf" / "task" / "math.yaml").read_text())
    assert stated["scores"] == ["gsm8k_metamath", "math_metamath"]
    task = MathsTask(scores=stated["scores"], beside=[*stated["beside"], "math_metamath"])
    assert [scorer.name for scorer in task.scorers()] == [*stated["scores"], *stated["beside"]]


@pytest.mark.parametrize(("name", "tokens"), [("gsm8k_metamath", 512), ("math_metamath", 2048)])
def test_answers_may_be_as_long_as_metamaths(name: str, tokens: int) -> None:
    text = (TASK_FILES / f"mora_{name}.yaml").read_text()
    assert f"max_gen_toks: {tokens}\n" in text
