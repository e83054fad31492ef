"""What is looked at after training: spectra of delta W, and whether merging is exact."""

from collections.abc import Callable
from pathlib import Path

import torch

from bench import records
from bench.run import analysis


def test_spectrum_of_a_known_matrix() -> None:
    delta = torch.diag(torch.tensor([3.0, 0.5, 0.05, 0.0]))
    layer = analysis.spectrum({"model.layers.0.mlp.up_proj": delta})["layers"][
        "model.layers.0.mlp.up_proj"
    ]
    assert layer["kind"] == "up_proj"
    assert layer["above_0.1"] == 2
    torch.testing.assert_close(torch.tensor(layer["singular_values"]), delta.diagonal())
    assert 1 < layer["effective_rank"] < 3


def test_merging_is_audited_where_norms_train_beside_a_bf16_base(
    run: Callable[..., object], tmp_path: Path
) -> None:
    also = 'method.also_train=[embed_tokens,lm_head,"*norm"]'
    run("method=mora", also, "precision=bf16", "trainer.max_steps=2")
    (file,) = records.find(tmp_path / "runs")
    record = records.read(file)
    assert record["status"] == "ok", record["reason"]
    assert record["merge_audit"]["max_abs"] < 0.1
