"""Learning rates along a run."""

from __future__ import annotations

import math

SCHEDULES = {  # name in conf/ -> the Trainer's
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "jagged_cosine": "constant",  # made here, see jagged_cosine()
}


def jagged_cosine(
    step: int, *, total: int, warmup: int, every: int, restart_warmup: int, floor: float
) -> float:
    """ReLoRA's schedule (arXiv 2307.05695, sec. 3): cosine, warmed up again after each restart.

    The share of the learning rate at ``step`` (from 0): linear warm-up, then a cosine from 1 to
    ``floor`` at ``total``; in the ``restart_warmup`` steps after each multiple of ``every`` it
    climbs from 0 back to that cosine.
    """
    if step < warmup:
        return step / max(warmup, 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    share = floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    since = step % every
    restarted = step >= every and since < restart_warmup
    return share * (since / restart_warmup) if restarted else share
