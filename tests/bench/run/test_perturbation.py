"""perturb: a repeat that means nothing, told apart from the original wherever scores are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM

from bench import records
from bench.errors import UserError
from bench.run import models, perturbation

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


def load(**changes: Any) -> models.LoadedModel:
    settings = OmegaConf.load(ROOT / "conf/model/tiny.yaml")
    options: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "seed": 0}
    return models.load(settings, **options | changes)


def weights(loaded: models.LoadedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loaded.model.named_parameters()}


def test_perturb_0_is_the_base_itself() -> None:
    plain, zero = weights(load()), weights(load(perturb=0.0, perturb_seed=7))
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


def test_every_weight_moves_by_its_share_of_noise_and_repeats() -> None:
    plain, moved = weights(load()), weights(load(perturb=1e-3, perturb_seed=1))
    noise = torch.cat([(moved[n] / plain[n] - 1).flatten() for n in plain if plain[n].all()]) / 1e-3
    assert set(plain) == {n for n in plain if not torch.equal(plain[n], moved[n])}
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    again, other = (weights(load(perturb=1e-3, perturb_seed=seed)) for seed in (1, 2))
    assert all(torch.equal(moved[n], again[n]) for n in plain)
    assert not any(torch.equal(moved[n], other[n]) for n in plain)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load(perturb=1e-3, perturb_seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_tied_weight_moves_once() -> None:
    architecture = dict(OmegaConf.load(ROOT / "conf/model/tiny.yaml").architecture)
    config = LlamaConfig(**architecture | {"tie_word_embeddings": True})
    model, plain = LlamaForCausalLM(config), LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    perturbation.perturb(model, 1e-3, 0, torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    moved = (model.lm_head.weight / plain.lm_head.weight - 1).detach()
    assert float(moved[moved.isfinite()].std()) == pytest.approx(
        1e-3, rel=0.05
    )  # not sqrt(2) of it


def test_it_reaches_a_base_that_is_held_in_bf16() -> None:
    """Weights move before they are rounded; afterwards 1 + 1e-4 would be 1."""
    plain, moved = (load(dtype=torch.bfloat16, perturb=size) for size in (0.0, 1e-4))
    assert {p.dtype for p in moved.model.parameters()} == {torch.bfloat16}
    assert [b.dtype for b in moved.model.buffers()] == [b.dtype for b in plain.model.buffers()]
    one, other = weights(plain), weights(moved)
    changed = sum(int((one[n] != other[n]).sum()) for n in one)
    assert 0 < changed < 0.2 * sum(w.numel() for w in one.values())


def test_what_rounding_undoes_is_refused() -> None:
    with pytest.raises(UserError, match="perturb=1e-12 changes no weight"):
        load(perturb=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perturb=-0.01"], "perturb=-0.01 must be a number of at least 0"),
        (["perturb=0.1"], "below 0.1"),
        (["perturb=much"], "perturb=much must be a number"),
        (["perturb=1e-6", "perturb_seed=-1"], "perturb_seed=-1 must be a whole number from 0"),
    ],
)
def test_out_of_range_is_refused(
    run: Any, records_of: Any, arguments: list[str], message: str
) -> None:
    ended = run(*arguments)
    assert ended.status == 2 and message in ended.err
    assert records_of() == []


def test_kept_base_scores_are_not_confused(
    run: Any,
    records_of: Callable[[], list[records.Record]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base is a folder, whose scores are kept; each perturbation of it has its own."""
    monkeypatch.setenv("MORA_BENCH_BASE_SCORES", str(tmp_path / "kept"))
    base = load()
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    common = ["model=hub", f"model.source={tmp_path / 'base'}", "trainer.max_steps=1"]
    common += ["task.forgetting=[pydoc_topics]", "task.forgetting_limit=1", "method=lora"]
    for more in ([], ["perturb=0.01"], ["perturb=0.01", "perturb_seed=1"]):
        assert run(*common, *more).status == 0
    found = records_of()
    assert len({record["model"]["checksum"] for record in found}) == 3
    values = [record["before"]["pydoc_topics_bits_per_byte"]["value"] for record in found]
    assert len(set(values)) == 3
    kept = [file.read_text() for file in (tmp_path / "kept").glob("base-*.json")]
    assert sum("pydoc_topics" in content for content in kept) == 3
