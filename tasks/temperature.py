"""One temperature for a model's logits: the one under which given answers are likeliest.

The total loss is convex in the inverse temperature, so a bracketed Newton search finds it; nothing
is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LOWEST, HIGHEST = 1 / 4096, 4096.0  # of the inverse temperature
TOLERANCE = 1e-4
STEPS = 30

Batches = Iterable[tuple[Tensor, Tensor]]  # logits (n, vocabulary), answers (n,)


def tempered_losses(logits: Tensor, answers: Tensor, inverse: float) -> Tensor:
    """Nats (n,) of the answers (n,) with logits (n, vocabulary) times the inverse temperature."""
    scaled = logits.float() * inverse
    return torch.nn.functional.cross_entropy(scaled, answers, reduction="none")


def fitted_inverse(batches: Callable[[], Batches]) -> float:
    """The inverse temperature, from 1/4096 to 4096, with the smallest total loss.

    batches: gives all logits and answers anew at each call.
    """
    low, high, inverse = LOWEST, HIGHEST, 1.0
    for _ in range(STEPS):
        slope, curvature = _derivatives(batches(), inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = inverse - slope / curvature if curvature > 0 else math.inf
        following = step if low < step < high else math.sqrt(low * high)
        moved, inverse = abs(following - inverse), following
        if moved <= TOLERANCE * inverse:
            break
    return inverse


def _derivatives(batches: Batches, inverse: float) -> tuple[float, float]:
    """First and second derivative of the total loss by the inverse temperature.

    They are the sums of E[z] - z_answer and of Var[z], z the logits, under the tempered softmax.
    """
    slope = curvature = 0.0
    for logits, answers in batches:
        z = logits.float()
        z = z - z.amax(-1, keepdim=True)  # the loss does not change
        p = (z * inverse).softmax(-1)
        mean = (p * z).sum(-1)
        picked = z.gather(-1, answers[:, None])[:, 0]
        slope += float((mean - picked).double().sum())
        curvature += float(((p * z * z).sum(-1) - mean**2).clamp(min=0).double().sum())
    return slope, curvature
