"""What a task is: a training set, scorers for what is learned and for what may be forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from tasks.checks import MAX_SEED, whole
from tasks.data import Missing
from tasks.errors import TaskError
from tasks.forgetting import Forgetting
from tasks.metrics import UNITS, Metric, Scorer

if TYPE_CHECKING:
    import datasets

__all__ = ["UNITS", "Metric", "Scorer", "Shared", "Task"]


class Shared(TypedDict, total=False):
    """The settings that every task has; see Task."""

    seed: int
    data_dir: str | None
    forgetting: Sequence[str] | str
    forgetting_limit: int | None


class Task(ABC):
    """One task of the benchmark. The constructor's arguments are the keys of its YAML.

    seed: of the run, from 0 to 2^32 - 1; draws what a task draws.
    data_dir: folder of local data sets, or None.
    forgetting: the parts of what may be forgotten (tasks.forgetting), or `auto`: those at hand.
    forgetting_limit: texts or questions of each part; None: all.

    Raises TaskError for a setting out of its range, before anything is computed.
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
        whole("seed", seed, 0, MAX_SEED)
        self.seed = seed
        self.data_dir = data_dir
        self.forgetting = Forgetting(forgetting, data_dir=data_dir, limit=forgetting_limit)

    def prepare(self) -> None:
        """Check, within seconds and before any model is loaded, that the data are there.

        Raises TaskError, of the first thing that is missing.
        """
        for lack in self._lacking():
            raise TaskError(str(lack))

    def missing(self) -> list[Missing]:
        """All that the task needs and that is not at hand, each once; nothing is loaded.

        Training sets, sets of the scorers, and those of what may be forgotten.
        """
        return list(dict.fromkeys(self._lacking()))

    def _lacking(self) -> Iterator[Missing]:
        yield from self.lacking()
        yield from self.forgetting.lacking()

    def lacking(self) -> Iterator[Missing]:
        """What is missing of the task's own sets, one after the other; for subclasses to give."""
        yield from ()

    @abstractmethod
    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Columns `input_ids` and `labels` (-100: no loss), already truncated, in a fixed order.

        Packed sets have `position_ids` too, which restart at every document; where the value to
        learn is a part of the labels, `value_mask` is 1 on its tokens.
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
