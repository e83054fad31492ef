"""lm-eval's scores of a model in memory: the model's own, and nothing disturbed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tasks import TaskError
from tasks.harness import HarnessScorer
from tasks.lm_eval import functions
from tasks.scores import SCORES


def scorer(folder: str, score: str, **settings: Any) -> HarnessScorer:
    task = SCORES[score].task
    return HarnessScorer(
        task, name=score, data_dir=folder, few_shot=0, sets=SCORES[score].sources(), **settings
    )


def test_a_model_in_memory_is_left_as_it_was(
    folder: str, tiny: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    side = tokenizer.padding_side
    first = scorer(folder, "lm_eval_pubmedqa", limit=4).score(tiny, tokenizer, 2)
    assert tiny.training
    assert tokenizer.padding_side == side
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert capsys.readouterr() == ("", "")
    assert first["lm_eval_pubmedqa_acc"].n == 4
    assert scorer(folder, "lm_eval_pubmedqa", limit=4).score(tiny, tokenizer, 4) == first


def test_likelihoods_are_the_models_own(folder: str, tiny: Any, tokenizer: Any) -> None:
    """The choice that lm-eval takes is the one of a plain pass over prompt and answer."""
    metric = scorer(folder, "lm_eval_pubmedqa", limit=5).score(tiny, tokenizer, 3)[
        "lm_eval_pubmedqa_acc"
    ]
    docs = functions.serve("pubmedqa", ["test"], folder)["test"].select(range(5))
    right = []
    for doc in docs:
        scores = []
        for answer in ("yes", "no", "maybe"):
            head = tokenizer(functions.pubmedqa_prompt(doc), add_special_tokens=False)["input_ids"]
            tail = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = tiny(torch.tensor([head + tail])).logits[0].log_softmax(-1)
            scores.append(sum(float(logs[len(head) - 1 + i, t]) for i, t in enumerate(tail)))
        best = ("yes", "no", "maybe")[int(np.argmax(scores))]
        right.append(float(best == doc["final_decision"]))
    assert metric.examples == right


def test_generation_runs_and_extraction_is_apart(folder: str, tiny: Any, tokenizer: Any) -> None:
    found = scorer(folder, "gsm8k", limit=2).score(tiny, tokenizer, 2)
    assert set(found) == {
        f"gsm8k_{what}_{how}"
        for what in ("exact_match", "extracted")
        for how in ("strict_match", "flexible_extract")
    }


def test_a_checkpoints_settings_of_generation_change_no_answer(
    folder: str, tiny: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of Qwen's chat models, which penalise repetition; they are the model's again after it."""
    seen = []
    generate = tiny.generate

    def listening(*inputs: Any, **told: Any) -> Any:
        out = generate(*inputs, **told)
        seen.append(out.tolist())
        return out

    monkeypatch.setattr(tiny, "generate", listening)
    scorer(folder, "gsm8k", limit=2).score(tiny, tokenizer, 2)
    ends = tiny.generation_config.eos_token_id
    own = GenerationConfig(repetition_penalty=9.0, max_new_tokens=3, eos_token_id=ends)
    tiny.generation_config = own
    scorer(folder, "gsm8k", limit=2).score(tiny, tokenizer, 2)
    assert seen[0] == seen[1]
    assert tiny.generation_config is own and own.repetition_penalty == 9.0

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(tiny, "generate", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer(folder, "gsm8k", limit=2).score(tiny, tokenizer, 2)
    assert tiny.generation_config is own


@pytest.mark.parametrize("score", ["lm_eval_pubmedqa", "gsm8k"], ids=["likelihood", "generation"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_model_is_scored_in_the_autocast_around_it(
    score: str, enabled: bool, folder: str, tiny: Any, tokenizer: Any
) -> None:
    """As our own scorers are: full fine-tuning has fp32 weights, LoRA a base in bf16."""
    seen = set()
    layer = tiny.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        scorer(folder, score, limit=1).score(tiny, tokenizer, 1)
    assert seen == {torch.bfloat16 if enabled else torch.float32}


def test_a_part_of_a_benchmark_goes_by_its_own_name(folder: str, tiny: Any, tokenizer: Any) -> None:
    found = scorer(folder, "lm_eval_usmle", limit=2, whole=1273).score(tiny, tokenizer, 2)
    assert list(found) == ["lm_eval_usmle_30_of_1273_acc"]


def test_the_cache_key_follows_data_and_settings(folder: str, tmp_path: Path) -> None:
    key = scorer(folder, "math", limit=2).cache_key()
    assert key == scorer(folder, "math", limit=2).cache_key()
    assert key != scorer(folder, "math", limit=3).cache_key()
    (tmp_path / "math").mkdir()
    row = (Path(folder) / "math" / "test.jsonl").read_text().splitlines()[0]
    (tmp_path / "math" / "test.jsonl").write_text(f"{row}\n")
    assert key != scorer(str(tmp_path), "math", limit=2).cache_key()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"limit": 0}, "limit is 0"), ({"few_shot": -1}, "few_shot is -1")],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        HarnessScorer("mora_math", name="math", **settings)


def test_too_few_examples_are_refused(folder: str, tiny: Any, tokenizer: Any) -> None:
    many = HarnessScorer("mora_mmlu", name="mmlu", few_shot=50, limit=1, data_dir=folder)
    with pytest.raises(TaskError, match="50 examples are asked for"):
        many.score(tiny, tokenizer, 2)
