"""save_model: a cell's merged model is a folder that another cell starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from bench import records
from bench.run import models, saving
from methods.mora import MoRA

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
Records = Callable[[], list[records.Record]]


def read(folder: Path, **changes: Any) -> models.LoadedModel:
    settings: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/model/hub.yaml"))
    settings |= {"source": str(folder), "label": "saved"} | changes
    models.check(settings)
    return models.load(settings, dtype=torch.float32, device=CPU, seed=0)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 99).reshape(4, 24)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@pytest.fixture
def trained() -> models.LoadedModel:
    """tiny with a MoRA that has gone some way."""
    settings = OmegaConf.load(ROOT / "conf/model/tiny.yaml")
    loaded = models.load(settings, dtype=torch.float32, device=CPU, seed=0)
    method = MoRA(rank=4, learning_rate=1e-2)
    method.attach(loaded.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in loaded.model.parameters():
            if p.requires_grad:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    method.merge(loaded.model)
    return loaded


def test_what_was_saved_gives_the_same_logits(trained: models.LoadedModel, tmp_path: Path) -> None:
    expected = logits(trained.model)
    field = saving.save(trained.model, trained.tokenizer, tmp_path / "cell" / "model", "fp32")
    again = read(tmp_path / "cell" / "model", sha256=field["checksum"])
    assert torch.equal(logits(again.model), expected)
    assert field == {"folder": "cell/model", "checksum": again.card["checksum"], "dtype": "fp32"}
    assert again.tokenizer("ab").input_ids == trained.tokenizer("ab").input_ids
    bytes_ = read(tmp_path / "cell" / "model", tokenizer="bytes")
    assert bytes_.tokenizer("ab").input_ids == trained.tokenizer("ab").input_ids
    assert [f.name for f in (tmp_path / "cell").iterdir()] == ["model"]


def test_bf16_halves_the_file_and_rounds_the_weights(
    trained: models.LoadedModel, tmp_path: Path
) -> None:
    exact = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    saving.save(trained.model, trained.tokenizer, tmp_path / "model", "bf16")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    again = dict(read(tmp_path / "model").model.named_parameters())
    assert all(torch.equal(again[name], exact[name].bfloat16().float()) for name in exact)


@pytest.mark.parametrize("method", ["fft", "mora"])
def test_a_cell_leaves_its_merged_model(
    run: Any, records_of: Records, tmp_path: Path, method: str
) -> None:
    """And a cell that starts from it scores before training what the first scored after."""
    assert run(f"method={method}", "save_model=true", "threads=1").status == 0
    (record,) = records_of()
    field = record["saved_model"]
    folder = tmp_path / "runs" / field["folder"]
    assert folder == tmp_path / "runs" / record["cell"] / "model"
    more = ["model=hub", f"model.source={folder}", f"model.sha256={field['checksum'][7:]}"]
    more += ["model.tokenizer=bytes", "analysis.before=true", "trainer.max_steps=1"]
    assert run("method=lora", *more).status == 0
    (second,) = (r for r in records_of() if r["cell"] != record["cell"])
    before, after = (
        {name: metric["value"] for name, metric in metrics.items()}
        for metrics in (second["before"], record["metrics"])
    )
    assert before == pytest.approx(after)
