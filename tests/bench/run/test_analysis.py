"""What is looked at after training: spectra of delta W, and whether merging is exact."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from bench import records
from bench.run import analysis, models
from methods import Method
from methods.dora import DoRA
from methods.fft import FFT
from methods.lora import LoRA
from methods.mora import MoRA

TINY = Path(__file__).resolve().parents[3] / "conf/model/tiny.yaml"


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


def trained(method: Method) -> Any:
    """tiny, with the method attached and every trainable parameter moved."""
    loaded = models.load(
        OmegaConf.load(TINY), dtype=torch.float32, device=torch.device("cpu"), seed=0
    )
    method.attach(loaded.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in loaded.model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return loaded.model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 99).reshape(4, 24), use_cache=False).logits
    return found


def cut(method: Method, model: Any, *ranks: int) -> tuple[dict[str, Any], list[torch.Tensor]]:
    seen = []

    def score() -> dict[str, float]:
        seen.append(logits(model))
        return {"score": float(seen[-1].mean())}

    return analysis.rank_cuts(model, method.delta_weights(model), ranks, score), seen


METHODS: list[Method] = [
    FFT(learning_rate=1e-3),
    LoRA(rank=2, learning_rate=1e-3),
    MoRA(rank=8, learning_rate=1e-3, operator="sharing"),
    DoRA(rank=4, learning_rate=1e-3),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_cut_is_the_base_with_the_cut_delta(method: Method) -> None:
    method = copy.deepcopy(method)
    model = trained(method)
    before = logits(model)
    found, (three, whole) = cut(method, model, 3, 64)
    torch.testing.assert_close(whole, before, rtol=0, atol=0)
    assert found["64"]["score"] == pytest.approx(float(before.mean()), abs=1e-9)
    assert torch.equal(logits(model), before)  # the model is left as it was
    deltas = method.delta_weights(model)
    merged = method.merge(copy.deepcopy(model))
    with torch.no_grad():
        for name, delta in deltas.items():
            u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
            nearest = ((u[:, :3] * s[:3]) @ v[:3]).float()
            merged.get_submodule(name).weight += nearest - delta
    torch.testing.assert_close(three, logits(merged), rtol=1e-3, atol=1e-3)


def test_a_low_rank_delta_is_not_changed_by_a_cut_to_its_rank() -> None:
    method = LoRA(rank=2, learning_rate=1e-3)
    model = trained(method)
    found, (one, two) = cut(method, model, 1, 2)
    torch.testing.assert_close(two, logits(model), rtol=1e-4, atol=1e-4)
    assert float((one - logits(model)).abs().max()) > 0.01
    assert found["2"]["energy"] == pytest.approx(1) and found["1"]["energy"] < 0.99


def test_energy_grows_with_the_rank() -> None:
    method = FFT(learning_rate=1e-3)
    found, _ = cut(method, trained(method), 1, 2, 8, 32, 64)
    energies = [found[str(rank)]["energy"] for rank in (1, 2, 8, 32, 64)]
    assert energies == sorted(energies) and 0 < energies[0] < energies[2] < 1
    assert energies[-1] == pytest.approx(1)


def test_energy_of_known_matrices_is_their_mean() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    deltas = {"a": torch.diag(torch.tensor([2.0, 1.0])), "b": torch.zeros(2, 2)}
    found = analysis.rank_cuts(model, deltas, [1], dict)
    assert found == {"1": {"energy": pytest.approx((4 / 5 + 1) / 2)}}


@pytest.mark.parametrize("method", ["fft", "mora"])
def test_a_cell_records_its_cuts(run: Any, tmp_path: Path, method: str) -> None:
    assert run(f"method={method}", "analysis.rank_cuts=[1,64]").status == 0
    (file,) = records.find(tmp_path / "runs")
    record = records.read(file)
    assert record["rank_cuts"].keys() == {"1", "64"}
    for name, metric in record["metrics"].items():
        assert record["rank_cuts"]["64"][name] == metric["value"]
    assert 0 < record["rank_cuts"]["1"]["energy"] < 1
