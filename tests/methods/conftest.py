"""A model whose linear layers have every shape that has ever broken an adapter."""

import pytest
import torch
from torch import Tensor, nn

# name: (d_in, d_out); at rank 8 r_hat is 25, 39, 30, ... : in < r_hat, in == r_hat, in > out, ...
SHAPES = {
    "narrow_in": (16, 64),  # in < r_hat = 25
    "narrow_out": (64, 16),  # out < r_hat
    "equal": (32, 96),  # in == r_hat = 32
    "square": (64, 64),  # r_hat = 32 divides both
    "many_to_few": (172, 64),  # in > out, r_hat = 43
    "few_to_many": (64, 172),
    "indivisible": (50, 70),  # r_hat = 30 divides neither
    "grouped_query": (576, 192),  # SmolLM2's k_proj and v_proj
}


class Shapes(nn.Module):
    """Independent linear layers, one a shape; forward takes one input for each."""

    def __init__(self, dtype: torch.dtype, bias: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {k: nn.Linear(i, o, bias=bias, dtype=dtype) for k, (i, o) in SHAPES.items()}
        )

    def forward(self, xs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: layer(xs[k]) for k, layer in self.layers.items()}


@pytest.fixture
def shapes():  # type: ignore[no-untyped-def]
    def make(dtype: torch.dtype = torch.float32, bias: bool = False) -> Shapes:
        torch.manual_seed(0)
        return Shapes(dtype, bias)

    return make


def inputs(tokens: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        k: torch.randn(2, tokens, i, generator=generator, dtype=torch.float64).to(dtype)
        for k, (i, _) in SHAPES.items()
    }
