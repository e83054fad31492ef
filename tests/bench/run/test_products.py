"""bf16 products on a CPU without instructions for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.run.device import Placement, fast_bf16
from bench.run.products import ThroughFp32

CPU = torch.device("cpu")


def products(rows: int = 33) -> list[Any]:
    """Products of each kind and their gradients, as a model in bf16 makes them."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        made = torch.randn(*shape, generator=generator).bfloat16()
        return made.requires_grad_()

    x, w, b = drawn(2, rows, 48), drawn(64, 48), drawn(64)
    y = torch.nn.functional.linear(x, w, b)
    z = torch.nn.functional.linear(x, w) @ y.transpose(1, 2)
    (y.float().square().sum() + z.float().sum()).backward()
    formed = w.detach().clone().addmm_(drawn(64, 8).detach(), drawn(8, 48).detach(), alpha=2.0)
    return [y.detach(), z.detach(), x.grad, w.grad, b.grad, formed]


def test_the_products_are_those_of_hardware_up_to_the_order_of_sums() -> None:
    """Exact products, fp32 sums, one rounding: few elements differ, by one place at the most."""
    plain = products()
    with ThroughFp32():
        through = products()
    for a, b in zip(plain, through, strict=True):
        assert b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=2**-7, atol=2**-7 * float(a.abs().max()) / 8)
        assert float((a != b).float().mean()) < 0.02


def test_inside_a_product_it_is_fp32_that_multiplies() -> None:
    """Sums that bf16 would lose are kept: 256 + 1 + ... + 1 rounds to 256 in every bf16 sum."""
    a = torch.ones(1, 65).bfloat16()
    b = torch.cat([torch.full((1, 1), 256.0), torch.ones(64, 1)]).bfloat16()
    with ThroughFp32():
        assert (a @ b).item() == 320.0
        c = torch.zeros(1, 1).bfloat16()
        assert c.addmm_(a, b) is c and c.item() == 320.0


def test_fp32_is_left_alone() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    with ThroughFp32():
        assert torch.equal(a @ b, torch.mm(a, b)) and (a @ b).dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "fast", "through"),
    [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)],
)
def test_only_where_the_cpu_is_slow_at_it(
    precision: str, fast: bool, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.device.fast_bf16", lambda device: fast)
    placement = Placement(CPU, precision)
    assert placement.through_fp32 is through
    assert isinstance(placement.products(), ThroughFp32) is through


def test_a_cell_in_bf16_says_so(run: Any, records_of: Any) -> None:
    """And trains, scores and looks inside it."""
    short = ("trainer.max_steps=2", "trainer.warmup_steps=0", "trainer.score_steps=[2]")
    assert run("model=tiny", "method=mora", "precision=bf16", *short).status == 0
    (record,) = records_of()
    assert record["environment"]["precision"] == "bf16"
    said = None if fast_bf16("cpu") else "through fp32"
    assert record["environment"]["bf16_products"] == said
