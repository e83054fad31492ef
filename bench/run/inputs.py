"""Numbers of the configuration, and between what they must lie."""

from __future__ import annotations

from typing import Any

from bench.errors import UserError

LARGEST_SEED = 2**32 - 1  # of numpy's generator, which the libraries seed as well
MOST_THREADS = 1024


def check_whole(key: str, value: Any, low: int, high: int) -> None:
    """Raise UserError, with the key and the range, unless ``low`` <= value <= ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{key}={value} must be a whole number from {low} to {high}.")
