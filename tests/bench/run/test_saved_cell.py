"""What a cell leaves: the adapter that was scored; and in which precision its weights trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import records
from bench.run import models
from bench.run.build import build
from methods import load_adapter


@pytest.mark.parametrize("method", ["mora", "lora"])
def test_the_saved_adapter_is_the_one_that_was_scored(
    run: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    """Merged for the audit in between; read back, it has the record's score."""
    run(
        f"method={method}", "method.learning_rate=1e-2", "task=facts", "task.facts=8",
        "task.values=16", "save_adapter=true", "analysis.merge_audit=true", "analysis.before=true",
    )  # fmt: skip
    (file,) = records.find(tmp_path / "runs")
    record = records.read(file)
    config: Any = record["config"]
    loaded = models.load(
        config["model"], dtype=torch.float32, device=torch.device("cpu"), seed=record["seed"]
    )
    load_adapter(loaded.model, file.with_suffix(""))
    task = build(config["task"])
    task.prepare()
    (scorer,) = task.scorers()
    found = scorer.score(loaded.model.eval(), loaded.tokenizer, 8)
    scored, before = record["metrics"]["nll"]["value"], record["before"]["nll"]["value"]
    assert found["nll"].value == pytest.approx(scored, rel=1e-6)
    assert abs(scored - before) > 0.01


@pytest.mark.parametrize(("method", "held"), [("fft", "float32"), ("mora", "bfloat16")])
def test_full_fine_tuning_has_fp32_masters(
    run: Callable[..., Any], tmp_path: Path, method: str, held: str
) -> None:
    """In bf16 its small steps would be rounded away; what adapters leave frozen is bf16."""
    run(f"method={method}", "precision=bf16", "trainer.max_steps=2")
    (file,) = records.find(tmp_path / "runs")
    record = records.read(file)
    assert record["environment"]["precision"] == "bf16"
    assert record["model"]["dtype"] == held
