"""How many calls one adapted layer makes in a step, forward and backward.

    python scripts/count_calls.py --shape 4096 4096 --dtype bf16

Calls are operators that go through torch's dispatcher, nested ones included; kernels are those of
them that compute something, which on a GPU are launches. They are the same on a busy machine as on
a quiet one, and rule the time of small layers on a GPU. ``cached`` is counted twice: where a
parameter has changed since, and as a further micro-batch of the same step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from time_adapters import DTYPES, FLOOR, forward, ours, peft, plain_layer
from torch import Tensor, nn

from methods.dora import DoRA
from methods.layer import Compute
from methods.lora import LoRA
from methods.mora import MoRA
from methods.operators import OperatorName
from methods.sparse import Sparse

# These look at a tensor another way, or give it memory, and compute nothing.
FREE = {
    f"aten::{name}"
    for name in (
        "_reshape_alias _unsafe_view alias as_strided contiguous detach detach_ empty empty_like "
        "empty_strided expand expand_as flatten is_same_size lift_fresh "
        "narrow permute reshape resize_ resolve_conj resolve_neg result_type select "
        "set_ slice split squeeze t to transpose unbind unflatten unsqueeze view view_as"
    ).split()
}


def counted(run: Callable[[], object]) -> tuple[int, int]:
    """(calls, kernels) of ``run``."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    events = [event for event in profile.events() if event.name.startswith("aten::")]
    return len(events), sum(_launches(event) for event in events)


def _launches(event: Any) -> bool:
    """Whether it computes, and nothing that it calls does."""
    return event.name not in FREE and not any(map(_computes, event.cpu_children))


def _computes(event: Any) -> bool:
    return event.name.startswith("aten::") and (
        event.name not in FREE or any(map(_computes, event.cpu_children))
    )


def contestants() -> Iterator[tuple[str, str, Callable[[nn.Module], nn.Module]]]:
    """(name, how it computes, how a layer is adapted)."""
    yield FLOOR, "", lambda layer: layer.requires_grad_(False)
    yield "peft LoRA", "", peft()
    yield "peft DoRA", "", peft(use_dora=True)
    for compute in get_args(Compute):
        if compute != "auto":
            yield "LoRA", compute, ours(LoRA, compute=compute)
            yield "DoRA", compute, ours(DoRA, compute=compute)
            for operator in get_args(OperatorName):
                adapt = ours(MoRA, operator=operator, compute=compute)
                yield f"MoRA {operator}", compute, adapt
            yield "Sparse", compute, ours(Sparse, compute=compute)


def counts(layer: nn.Module, x: Tensor, dy: Tensor, *, fresh: bool) -> list[int]:
    """Calls forward and backward, then kernels; fresh: as the first step after a change."""
    found: list[tuple[int, int]] = []
    outputs: list[Tensor] = []
    for _ in range(2):  # once to fill what is kept for good
        if fresh:
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.mul_(1)
        layer.zero_grad()
        x.grad = None
        outputs.clear()
        found = [counted(lambda: outputs.append(forward(layer, x)))]
        found.append(counted(lambda: outputs[0].backward(dy)))
    (forward_calls, forward_kernels), (backward_calls, backward_kernels) = found
    return [forward_calls, backward_calls, forward_kernels, backward_kernels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", nargs=2, type=int, default=[4096, 4096], metavar="N")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    (d_in, d_out), dtype = options.shape, DTYPES[options.dtype]
    x = torch.randn(options.tokens, d_in, dtype=dtype, device=options.device, requires_grad=True)
    dy = torch.randn(options.tokens, d_out, dtype=dtype, device=options.device)
    where = f"{d_in} -> {d_out}, {options.dtype}, {options.device}"
    print(f"{where}, calls and kernels a layer-step at rank 8\n")
    columns = ["calls forward", "backward", "both", "kernels forward", "backward", "both"]
    print(f"| layer | compute | {' | '.join(columns)} |")
    print("| --- | --- " + "| ---: " * len(columns) + "|")
    for name, compute, adapt in contestants():
        for fresh in (True, False) if compute == "cached" else (True,):
            layer = adapt(plain_layer(d_in, d_out, dtype).to(options.device)).train()
            a, b, c, d = counts(layer, x, dy, fresh=fresh)
            how = compute if fresh else "cached, next micro-batch"
            print(f"| {name} | {how} | {a} | {b} | {a + b} | {c} | {d} | {c + d} |", flush=True)


if __name__ == "__main__":
    main()
