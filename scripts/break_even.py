"""From how many tokens on forming W + delta W beats the path through activations; see --help.

    python scripts/break_even.py --shapes smollm2 --dtypes fp32

Both ways take turns in one process (scripts/timing.py). From the present table's guess on, tokens
are doubled or halved until the faster way changes, and the break-even is read off between the last
two. The result joins methods/break_even.json, in place of what was measured on the same shape.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import timing
import torch
from time_adapters import DTYPES, SHAPES, ours, plain_layer, step
from torch import nn

from methods import break_even
from methods.break_even import Row
from methods.dora import DoRA
from methods.lora import LoRA
from methods.mora import MoRA
from methods.operators import OperatorName
from methods.sparse import Sparse

KINDS: dict[str, Callable[..., Callable[[nn.Module], nn.Module]]] = {
    "lora": partial(ours, LoRA),
    "dora": partial(ours, DoRA),
    "sparse": partial(ours, Sparse),
    **{f"mora_{name}": partial(ours, MoRA, operator=name) for name in get_args(OperatorName)},
}


def advantage(
    kind: str, shape: tuple[int, int], dtype: torch.dtype, device: str, rounds: int, tokens: int
) -> float:
    """log of the plain path's time over the fused one's: above 0 where forming pays."""
    d_in, d_out = shape
    x = torch.randn(tokens, d_in, dtype=dtype, device=device, requires_grad=True)
    dy = torch.randn(tokens, d_out, dtype=dtype, device=device)
    steps = {}
    for compute in ("plain", "fused"):
        adapted = KINDS[kind](compute=compute)(plain_layer(d_in, d_out, dtype).to(device))
        steps[compute] = partial(step, adapted.train(), x, dy)
    seconds = timing.interleave(steps, rounds)
    return math.log(timing.ratio(seconds["plain"], seconds["fused"]).median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["smollm2", "square"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=break_even.FILE)
    options = parser.parse_args()
    for dtype in options.dtypes:
        for shape in dict.fromkeys(shape for group in options.shapes for shape in SHAPES[group]):
            for kind in options.kinds:
                guess = break_even.estimate(break_even.read(), kind, *shape, dtype, options.device)
                measure = partial(
                    advantage, kind, shape, DTYPES[dtype], options.device, options.rounds
                )
                found = timing.crossing(measure, guess)
                row = Row(kind, options.device, dtype, *shape, found)
                write(options.out, row, f"{timing.processor()}, {torch.get_num_threads()} threads")
                print(f"{kind:16} {shape[0]} -> {shape[1]}, {dtype}: {found} tokens", flush=True)


def write(file: Path, row: Row, machine: str) -> None:
    """Add a row to the table, in place of the one of the same case; note the machine."""
    content = json.loads(file.read_text()) if file.exists() else {"machines": {}, "rows": []}
    kept = [r for r in content["rows"] if Row(**r)[:5] != row[:5]]
    content["machines"][f"{row.device} {row.dtype}"] = machine
    lines = [json.dumps(r) for r in sorted([*kept, row._asdict()], key=lambda r: tuple(r.values()))]
    machines = json.dumps(content["machines"], indent=1)
    file.write_text(f'{{"machines": {machines},\n"rows": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
