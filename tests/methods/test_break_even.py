"""From how many tokens on the weight is formed: the rule, and the table that it reads."""

from __future__ import annotations

from typing import get_args

import torch

from methods import break_even
from methods.break_even import TABLE, Row, estimate
from methods.dora import Directed
from methods.lora import LowRank
from methods.mora import MoRA, Square
from methods.operators import OperatorName
from methods.sparse import Scatter

ROWS = [
    Row("lora", "cpu", "fp32", 512, 512, 100),
    Row("lora", "cpu", "fp32", 4096, 4096, 1000),
    Row("lora", "cpu", "bf16", 512, 512, 50),
    Row("lora", "cuda", "bf16", 512, 512, 20),
    Row("mora_sharing", "cpu", "fp32", 512, 512, 70),
]


def test_a_measured_shape_has_its_own_number() -> None:
    for row in ROWS:
        kind, device, dtype, d_in, d_out, tokens = row
        assert estimate(ROWS, kind, d_in, d_out, dtype, device) == tokens
    # A shape of the same size, measured as well, is another.
    other = Row("lora", "cpu", "fp32", 1024, 1024 // 3, 77)
    assert estimate([*ROWS, other], "lora", 1024, 1024 // 3, "fp32", "cpu") == 77


def test_another_shape_takes_the_nearest_in_proportion() -> None:
    assert estimate(ROWS, "lora", 1024, 1024, "fp32", "cpu") == 200
    assert estimate(ROWS, "lora", 2048, 2048, "fp32", "cpu") == 500
    assert estimate(ROWS, "lora", 512, 10**9, "fp32", "cpu") == 200  # d_in d_out / (d_in + d_out)
    assert estimate(ROWS, "lora", 10**9, 512, "fp32", "cpu") == 200


def test_what_was_not_measured_falls_back() -> None:
    assert estimate(ROWS, "mine", 512, 512, "fp32", "cpu") == 100  # an unknown method: LoRA
    assert estimate(ROWS, "lora", 512, 512, "fp32", "xpu") == 100  # a device: the CPU
    assert estimate(ROWS, "lora", 512, 512, "fp32", "cuda") == 20  # a dtype: the device's other
    assert estimate(ROWS, "mora_sharing", 512, 512, "bf16", "cpu") == 70
    assert estimate([], "lora", 512, 512, "fp32", "cpu") == 0  # nothing: always form
    assert break_even.name_of(torch.float16) == "bf16"
    assert break_even.name_of(torch.float64) == "fp32"


def test_the_table_holds_each_method_once_a_case() -> None:
    assert len({row[:5] for row in TABLE}) == len(TABLE)
    assert all(row.tokens > 0 and row.dtype in ("bf16", "fp32") for row in TABLE)
    squares = (MoRA(rank=8, operator=o).build(64, 64) for o in get_args(OperatorName))
    deltas = [LowRank(1.0), Directed(1.0), Scatter(), *map(Square, squares)]
    assert {delta.kind for delta in deltas} == {row.kind for row in TABLE if row.device == "cpu"}


def test_it_is_the_same_at_every_call_and_under_compile() -> None:
    found = break_even.tokens("lora", 576, 576, torch.float32, "cpu")
    assert found == break_even.tokens("lora", 576, 576, torch.float32, "cpu") > 0

    def gate(x: torch.Tensor) -> torch.Tensor:
        least = break_even.tokens("lora", *x.shape, x.dtype, x.device.type)
        return x + least

    x = torch.zeros(40, 30)
    compiled = torch.compile(gate, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), gate(x))
