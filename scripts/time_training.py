"""What one training step of a whole model costs: forward, backward and AdamW.

    python scripts/time_training.py --out results/cost
    python scripts/time_training.py --out results/cost --batch 1 --length 271    the demo's step

Contestants take turns in one process, each on a model of its own: FFT (fp32 masters under bf16
autocast), our methods and peft's LoRA on a bf16 base. Every batch is the same: random tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch
from hydra import compose, initialize_config_module
from time_adapters import as_published
from torch import nn

from bench.run import device, models
from bench.run.batches import head_only_where
from bench.run.build import build
from methods import Method
from methods.base import LLAMA_LINEARS

OURS = {
    "FFT": ["method=fft"],
    "LoRA": ["method=lora"],
    "DoRA": ["method=dora"],
    "MoRA sharing": ["method=mora", "method.operator=sharing"],
    "MoRA rotation": ["method=mora", "method.operator=rotation"],
    "published MoRA rotation": ["method=mora", "method.compute=plain", "method.compat=published"],
}
PEFT = {"peft LoRA": False, "peft DoRA": True}  # whether DoRA


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, place: device.Placement
) -> Callable[[], None]:
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[:, -1] = False
    targets = ids[:, 1:].flatten()

    def step() -> None:
        with head_only_where(model, keep), place.autocast():
            logits = model(input_ids=ids, use_cache=False).logits
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2_135m_wheel")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the model")
    parser.add_argument(
        "--compile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile each model"
    )
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEFT], default=[*OURS, *PEFT])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens an example")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--out", type=Path, default=Path("results/cost"))
    options = parser.parse_args()
    place = device.resolve("auto", options.precision)
    base = [f"model={options.model}", *options.set]
    steps: dict[str, Callable[[], None]] = {}
    trained: dict[str, int] = {}
    with initialize_config_module("conf", version_base="1.3"):
        for name, overrides in OURS.items():
            if name not in options.only:
                continue
            cfg = compose("config", overrides=[*base, *overrides])
            method: Method = build(cfg.method)
            model = models.load(
                cfg.model,
                dtype=torch.float32 if method.trains_base else place.dtype,
                device=place.device,
                seed=0,
            ).model
            method.attach(model)
            if name.startswith("published"):
                as_published(model)
            steps[name], trained[name] = contestant(
                model, method.parameter_groups(model), options, place
            )
        cfg = compose("config", overrides=base)
        for name, dora in PEFT.items():
            if name not in options.only:
                continue
            model = models.load(cfg.model, dtype=place.dtype, device=place.device, seed=0).model
            steps[name], trained[name] = contestant(with_peft(model, dora), None, options, place)
    peaks = {}
    for name, step in steps.items():
        step()  # makes the optimiser's state
        peaks[name] = timing.peak_bytes(step)
        print(f"{name}: {peaks[name] / 2**30:.2f} GiB", flush=True)
    about = {
        "model": " ".join([options.model, *options.set]),
        "batch": options.batch,
        "length": options.length,
        "compiled": options.compile,
        "precision": place.precision,
        "device": place.describe(),
        "processor": timing.processor(),
        "threads": torch.get_num_threads(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "training.json"
    others = measured_before(file, about)

    def write(seconds: dict[str, list[float]]) -> None:
        rows = table(seconds, trained, peaks)
        rounds = len(seconds[rows[0]["contestant"]])
        made = {"about": about | {"rounds": rounds}, "rows": rows}
        file.write_text(json.dumps([*others, made], indent=1) + "\n")
        print(f"round {rounds} of {options.rounds}", flush=True)

    seconds = timing.interleave(steps, options.rounds, warmup=0, after_round=write)
    for row in table(seconds, trained, peaks):
        ratios = [f"{value[0]:.2f} of {key.removeprefix('against ')}"
                  for key, value in row.items() if key.startswith("against ")]  # fmt: skip
        print(f"{row['contestant']:26} {row['seconds']:.2f} s", *ratios, sep="  ")
    print(file)


def measured_before(file: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """What the file holds of other batches, precisions and machines; of this one it is replaced."""
    if not file.exists():
        return []
    made: list[dict[str, Any]] = json.loads(file.read_text())
    return [one for one in made if one["about"] | about != one["about"]]


def table(
    seconds: dict[str, list[float]], trained: dict[str, int], peaks: dict[str, int]
) -> list[dict[str, Any]]:
    """A row a contestant; its time beside FFT's and peft's LoRA's, where they took part."""
    others = [name for name in ("FFT", "peft LoRA") if name in seconds]
    rows = []
    for name, measured in seconds.items():
        row: dict[str, Any] = {
            "contestant": name,
            "trainable": trained[name],
            "seconds": timing.median(measured),
            "peak_bytes": peaks[name],
        }
        for other in others:
            against = timing.ratio(measured, seconds[other])
            row[f"against {other}"] = [against.median, against.low, against.high]
        rows.append(row)
    return rows


def contestant(
    model: Any, groups: list[dict[str, Any]] | None, options: Any, place: device.Placement
) -> tuple[Callable[[], None], int]:
    """The step of a model in training mode, and how many parameters it trains."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.compile:
        model.compile(backend=options.compile)
    optimizer = torch.optim.AdamW(groups or parameters, lr=1e-5, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (options.batch, options.length), generator=generator)
    step = training_step(model, optimizer, ids.to(place.device), place)
    return step, sum(p.numel() for p in parameters)


def with_peft(model: nn.Module, dora: bool = False) -> nn.Module:
    """The model with peft's LoRA or DoRA at the others' rank; adapters in fp32, as peft's are."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    return inject_adapter_in_model(
        LoraConfig(r=8, lora_alpha=16, target_modules=list(LLAMA_LINEARS), use_dora=dora), model
    )


if __name__ == "__main__":
    main()
