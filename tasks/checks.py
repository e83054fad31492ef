"""Ranges of settings, refused in words before anything is computed or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.errors import TaskError

MAX_SEED = 2**32 - 1  # what numpy takes
MAX_LIMIT = 10_000_000  # texts, questions or rows: more than any set here holds
MAX_BLOCK = 1_048_576  # tokens


def whole(name: str, value: Any, low: int, high: int, *, or_null: bool = False) -> None:
    """Refuse a setting that is no whole number from low to high; null only where allowed.

    name: as a person would write it, such as `task.pairs`. Raises TaskError.
    """
    if value is None and or_null:
        return
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    raise TaskError(
        f"{name} is {shown(value)}; it must be a whole number from {low:,} to {high:,}"
        f"{', or null' if or_null else ''}"
    )


def limit(name: str, value: Any, high: int = MAX_LIMIT) -> None:
    """Refuse a limit that is neither null (all) nor a whole number from 1 to high."""
    whole(name, value, 1, high, or_null=True)


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse a setting that is none of the known ones. Raises TaskError."""
    if value not in known:
        raise TaskError(f"{name} is {shown(value)}; take {' or '.join(known)}")


def shown(value: Any) -> str:
    """A value in a message, the middle of a very long one left out."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"
