"""Scores: numbers with what is needed to judge them, and what puts such numbers on a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.errors import TaskError

When = Literal["before_after", "along"]
UNITS = ("fraction", "perplexity", "nats", "bits", "bits per byte")


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to judge it.

    `examples` holds one value an example in a fixed order, so that two models can be compared
    on the same questions; `example_ids` names them where the order alone is not enough.
    """

    value: float
    n: int
    higher_is_better: bool
    unit: str = "fraction"
    chance: float | None = None
    examples: list[float] | None = None
    example_ids: list[str] | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise TaskError(
                f"metric unit {self.unit!r} is unknown; known units: {', '.join(UNITS)}"
            )
        for field, values in (("examples", self.examples), ("example_ids", self.example_ids)):
            if values is not None and len(values) != self.n:
                raise TaskError(f"metric of {self.n} examples holds {len(values)} {field}")

    @classmethod
    def mean(
        cls,
        examples: Sequence[float],
        *,
        unit: str = "fraction",
        higher_is_better: bool = True,
        chance: float | None = None,
        example_ids: Sequence[str] | None = None,
    ) -> Metric:
        """The mean of per-example values, which are kept."""
        values = [float(v) for v in examples]
        if not values:
            raise TaskError("a metric needs at least one example, and none was scored")
        return cls(
            value=math.fsum(values) / len(values),
            n=len(values),
            higher_is_better=higher_is_better,
            unit=unit,
            chance=chance,
            examples=values,
            example_ids=None if example_ids is None else list(example_ids),
        )


@dataclass(frozen=True)
class Answer:
    """What a scorer lets a model say: at most `tokens` of them after `prompt`.

    prompt: empty where one that is too long is cut, as the benchmark has it.
    """

    prompt: str
    tokens: int


class Scorer(ABC):
    """Puts numbers on a model in memory, whatever adapters hang on it.

    `when` says when it is worth running: `before_after` once on the untouched and once on the
    trained model; `along` is cheap enough to run at chosen steps of the training as well.
    A scorer leaves the model as it found it (train or eval mode, no gradients, no random
    numbers drawn from the global generators).
    """

    name: str
    when: When = "before_after"

    @abstractmethod
    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """Metrics by name. `model` is a Hugging Face causal LM, `tokenizer` its own."""

    def answer(self) -> Answer | None:
        """The longest answer after the longest prompt; None: nothing is generated, or little."""
        return None

    def cache_key(self) -> dict[str, Any] | None:
        """Plain values that determine the score of a given model; None: do not cache it."""
        return None
