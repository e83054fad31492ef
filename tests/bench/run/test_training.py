"""Training: the loss is the right one, and what must not matter to it does not."""

import copy
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.utils.data import Dataset

from bench.run import batches, checkpoints, distributed, models, schedule, training
from bench.run.device import Placement
from bench.run.history import History
from methods import Method
from methods.base import adapted_layers
from methods.fft import FFT
from methods.lora import LoRA
from methods.mora import MoRA
from methods.relora import ReLoRA
from tasks.generation import evaluating

CPU = Placement("cpu", "fp32")
MODEL = Path(__file__).resolve().parents[3] / "conf" / "model" / "tiny.yaml"


class Rows(Dataset[dict[str, list[int]]]):
    """Random tokens of unequal lengths, the first of each without a loss; notes what is read."""

    def __init__(self, count: int = 20) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows, self.read = [], list[int]()
        for i in range(count):
            ids = torch.randint(3, 259, (5 + 3 * i % 23,), generator=generator).tolist()
            hidden = 1 + i % 4
            self.rows.append({"input_ids": ids, "labels": [-100] * hidden + ids[hidden:]})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        self.read.append(index)
        return self.rows[index]


def settings(**changes: Any) -> dict[str, Any]:
    with initialize_config_module("conf", version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", ["seed=0"]).trainer, resolve=False)
    return plain | {"data_seed": 0, "max_steps": 6, "checkpoint_minutes": 0} | changes


def tiny() -> Any:
    return models.load(OmegaConf.load(MODEL), dtype=torch.float32, device=CPU.device, seed=0)


def trained(
    method: Method, data: Rows | None = None, **changes: Any
) -> tuple[History, Mapping[str, torch.Tensor]]:
    loaded = tiny()
    torch.manual_seed(0)
    method.attach(loaded.model)
    history = training.train(
        loaded.model, loaded.tokenizer, method, data or Rows(), settings(**changes), CPU, seed=0
    )
    return history, method.state(loaded.model)


@pytest.mark.parametrize(
    "method",
    [FFT(learning_rate=1e-3), LoRA(rank=4, learning_rate=1e-2), MoRA(rank=4, learning_rate=1e-2)],
    ids=lambda m: m.name,
)
def test_one_batch_of_eight_is_eight_batches_of_one(method: Method) -> None:
    """Examples differ in length and in labels, and the last batch of an epoch holds only four."""
    whole, at_once = trained(method, batch_size=8, accumulation=1)
    parts, in_parts = trained(method, batch_size=1, accumulation=8)
    assert [point["tokens"] for point in whole.train] == [point["tokens"] for point in parts.train]
    for key in ("loss", "grad_norm"):
        one = [point[key] for point in whole.train]
        many = [point[key] for point in parts.train]
        assert one == pytest.approx(many, rel=2e-5), key
    for name, tensor in at_once.items():
        torch.testing.assert_close(tensor, in_parts[name], rtol=1e-3, atol=1e-4)


def test_methods_see_the_same_batches() -> None:
    seen = []
    for method in (FFT(learning_rate=1e-3), MoRA(rank=4, learning_rate=1e-2)):
        data = Rows()
        trained(method, data, batch_size=3, accumulation=2)
        seen.append(data.read)
    assert seen[0] == seen[1] and len(seen[0]) > 30
    assert seen[0][:20] != sorted(seen[0][:20])  # shuffled, each once an epoch
    assert sorted(seen[0][:20]) == list(range(20))
    other = Rows()
    trained(FFT(learning_rate=1e-3), other, batch_size=3, accumulation=2, data_seed=1)
    assert other.read != seen[0]


def test_the_loss_is_the_models_own() -> None:
    """Mean over the labels, shifted by one, as transformers computes it."""
    data, loaded = Rows(4), tiny()
    method = FFT(learning_rate=1e-3)
    method.attach(loaded.model)
    batch = batches.Collator(loaded.tokenizer.pad_token_id, 8)(data.rows)
    with torch.no_grad():
        expected = loaded.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    history = training.train(
        loaded.model, loaded.tokenizer, method, data, settings(batch_size=4, max_steps=1), CPU,
        seed=0,
    )  # fmt: skip
    assert history.train[0]["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_a_process_that_sees_several_gpus_trains_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch stays as it was chosen, and the Trainer copies the model to no other."""
    for name, value in (("is_available", True), ("device_count", 8), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    made = training.arguments(settings(), Placement("cuda", "bf16"), 0, distributed.ALONE)
    assert made.device == torch.device("cuda:0")
    assert (made.n_gpu, made.train_batch_size) == (1, settings()["batch_size"])


def test_padding_changes_nothing() -> None:
    """No attention mask: causality hides what stands behind."""
    tight, _ = trained(LoRA(rank=4, learning_rate=1e-2), pad_to_multiple_of=1)
    wide, _ = trained(LoRA(rank=4, learning_rate=1e-2), pad_to_multiple_of=64)
    losses = [[point["loss"] for point in history.train] for history in (tight, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


def test_logits_only_where_there_is_a_label() -> None:
    data, loaded = Rows(4), tiny()
    method = FFT(learning_rate=1e-3)
    method.attach(loaded.model)
    seen = []
    head = loaded.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    training.train(
        loaded.model, loaded.tokenizer, method, data, settings(batch_size=4, max_steps=1), CPU,
        seed=0,
    )  # fmt: skip
    labels = sum(label != -100 for row in data.rows for label in row["labels"][1:])
    assert seen == [(labels, 384)]


def test_points_of_the_curve_are_means_over_their_steps() -> None:
    method = LoRA(rank=4, learning_rate=1e-2)
    every, _ = trained(method, log_every=1)
    third, _ = trained(method, log_every=3)
    losses = [point["loss"] for point in every.train]
    assert [point["step"] for point in third.train] == [3, 6]
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [point["loss"] for point in third.train] == pytest.approx(means, rel=1e-6)


def test_divergence_ends_the_run() -> None:
    history, _ = trained(FFT(learning_rate=1e20), max_steps=50)
    assert history.diverged_at is not None and history.diverged_at < 10
    assert history.train[-1]["step"] == history.diverged_at
    assert history.train[-1]["loss"] is None


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.0),
        (5, 0.5),  # of ten steps of warm-up
        (10, 1.0),  # the top of the cosine
        (60, 0.1 + 0.9 * 0.5),  # half-way down to the floor
        (109, 0.1 + 0.9 * (1 + math.cos(math.pi * 0.99)) / 2),
        (40, 0.0),  # a restart: from 0 again
        (42, (0.1 + 0.9 * (1 + math.cos(math.pi * 32 / 100)) / 2) * 2 / 4),
        (44, 0.1 + 0.9 * (1 + math.cos(math.pi * 34 / 100)) / 2),
    ],
)
def test_jagged_cosine(step: int, share: float) -> None:
    value = schedule.jagged_cosine(
        step, total=110, warmup=10, every=40, restart_warmup=4, floor=0.1
    )
    assert value == pytest.approx(share)


def test_the_jagged_schedule_is_the_one_that_trains() -> None:
    method = ReLoRA(rank=4, learning_rate=1e-2, restart_every=3, restart_warmup=2)
    history, _ = trained(method, schedule="jagged_cosine", warmup_steps=1, max_steps=6)
    rates = [point["learning_rate"] for point in history.train]
    expected = [
        1e-2 * schedule.jagged_cosine(s, total=6, warmup=1, every=3, restart_warmup=2, floor=0.0)
        for s in range(6)
    ]
    assert rates == pytest.approx(expected)
    assert rates[0] == rates[3] == 0.0


class Valued(Rows):
    """Rows whose last three tokens are the value; told apart in a column where `told`."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        if told:
            for row in self.rows:
                length = len(row["input_ids"])
                row["value_mask"] = [0] * (length - 3) + [1] * 3


@pytest.mark.parametrize(("size", "accumulation"), [(8, 1), (1, 8)])
def test_the_loss_on_value_tokens_is_that_of_a_run_on_them_alone(
    size: int, accumulation: int
) -> None:
    """At the first step, before the two runs part; and it changes nothing in training."""
    whole, weights = trained(FFT(learning_rate=1e-3), Valued(True), batch_size=8)
    plain, same = trained(FFT(learning_rate=1e-3), Valued(False), batch_size=8)
    assert all(torch.equal(weights[name], same[name]) for name in same)
    assert [p["loss"] for p in whole.train] == pytest.approx([p["loss"] for p in plain.train])
    assert not any("value_loss" in point for point in plain.train)
    values = [point["value_loss"] for point in whole.train]
    assert len(values) == 6 and values != [point["loss"] for point in whole.train]
    alone = Valued(False)
    for row in alone.rows:
        row["labels"] = [-100] * (len(row["labels"]) - 3) + row["input_ids"][-3:]
    expected, _ = trained(FFT(learning_rate=1e-3), alone, batch_size=8)
    assert values[0] == pytest.approx(expected.train[0]["loss"], rel=1e-5)
    split, _ = trained(
        FFT(learning_rate=1e-3), Valued(True), batch_size=size, accumulation=accumulation
    )
    assert [p["value_loss"] for p in split.train] == pytest.approx(values, rel=1e-4)


def test_points_hold_the_mean_of_their_steps_value_losses() -> None:
    every, _ = trained(FFT(learning_rate=1e-3), Valued(True), log_every=1)
    third, _ = trained(FFT(learning_rate=1e-3), Valued(True), log_every=3)
    losses = [point["value_loss"] for point in every.train]
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [point["value_loss"] for point in third.train] == pytest.approx(means)


def scored(data: Rows | None = None, **changes: Any) -> History:
    loaded, method = tiny(), FFT(learning_rate=1e-2)
    method.attach(loaded.model)
    return training.train(
        loaded.model, loaded.tokenizer, method, data or Rows(8), settings(**changes), CPU, seed=0,
        score=lambda: {"one": 1.0},
    )  # fmt: skip


def test_scores_come_at_shares_of_what_there_is_to_learn() -> None:
    shares = [0.25, 0.5, 0.75, 0.99999999, 1]
    history = scored(batch_size=8, max_steps=40, score_at_learned=shares, score_steps=[1])
    losses = [point["loss"] for point in history.train]
    means = [sum(losses[max(0, i - 7) : i + 1]) / min(i + 1, 8) for i in range(40)]
    expected = [
        (next(i for i, mean in enumerate(means) if mean < (1 - share) * losses[0]) + 1, share)
        for share in (0.25, 0.5, 0.75)
    ]
    assert [(p["step"], p.get("learned")) for p in history.scores] == [
        (1, None), *expected, (40, 1),
    ]  # fmt: skip


def test_what_is_learned_is_told_by_the_value_tokens() -> None:
    """Where they are told apart: the rest of a row may be random and never be learned."""
    changes: dict[str, Any] = {"batch_size": 8, "max_steps": 40, "score_at_learned": [0.25]}
    history = scored(Valued(True), **changes)
    values = [point["value_loss"] for point in history.train]
    means = [sum(values[max(0, i - 7) : i + 1]) / min(i + 1, 8) for i in range(40)]
    first = next(i for i, mean in enumerate(means) if mean < 0.75 * values[0]) + 1
    assert [point["step"] for point in history.scores] == [first]


@pytest.mark.parametrize("method", [FFT(learning_rate=1e-3), MoRA(rank=4, learning_rate=1e-2)])
def test_peak_memory_is_that_of_training(method: Method) -> None:
    """Scores may take far more; and so may a checkpoint, written on the way."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not let a process begin a new peak")
    much = 600 * 2**20

    def peak(steps: list[int]) -> int:
        loaded = tiny()
        own = copy.deepcopy(method)
        own.attach(loaded.model)
        history = training.train(
            loaded.model, loaded.tokenizer, own, Rows(), settings(score_steps=steps), CPU, seed=0,
            score=lambda: {"sum": float(torch.ones(much // 4).sum())},
        )  # fmt: skip
        return history.peak_memory_bytes

    torch.ones(much // 4)  # before training
    quiet, scoring = peak([]), peak([1, 2, 6])
    assert quiet > 50 * 2**20
    assert scoring - quiet < much / 4


@pytest.mark.parametrize("log_every", [1, 3])
def test_checkpoints_are_no_training_time(
    log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = checkpoints.save_state
    slept = 0.0

    def slowly(*arguments: Any) -> None:
        nonlocal slept
        slept += 0.5
        time.sleep(0.5)
        saved(*arguments)

    monkeypatch.setattr(checkpoints, "save_state", slowly)
    loaded, method = tiny(), LoRA(rank=4, learning_rate=1e-2)
    method.attach(loaded.model)
    begin = time.perf_counter()
    changed = settings(max_steps=4, checkpoint_every=1, log_every=log_every)
    history = training.train(
        loaded.model, loaded.tokenizer, method, Rows(), changed, CPU, seed=0,
        checkpoint_folder=tmp_path,
    )  # fmt: skip
    assert slept == 2.0
    assert 0 < history.training_seconds < time.perf_counter() - begin - slept


@pytest.mark.parametrize("compute", ["cached", "fused"])
def test_what_formed_weights_take_is_told(compute: Any) -> None:
    """As many bytes as the weights that are adapted; scoring in between changes nothing."""
    loaded = tiny()
    method = MoRA(rank=4, learning_rate=1e-2, compute=compute)
    method.attach(loaded.model)
    history = training.train(
        loaded.model, loaded.tokenizer, method, Rows(), settings(score_steps=[2]), CPU, seed=0,
        score=lambda: {"sum": 1.0},
    )  # fmt: skip
    adapted = sum(layer.base.weight.nbytes for _, layer in adapted_layers(loaded.model))
    assert history.kept_bytes == (adapted if compute == "cached" else 0)


def test_what_a_scoring_formed_is_not_kept_through_training() -> None:
    """Under dropout a layer trains without its formed weight, which evaluation keeps."""
    loaded = tiny()
    method = LoRA(rank=4, learning_rate=1e-2, dropout=0.05)
    method.attach(loaded.model)
    formed = []

    def score() -> dict[str, float]:
        with evaluating(loaded.model):
            loaded.model(torch.tensor([[5, 6]]))
            formed.append(sum(layer.kept_bytes for _, layer in adapted_layers(loaded.model)))
        return {"one": 1.0}

    history = training.train(
        loaded.model, loaded.tokenizer, method, Rows(), settings(score_steps=[2]), CPU, seed=0,
        score=score,
    )  # fmt: skip
    assert formed[0] > 0 and history.kept_bytes == 0
