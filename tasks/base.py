"""What a task is: a training set, scorers for what is learned and for what may be forgotten."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import TaskError

if TYPE_CHECKING:
    import datasets

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


class Scorer(ABC):
    """Puts numbers on a model in memory, whatever adapters hang on it.

    `when` says when it is worth running: `before_after` once on the untouched and once on the
    trained model; `along` is cheap enough to run at chosen steps of the training as well.
    A scorer leaves the model as it found it (train or eval mode, no gradients, no random
    numbers drawn from the global generators).
    """

    name: str
    when: Literal["before_after", "along"] = "before_after"

    @abstractmethod
    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """Metrics by name. `model` is a Hugging Face causal LM, `tokenizer` its own."""

    def cache_key(self) -> dict[str, Any] | None:
        """Plain values that determine the score of a given model; None: do not cache it."""
        return None


class Task(ABC):
    """One task of the benchmark. The constructor's arguments are the keys of its YAML.

    seed: of the run; draws what a task draws.
    data_dir: folder of local data sets, or None.
    forgetting: the parts of what may be forgotten (tasks.forgetting), or `auto`: those at hand.
    forgetting_limit: texts or questions of each part; None: all.
    """

    name: str
    label: str  # for tables and figures

    def __init__(
        self,
        *,
        seed: int = 0,
        data_dir: str | None = None,
        forgetting: Sequence[str] | str = (),
        forgetting_limit: int | None = None,
    ) -> None:
        from tasks.forgetting import Forgetting

        self.seed = seed
        self.data_dir = data_dir
        self.forgetting = Forgetting(forgetting, data_dir=data_dir, limit=forgetting_limit)

    @abstractmethod
    def prepare(self) -> None:
        """Check, within seconds and before any model is loaded, that the data are there.

        Raises TaskError.
        """

    @abstractmethod
    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Columns `input_ids` and `labels` (-100: no loss), already truncated, in a fixed order.

        Packed sets have `position_ids` too, which restart at every document.
        """

    @abstractmethod
    def scorers(self) -> list[Scorer]:
        """What the task teaches."""

    def forgetting_scorers(self) -> list[Scorer]:
        """What training on the task may undo; run on the untouched and on the trained model."""
        return self.forgetting.scorers()

    @abstractmethod
    def data_card(self) -> list[dict[str, Any]]:
        """One entry a set.

        Keys: name, hub_id, revision, licence, columns, rows, fingerprint, path or None, notes.
        """
