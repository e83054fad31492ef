"""Scores before and after: an untouched model forgets nothing, base scores are reread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from bench.run.device import resolve
from bench.run.scoring import Scoring, forgetting, headline
from tasks.base import Metric, Scorer
from tasks.uuid import UuidTask

BASE = {"weights": "sha256:0"}


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=384,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()


@pytest.fixture
def scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scoring:
    monkeypatch.setenv("MORA_BENCH_BASE_SCORES", str(tmp_path / "base_scores"))
    task = UuidTask(pairs=3, forgetting=["pydoc_topics"], forgetting_limit=2)
    return Scoring(
        task.scorers(), task.forgetting_scorers(), ByT5Tokenizer(), resolve("cpu", "fp32"), 4
    )


def test_an_untouched_model_forgets_exactly_nothing(scoring: Scoring, model: Any) -> None:
    before = scoring.before(model, BASE)
    fields = scoring.fields(before, scoring.final(model))
    assert fields["forgetting"]["mean_drop"] == 0.0
    (part,) = fields["forgetting"]["parts"].values()
    assert part["drop"] == 0.0
    assert part["before"] == part["after"] > 0
    assert fields["before"] == fields["metrics"]
    assert len(fields["examples"]["accuracy"]) == 3
    json.dumps(fields, allow_nan=False)


def test_a_changed_model_forgets_something(scoring: Scoring, model: Any) -> None:
    before = scoring.before(model, BASE, learned=False)
    assert list(before) == ["pydoc_topics_bits_per_byte"]
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    fields = scoring.fields(before, scoring.final(model))
    assert fields["forgetting"]["mean_drop"] > 0


def test_base_scores_are_computed_once_a_model_and_scorer(
    scoring: Scoring, model: Any, tmp_path: Path
) -> None:
    first = scoring.before(model, BASE, learned=False)
    (file,) = (tmp_path / "base_scores").iterdir()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # what is read from the cache does not show it
    assert scoring.before(model, BASE, learned=False) == first
    assert scoring.base_scores == [file.stem.removeprefix("base-")]
    other = scoring.before(model, {"weights": "sha256:1"}, learned=False)
    assert other != first
    assert len(list((tmp_path / "base_scores").iterdir())) == 2
    file.write_text("{torn")
    assert scoring.before(model, BASE, learned=False) == other  # computed anew
    assert file.read_text() != "{torn"


def test_a_model_that_is_not_known_is_scored_anew(
    scoring: Scoring, model: Any, tmp_path: Path
) -> None:
    scoring.before(model, None, learned=False)
    assert not (tmp_path / "base_scores").exists()


def test_a_cache_that_cannot_be_written_does_no_harm(
    scoring: Scoring, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "base_scores").write_text("a file in the folder's place")
    assert scoring.before(model, BASE, learned=False)


class Fixed(Scorer):
    def __init__(self, when: Any, name: str = "fixed") -> None:
        self.when, self.name, self.calls = when, name, 0

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        self.calls += 1
        return {f"{self.name}_{self.when}": Metric.mean([0.5])}


def test_only_cheap_scores_run_along(scoring: Scoring, model: Any) -> None:
    scoring.learned = [Fixed("along"), Fixed("before_after")]
    scoring.forgotten = [Fixed("along", "text"), Fixed("before_after", "text")]
    assert scoring.along(model) == {"fixed_along": 0.5, "text_along": 0.5}
    assert set(scoring.final(model)) >= {"fixed_along", "fixed_before_after"}


def test_a_model_that_has_not_changed_is_not_scored_again(scoring: Scoring, model: Any) -> None:
    cheap, text, dear = Fixed("along"), Fixed("along", "text"), Fixed("before_after")
    scoring.learned, scoring.forgotten = [cheap, dear], [text]
    first = scoring.final(model, unchanged=True)  # as resumed: nothing was scored along here
    scoring.along(model)
    assert scoring.final(model, unchanged=True) == first
    assert (cheap.calls, text.calls, dear.calls) == (2, 2, 2)
    assert scoring.final(model) == first
    assert (cheap.calls, text.calls, dear.calls) == (3, 3, 3)


def metric(value: float, better: bool = True) -> Metric:
    return Metric(value, 10, better, "fraction" if better else "bits per byte")


@pytest.mark.parametrize(
    ("before", "after", "better", "drop"),
    [
        (0.5, 0.4, True, 0.2),
        (0.5, 0.6, True, -0.2),
        (1.0, 1.5, False, 0.5),
        (2.0, 1.0, False, -0.5),
        (0.0, 0.0, True, 0.0),
    ],
)
def test_drop_is_relative_and_positive_where_worse(
    before: float, after: float, better: bool, drop: float
) -> None:
    found: Mapping[str, Any] | None = forgetting(
        {"a": metric(before, better), "b": metric(1.0)},
        {"a": metric(after, better), "b": metric(1.0)},
        ["a", "b"],
    )
    assert found is not None
    assert found["parts"]["a"]["drop"] == pytest.approx(drop)
    assert found["mean_drop"] == pytest.approx(drop / 2)


def test_nothing_is_claimed_where_a_side_is_missing() -> None:
    assert forgetting({}, {"a": metric(1.0)}, ["a"]) is None
    assert forgetting({}, {}, []) is None


def test_one_metric_stands_for_a_benchmark() -> None:
    scores = {"h_acc": metric(0.1), "h_acc_norm": metric(0.2)}
    assert headline(scores) == "h_acc_norm"
    assert headline({"w_acc": metric(0.1)}) == "w_acc"
