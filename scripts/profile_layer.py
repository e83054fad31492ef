"""Where the time of one adapted layer's step goes: why a contestant takes longer than another.

    python scripts/profile_layer.py --shape 576 1536 --tokens 271 --dtype fp32

Forward and backward, in milliseconds a step, by kind of work: products as large as the frozen
layer's own, smaller products, arithmetic by element, moving of numbers (copies, casts, joins), and
the rest, which is calling: torch's dispatcher, autograd and Python. The kinds are read off
torch.profiler, which makes calls slower: the whole beside them is timed without it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timing
import torch
from time_adapters import DTYPES, accumulated, contestants, plain_layer

KINDS = ("base-sized products", "smaller products", "arithmetic", "moving", "rest")
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_linear", "linear"}
MOVING = {
    "_to_copy", "cat", "clone", "copy_", "fill_", "flip", "gather", "index", "index_put_",
    "index_select", "roll", "scatter_", "stack", "zero_",
}  # fmt: skip
ARITHMETIC = {
    "add", "add_", "addcmul", "addcmul_", "div", "div_", "linalg_vector_norm", "mul", "mul_", "neg",
    "norm", "pow", "rsqrt", "sqrt", "sub", "sub_", "sum",
}  # fmt: skip


def kind_of(event: Any, base: int) -> str:
    """The kind of work an event of the profiler is. base: d_in x d_out x tokens."""
    name = event.name.removeprefix("aten::")
    if name in PRODUCTS:
        return KINDS[0] if multiplications(name, event.input_shapes) >= base else KINDS[1]
    return "moving" if name in MOVING else "arithmetic" if name in ARITHMETIC else "rest"


def multiplications(name: str, shapes: list[list[int]]) -> int:
    """Of a product, from the shapes of its inputs; 0 where no two of these are matrices."""
    matrices = [shape for shape in shapes if len(shape) >= 2]
    if len(matrices) < 2:
        return 0
    first, second = matrices[-2:] if name in ("addmm", "addmm_", "baddbmm") else matrices[:2]
    return math.prod(first) * (second[0] if name.endswith("linear") else second[-1])


def profiled(run: Callable[[], object], times: int, base: int) -> dict[str, float]:
    """Milliseconds of each kind in one ``run``, as a mean over ``times``."""
    found: dict[str, float] = defaultdict(float)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        begin = time.perf_counter()
        for _ in range(times):
            run()
        whole = 1e3 * (time.perf_counter() - begin) / times
    for event in profile.events():
        found[kind_of(event, base)] += event.self_cpu_time_total / 1e3 / times
    found["rest"] = whole - sum(
        milliseconds for kind, milliseconds in found.items() if kind != "rest"
    )
    return found


def line(name: str, whole: float, kinds: Mapping[str, float]) -> str:
    return f"| {name} | {whole:.2f} | " + " | ".join(f"{kinds[k]:.2f}" for k in KINDS) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", nargs=2, type=int, default=[576, 1536], metavar="N")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--tokens", type=int, default=271)
    parser.add_argument("--accumulation", type=int, default=1, metavar="MICRO_BATCHES")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="as of time_adapters.py")
    options = parser.parse_args()
    (d_in, d_out), dtype, times = options.shape, DTYPES[options.dtype], options.accumulation
    x = torch.randn(options.tokens, d_in, dtype=dtype, requires_grad=True)
    dy = torch.randn(options.tokens, d_out, dtype=dtype)
    settings = {"compute": "cached"} if times > 1 else {}
    layers = {
        name: adapt(plain_layer(d_in, d_out, dtype)).train()
        for name, adapt in contestants(options.before, **settings).items()
        if not name.startswith("published")
    }
    runs = {name: partial(accumulated, layer, x, dy, times) for name, layer in layers.items()}
    seconds = timing.interleave(runs, options.rounds)
    print(
        f"## {d_in} -> {d_out}, {options.tokens} tokens, {options.dtype}"
        + (f", {times} micro-batches a step" if times > 1 else "")
        + f"\n\nMilliseconds a step, rank 8, median of {options.rounds} rounds in turn; "
        f"{timing.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n"
    )
    print("| layer | whole | " + " | ".join(KINDS) + " |")
    print("| --- " + "| ---: " * (len(KINDS) + 1) + "|")
    for name, run in runs.items():
        kinds = profiled(run, options.rounds, d_in * d_out * options.tokens)
        print(line(name, 1e3 * timing.median(seconds[name]), kinds), flush=True)


if __name__ == "__main__":
    main()
