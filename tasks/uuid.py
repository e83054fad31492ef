"""Memorising random pairs of UUIDs (the paper's section 3 and 5.1; Table 2, Fig. 2, Fig. 3).

The authors' recipe (kongds/MoRA issue 18): the text is `key:value`, both version-4 UUIDs, with
the tokenizer's own BOS, no EOS and no template, and the loss is on every token, the random key
included. So the loss ends at its floor ln(pairs) / tokens, not at 0; `loss_on: value` trains on
the value alone.

Scored by greedy generation from `key:`, character by character over the value's 32 hexadecimal
digits, hyphens left out. Counting hyphens would lift chance from 9.77 % to 19.8 %.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack
from uuid import UUID

from tasks.base import Metric, Scorer, Shared, Task
from tasks.checks import whole
from tasks.errors import TaskError
from tasks.generation import greedy
from tasks.tokens import IGNORED, VALUE_MASK, bos, split_encode

if TYPE_CHECKING:
    import datasets

MAX_PAIRS = 1_000_000  # a hundred times the paper's
DIGITS = 32
# 30 free digits, the version digit (always 4), the variant digit (8, 9, a or b).
CHANCE = (30 / 16 + 1 + 1 / 4) / DIGITS


def make_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` random (key, value) pairs of version-4 UUIDs; a smaller count is a prefix."""
    rng = random.Random(seed)

    def draw() -> str:
        return str(UUID(int=rng.getrandbits(128), version=4))

    return [(draw(), draw()) for _ in range(count)]


def character_accuracy(generated: str, value: str) -> float:
    """Share of the value's 32 hex digits that stand in the right place; a missing one is wrong.

    >>> character_accuracy("01234567-89ab", "01234567-89ab-4def-8123-456789abcdef")
    0.375
    """
    wanted = value.replace("-", "")
    got = generated.strip().replace("-", "")
    return sum(a == b for a, b in zip(got, wanted, strict=False)) / len(wanted)


def exact_match(generated: str, value: str) -> float:
    """1 if the generated text begins with the value, hyphens included; what follows is ignored,
    since nothing in the training text says where a value ends."""
    return float(generated.strip().startswith(value))


class UuidScorer(Scorer):
    """Greedy recall of every value from its key."""

    name = "uuid"
    when = "along"

    def __init__(self, pairs: Sequence[tuple[str, str]], add_bos: bool | None = None) -> None:
        self.pairs = list(pairs)
        self.add_bos = add_bos

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`accuracy` (characters) and `exact_match`, per pair; ids are the keys."""
        start = bos(tokenizer, self.add_bos)
        encoded = [split_encode(tokenizer, f"{key}:", value) for key, value in self.pairs]
        tokens = greedy(
            model,
            [start + prompt for prompt, _ in encoded],
            max(len(answer) for _, answer in encoded),
            batch_size=batch_size,
            stop_ids=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
        )
        texts = [tokenizer.decode(t, clean_up_tokenization_spaces=False) for t in tokens]
        values = [value for _, value in self.pairs]
        keys = [key for key, _ in self.pairs]
        accuracy = list(map(character_accuracy, texts, values))
        exact = list(map(exact_match, texts, values))
        return {
            "accuracy": Metric.mean(accuracy, chance=CHANCE, example_ids=keys),
            "exact_match": Metric.mean(exact, chance=0.0, example_ids=keys),
        }


class UuidTask(Task):
    """N random pairs from a seed.

    pairs: how many to memorise (the paper: 10,000).
    loss_on: `all` tokens, as the authors, or the `value` alone.
    add_bos: None does what the tokenizer does by itself, as the authors; True or False forces it.
    score_pairs: how many of the pairs (the first ones) are scored; None scores all.
    """

    name = "uuid"
    label = "UUID pairs"

    def __init__(
        self,
        pairs: int = 10_000,
        loss_on: Literal["all", "value"] = "all",
        add_bos: bool | None = None,
        score_pairs: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        whole("task.pairs", pairs, 1, MAX_PAIRS)
        if loss_on not in ("all", "value"):
            raise TaskError(f"task.loss_on is {loss_on!r}; it must be 'all' or 'value'")
        whole("task.score_pairs", score_pairs, 1, pairs, or_null=True)
        self.count = pairs
        self.loss_on = loss_on
        self.add_bos = add_bos
        self.score_pairs = score_pairs

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The (key, value) pairs, drawn when they are first needed."""
        return make_pairs(self.count, self.seed)

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row a pair, in the order of generation; `value_mask` is 1 on tokens of the value."""
        from datasets import Dataset

        start = bos(tokenizer, self.add_bos)
        rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], VALUE_MASK: []}
        for key, value in self.pairs:
            prompt, answer = split_encode(tokenizer, f"{key}:", value)
            ids = start + prompt + answer
            hidden = len(ids) - len(answer) if self.loss_on == "value" else 0
            rows["input_ids"].append(ids)
            rows["labels"].append([IGNORED] * hidden + ids[hidden:])
            rows[VALUE_MASK].append([0] * (len(ids) - len(answer)) + [1] * len(answer))
        return Dataset.from_dict(rows)

    def scorers(self) -> list[Scorer]:
        return [UuidScorer(self.pairs[: self.score_pairs], self.add_bos)]

    def data_card(self) -> list[dict[str, Any]]:
        text = "\n".join(f"{key}:{value}" for key, value in self.pairs)
        return [
            {
                "name": "uuid_pairs",
                "hub_id": None,
                "revision": None,
                "licence": "none needed (random numbers)",
                "columns": ["key", "value"],
                "rows": self.count,
                "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
                "path": None,
                "notes": f"version-4 UUIDs from random.Random({self.seed})",
            },
            *self.forgetting.data_card(),
        ]
