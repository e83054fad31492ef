"""A repeat of a cell: base weights changed by less than any question asks about.

Running a cell twice on one deterministic machine gives one number twice. How much of a difference
between two methods means nothing shows in runs whose base weights differ a little:
w (1 + perturb * n), n drawn from a standard normal distribution.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.errors import UserError


@torch.no_grad()
def perturb(model: nn.Module, size: float, seed: int, dtype: torch.dtype) -> None:
    """Multiply every floating parameter of ``model`` (fp32, on the CPU) by 1 + size * n, in place.

    n is drawn from a generator of its own, a parameter after the other, tied ones once. Parameters
    are then rounded to ``dtype``, the precision they are used in. Raises UserError where rounding
    undoes all of it.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = False
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        perturbed = (parameter * (1 + size * noise)).to(dtype)
        changed = changed or not torch.equal(perturbed, parameter.to(dtype))
        parameter.data = perturbed
    if not changed:
        raise UserError(
            f"perturb={size:g} changes no weight: {str(dtype).removeprefix('torch.')} rounds it "
            "away. Choose a larger one, or precision=fp32."
        )
