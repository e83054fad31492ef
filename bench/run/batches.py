"""What a model trains on: batches of padded rows, and its head where a label is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.tokens import IGNORED, VALUE_MASK


@dataclass
class Collator:
    """Pad on the right to a friendly length. No attention mask: causality hides what is behind.

    Adds ``tokens``, the number of tokens that are not padding. Packed examples bring position_ids;
    where a task tells value tokens from the others, its rows bring value_mask (see VALUE_MASK).
    """

    pad_id: int
    multiple: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tokens = sum(len(row["input_ids"]) for row in rows)
        rows = rows or [{"input_ids": [self.pad_id], "labels": [IGNORED]}]  # see Shares
        longest = max(len(row["input_ids"]) for row in rows)
        length = math.ceil(longest / self.multiple) * self.multiple
        batch: dict[str, Any] = {
            "input_ids": _padded(rows, "input_ids", length, self.pad_id),
            "labels": _padded(rows, "labels", length, IGNORED),
            "tokens": tokens,
        }
        if "position_ids" in rows[0]:
            # Positions of the padding start again at 0: to the model it is a document of its own.
            batch["position_ids"] = _padded(rows, "position_ids", length, 0)
        if VALUE_MASK in rows[0]:
            batch[VALUE_MASK] = _padded(rows, VALUE_MASK, length, 0)
        return batch


def _padded(rows: Sequence[Mapping[str, Any]], key: str, length: int, filler: int) -> Tensor:
    return torch.tensor([list(r[key]) + [filler] * (length - len(r[key])) for r in rows])


@contextmanager
def head_only_where(model: nn.Module, keep: Tensor) -> Iterator[None]:
    """Inside, the model's head sees only the positions ``keep`` (batch, tokens) of its input."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][keep],))
    try:
        yield
    finally:
        handle.remove()
