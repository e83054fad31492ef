"""Single values of the configuration, and what they must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.errors import UserError

LARGEST_SEED = 2**32 - 1  # of numpy's generator, which the libraries seed as well
MOST_THREADS = 1024


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(key: str, value: Any, low: int, high: int) -> None:
    """Raise UserError, with the key and the range, unless ``low`` <= value <= ``high``."""
    if not is_whole(value) or not low <= value <= high:
        raise UserError(f"{key}={value} must be a whole number from {low} to {high}.")


def check_number(key: str, value: Any, below: float = math.inf) -> None:
    """Raise UserError, with the key and the range, unless 0 <= value < ``below``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < below:
        limit = f" and below {below:g}" if below < math.inf else ""
        raise UserError(f"{key}={value} must be a number of at least 0{limit}.")


def check_flag(key: str, value: Any) -> None:
    """Raise UserError unless it is true or false: YAML takes `no` for a word, and that for yes."""
    if not isinstance(value, bool):
        raise UserError(f"{key}={value} must be true or false.")


def check_text(key: str, value: Any) -> None:
    """Raise UserError unless it is text; digits alone are a number."""
    if not isinstance(value, str):
        raise UserError(f"{key}={value} must be text; digits are, in quotes: {key}='\"123\"'.")


def check_list(key: str, value: Any, words: str) -> None:
    """Raise UserError unless it is a list; words: of what."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{key}={value} must be a list of {words}, such as {key}=[...].")
