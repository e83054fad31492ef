"""What a task is: a training set, scorers for what is learned and for what may be forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from tasks.checks import MAX_SEED, whole
from tasks.data import Missing, lacking_sets, look_at
from tasks.errors import TaskError
from tasks.forgetting import Forgetting
from tasks.metrics import UNITS, Metric, Scorer
from tasks.rehearsal import Rehearsal, Room, failing, overlong
from tasks.sets import SETS
from tasks.source import Source

if TYPE_CHECKING:
    import datasets

__all__ = ["UNITS", "Metric", "Scorer", "Shared", "Task"]


class Shared(TypedDict, total=False):
    """The settings that every task has; see Task."""

    seed: int
    data_dir: str | None
    forgetting: Sequence[str] | str
    forgetting_limit: int | None
    revisions: Mapping[str, str] | None


class Task(ABC):
    """One task of the benchmark. The constructor's arguments are the keys of its YAML.

    seed: of the run, from 0 to 2^32 - 1; draws what a task draws.
    data_dir: folder of local data sets, or None.
    forgetting: the parts of what may be forgotten (tasks.forgetting), or `auto`: those at hand.
    forgetting_limit: texts or questions of each part; None: all.
    revisions: pins sets of tasks.sets, each to a commit, tag or branch of its hub repository; None:
    as tasks.sets says.
    trained: parts of what may be forgotten whose texts the task trains on; for subclasses to give.

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
        revisions: Mapping[str, str] | None = None,
        trained: Collection[str] = (),
    ) -> None:
        whole("seed", seed, 0, MAX_SEED)
        self.revisions = dict(revisions or {})
        if unknown := [name for name in self.revisions if name not in SETS]:
            raise TaskError(
                f"task.revisions names {', '.join(unknown)}; known sets: {', '.join(SETS)}"
            )
        self.seed = seed
        self.data_dir = data_dir
        self.forgetting = Forgetting(
            forgetting,
            data_dir=data_dir,
            limit=forgetting_limit,
            revisions=self.revisions,
            trained=trained,
        )

    def prepare(self) -> None:
        """Check before any model is loaded that the run will find its data as it needs them.

        Each set is opened as the run opens it and its columns are looked at; each benchmark scores
        one made-up answer. Raises TaskError, of the first thing that is missing.
        """
        look_at(self.every_set(), self.data_dir)
        for lack in self._lacking():
            raise TaskError(str(lack))

    def missing(self) -> list[Missing]:
        """All that `prepare` would refuse, each once; nothing is loaded.

        Training sets, sets of the scorers, and those of what may be forgotten.
        """
        look_at(self.every_set(), self.data_dir)
        return list(dict.fromkeys(self._lacking()))

    def overlong(self, room: Room) -> list[Missing]:
        """Scores that ask a model for more than it has room for; known after `missing`."""
        both = (self.rehearsals(), self.forgetting.rehearsals())
        return [lack for each in both for lack in overlong(each, self.data_dir, room)]

    def _lacking(self) -> Iterator[Missing]:
        yield from self.lacking()
        yield from self.forgetting.lacking()
        yield from failing(self.rehearsals(), self.data_dir)
        yield from failing(self.forgetting.rehearsals(), self.data_dir)

    def every_set(self) -> list[tuple[Source, str]]:
        """(source, split) of all that the run reads, each once."""
        both = (*self.sets(), *self.forgetting.sets())
        return list({(source.name, split): (source, split) for source, split in both}.values())

    def sets(self) -> Iterator[tuple[Source, str]]:
        """(source, split) of what is trained on and scored; for subclasses to give."""
        yield from ()

    def lacking(self) -> Iterator[Missing]:
        """What is missing of that, one after the other."""
        return lacking_sets(self.sets(), self.data_dir)

    def rehearsals(self) -> Iterator[Rehearsal]:
        """What can be tried of training and scoring before a model is loaded."""
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
