"""What one adapted layer costs: forward + backward as a multiple of the frozen layer's.

    python scripts/time_adapters.py --out results/cost

Every contestant is timed in turn in one process (scripts/timing.py). The floor is a frozen linear
layer: one product forward, one for the input's gradient. Beside it: FFT (a third product), our
methods through the path that compute=auto takes, peft's LoRA and DoRA as peft makes them (adapters
in fp32 under bf16 autocast), and MoRA as published, where compression and rotation act on the
activations.

    python scripts/time_adapters.py --before CHECKOUT     older code's methods take turns with ours
    python scripts/time_adapters.py --accumulation 4      steps of four micro-batches, cached
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import timing
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods import AdapterMethod
from methods.base import adapted_layers
from methods.dora import DoRA
from methods.lora import LoRA
from methods.mora import MoRA, Square
from methods.operators import OperatorName

SHAPES = {  # (d_in, d_out)
    "smollm2": [(576, 576), (576, 192), (576, 1536), (1536, 576)],
    "square": [(1024, 1024), (2048, 2048)],
    "llama2_7b": [(4096, 4096), (4096, 11008), (11008, 4096)],
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
OPERATORS: tuple[OperatorName, ...] = get_args(OperatorName)
RANK = 8
FLOOR = "frozen layer"


def plain_layer(d_in: int, d_out: int, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d_in, d_out, bias=False, dtype=dtype))


def ours(kind: type[AdapterMethod], **settings: Any) -> Callable[[nn.Module], nn.Module]:
    method = kind(rank=RANK, learning_rate=1.0, target_modules=["0"], **settings)

    def adapt(layer: nn.Module) -> nn.Module:
        method.attach(layer)
        return layer

    return adapt


@dataclass(frozen=True)
class Published(Square):
    """As in the authors' code: compression and rotation act on the activations."""

    def plain(
        self, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        y = F.linear(x, weight.to(x.dtype), bias)
        return y + self.operator.defined(dropped, tensors[0].to(x.dtype))


def as_published(model: nn.Module) -> nn.Module:
    """Let MoRA's layers in ``model`` compute as the authors' code does."""
    for _, layer in adapted_layers(model):
        assert isinstance(layer.delta, Square)
        layer.delta = Published(layer.delta.operator)
    return model


def peft(**settings: Any) -> Callable[[nn.Module], nn.Module]:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["0"], **settings)
    return lambda layer: inject_adapter_in_model(config, layer)


@cache
def from_checkout(folder: Path) -> dict[str, type[AdapterMethod]]:
    """LoRA, DoRA and MoRA as another checkout has them, beside our own."""

    def ours_aside() -> dict[str, Any]:
        names = [name for name in sys.modules if name.split(".")[0] == "methods"]
        return {name: sys.modules.pop(name) for name in names}

    if not (folder / "methods" / "mora.py").is_file():
        sys.exit(f"--before {folder}: no checkout (it has no methods/mora.py)")
    kept = ours_aside()
    sys.path.insert(0, str(folder.resolve()))
    try:
        return {
            name: getattr(importlib.import_module(f"methods.{name.lower()}"), name)
            for name in ("LoRA", "DoRA", "MoRA")
        }
    finally:
        sys.path.pop(0)
        ours_aside()
        sys.modules.update(kept)


def contestants(
    before: Path | None = None, **settings: Any
) -> dict[str, Callable[[nn.Module], nn.Module]]:
    """By name, how a layer is adapted. settings: of our methods."""

    def published(operator: OperatorName) -> Callable[[nn.Module], nn.Module]:
        adapt = ours(MoRA, operator=operator, compute="plain", compat="published")
        return lambda layer: as_published(adapt(layer))

    return {
        FLOOR: lambda layer: layer.requires_grad_(False),
        "FFT": lambda layer: layer,
        **_methods(LoRA, DoRA, MoRA, **settings),
        **_before(before),
        "peft LoRA": peft(),
        "peft DoRA": peft(use_dora=True),
        "published MoRA sharing": published("sharing"),
        "published MoRA rotation": published("rotation"),
    }


def _methods(
    lora: type[AdapterMethod], dora: type[AdapterMethod], mora: type[AdapterMethod], **settings: Any
) -> dict[str, Callable[[nn.Module], nn.Module]]:
    operators = {f"MoRA {name}": ours(mora, operator=name, **settings) for name in OPERATORS}
    return {"LoRA": ours(lora, **settings), "DoRA": ours(dora, **settings), **operators}


def _before(checkout: Path | None) -> dict[str, Callable[[nn.Module], nn.Module]]:
    if checkout is None:
        return {}
    theirs = from_checkout(checkout)
    made = _methods(theirs["LoRA"], theirs["DoRA"], theirs["MoRA"])
    return {f"{name} before": adapt for name, adapt in made.items()}


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Forward and backward of one layer, gradients cleared."""
    accumulated(layer, x, dy, 1)


def accumulated(layer: nn.Module, x: Tensor, dy: Tensor, times: int) -> None:
    """So many micro-batches of one optimiser step, after which the parameters have changed."""
    for _ in range(times):
        forward(layer, x).backward(dy)
        x.grad = None
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.grad = None
            if parameter.requires_grad and times > 1:
                parameter.mul_(1)


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        return layer(x)


def case_of(row: dict[str, Any]) -> tuple[str, int, int, int, str]:
    """What a row was measured on."""
    return row["group"], row["d_in"], row["d_out"], row["tokens"], row["dtype"]


def measured_before(file: Path, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The file's rows, to which others are added: all shapes in one go may take too long."""
    if not file.exists():
        return []
    content = json.loads(file.read_text())
    if content["machine"] != machine:
        sys.exit(f"{file} was measured on another machine; choose another folder with --out.")
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def measure(
    group: str, d_in: int, d_out: int, tokens: int, name_of_dtype: str, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row a contestant."""
    device, times = options.device, options.accumulation
    settings = {"compute": "cached"} if times > 1 else {}
    dtype = DTYPES[name_of_dtype]
    x = torch.randn(tokens, d_in, dtype=dtype, device=device, requires_grad=True)
    dy = torch.randn(tokens, d_out, dtype=dtype, device=device)
    layers = {
        name: adapt(plain_layer(d_in, d_out, dtype).to(device)).train()
        for name, adapt in contestants(options.before, **settings).items()
    }
    runs = {name: partial(accumulated, layer, x, dy, times) for name, layer in layers.items()}
    seconds = timing.interleave(runs, options.rounds)
    for name, layer in layers.items():
        against = timing.ratio(seconds[name], seconds[FLOOR])
        beside = timing.ratio(seconds[name], seconds["peft LoRA"])
        weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        yield {
            "contestant": name,
            "group": group,
            "d_in": d_in,
            "d_out": d_out,
            "tokens": tokens,
            "dtype": name_of_dtype,
            "milliseconds": 1e3 * timing.median(seconds[name]),
            "ratio": against.median,
            "low": against.low,
            "high": against.high,
            "of_peft": [beside.median, beside.low, beside.high],
            "rounds": against.rounds,
            "saved_bytes": timing.saved_for_backward(partial(forward, layer, x), weights),
            "input_bytes": x.numel() * x.element_size(),
            "peak_bytes": timing.peak_bytes(runs[name]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 1024, 2048, 4096])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--accumulation", type=int, default=1, metavar="MICRO_BATCHES")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("results/cost"))
    options = parser.parse_args()
    machine = {
        "device": options.device,
        "processor": timing.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if options.accumulation > 1:
        machine["micro_batches"] = options.accumulation
    file = options.out / "adapters.json"
    rows = measured_before(file, machine)
    cases = [
        (group, i, o, tokens, dtype)
        for dtype in options.dtypes
        for tokens in options.tokens
        for group in options.shapes
        for i, o in SHAPES[group]
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases, 1):
        rows = [row for row in rows if case_of(row) != case]
        rows += measure(*case, options)
        content = {"machine": machine, "rank": RANK, "rows": rows}
        file.write_text(json.dumps(content, indent=1) + "\n")
        print("{}/{}  {}: {} -> {}, {} tokens, {}".format(number, len(cases), *case), flush=True)
    print(f"{file}: {len(rows)} rows; `python scripts/cost_report.py {options.out}` draws them")


if __name__ == "__main__":
    main()
