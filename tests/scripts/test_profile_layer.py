"""scripts/profile_layer.py: each kind of work of a layer-step under its own name."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from profile_layer import multiplications, profiled
from time_adapters import FLOOR, contestants, plain_layer, step

TOKENS, D_IN, D_OUT = 24, 64, 96


def kinds(name: str) -> dict[str, float]:
    layer = contestants()[name](plain_layer(D_IN, D_OUT, torch.float32)).train()
    x = torch.randn(TOKENS, D_IN, requires_grad=True)
    run = partial(step, layer, x, torch.randn(TOKENS, D_OUT))
    return profiled(run, 2, TOKENS * D_IN * D_OUT)


def test_a_frozen_layer_is_made_of_products_of_its_own_size() -> None:
    found = kinds(FLOOR)
    assert found["base-sized products"] > 0
    assert found["smaller products"] == 0


def test_an_adapter_adds_smaller_products() -> None:
    found = kinds("LoRA")
    assert found["smaller products"] > 0
    assert all(milliseconds >= 0 for milliseconds in found.values())


@pytest.mark.parametrize(
    ("name", "shapes", "expected"),
    [
        ("mm", [[2, 3], [3, 5]], 30),
        ("addmm", [[5], [2, 3], [3, 5], [], []], 30),
        ("bmm", [[7, 2, 3], [7, 3, 5]], 210),
        ("linear", [[2, 3], [5, 3], []], 30),
        ("mm", [], 0),
    ],
)
def test_multiplications_are_counted_by_shape(
    name: str, shapes: list[list[int]], expected: int
) -> None:
    assert multiplications(name, shapes) == expected
