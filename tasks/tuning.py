"""What tuning on examples with a prompt has in common: a set, benchmarks, a set of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from tasks import checks
from tasks.base import Scorer, Shared, Task
from tasks.data import card, head, load
from tasks.errors import TaskError
from tasks.examples import Cuts, Segments, examples_dataset, take
from tasks.metrics import Answer
from tasks.overlap import overlap
from tasks.own_sets import OwnSet, read_set
from tasks.rehearsal import Rehearsal
from tasks.scores import Benchmarks
from tasks.sets import find
from tasks.source import Source

if TYPE_CHECKING:
    import datasets

REHEARSED = 8  # rows


class TuningTask(Task):
    """train_set: one of the class's `known` sets, or a set of one's own (tasks.own_sets).

    max_examples: a random part of it (None: all); max_tokens: longer examples are cut.
    scores: benchmarks of tasks.scores, whose mean is the task's average; beside: others that are
    scored but do not count in it; limit: questions of each, and of the test split of a set of
    one's own (None: all).
    """

    known: ClassVar[Mapping[str, tuple[str, str] | None]]  # set -> name, label of its own
    forms: ClassVar[Sequence[Sequence[str]]]  # the columns of a set of one's own
    optional: ClassVar[str] = ""  # a column that it may have besides

    def __init__(
        self,
        train_set: str | Mapping[str, Any],
        max_examples: int | None,
        max_tokens: int,
        scores: Sequence[str],
        beside: Sequence[str],
        limit: int | None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        checks.limit("task.max_examples", max_examples)
        checks.whole("task.max_tokens", max_tokens, 2, checks.MAX_BLOCK)
        self.own: OwnSet | None = None
        if isinstance(train_set, Mapping):
            self.own = read_set(train_set, self.forms, self.optional)
            self.name, self.label = self.own.source.name, self.own.label
            self.source = self.own.source
        elif train_set in self.known:
            self.name, self.label = self.known[train_set] or (self.name, self.label)
            self.source = find(train_set, self.revisions)
        else:
            raise TaskError(
                f"task.train_set is {train_set!r}; take {' or '.join(self.known)}, or state a set "
                "of your own (tasks/own_sets.py)"
            )
        self.max_examples = max_examples
        self.max_tokens = max_tokens
        self.benchmarks = Benchmarks(
            [*scores, *beside], limit=limit, data_dir=self.data_dir, revisions=self.revisions
        )
        self.cuts: Cuts | None = None

    @abstractmethod
    def segments(self, row: Mapping[str, Any], eos: str) -> Segments:
        """The training text of a row, in parts with and without loss."""

    @abstractmethod
    def text(self, row: Mapping[str, Any]) -> str:
        """What is looked for when training and test rows are compared."""

    @abstractmethod
    def own_scorer(self, rows: datasets.Dataset) -> Scorer:
        """What scores the test split of a set of one's own. Raises TaskError."""

    def sets(self) -> Iterator[tuple[Source, str]]:
        """The training set, the splits of a set of one's own, and the benchmarks'."""
        splits = ["train"] if self.own is None else self.own.splits
        yield from ((self.source, split) for split in splits)
        yield from self.benchmarks.sets()

    def rehearsals(self) -> Iterator[Rehearsal]:
        """The first rows made into text, those of one's own test split scored; the benchmarks."""
        for split in ["train"] if self.own is None else self.own.splits:
            call = partial(self._rehearse, split)
            yield Rehearsal(f"{self.source.name}, split {split},", [(self.source, split)], call)
        yield from self.benchmarks.rehearsals()

    def _rehearse(self, split: str) -> Answer | None:
        rows = head(self.source, split, self.data_dir, REHEARSED)
        if split == "train":
            for row in rows:
                self.segments(row, "")
            return None
        return self.own_scorer(rows).answer()

    @cached_property
    def _rows(self) -> datasets.Dataset:
        return take(load(self.source, "train", self.data_dir), self.max_examples)

    @cached_property
    def _test(self) -> datasets.Dataset | None:
        """The test split of a set of one's own, as much of it as is scored."""
        if self.own is None or "test" not in self.own.splits:
            return None
        return take(load(self.source, "test", self.data_dir), self.benchmarks.limit)

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row an example, in the set's order."""
        eos = tokenizer.eos_token or ""
        data, self.cuts = examples_dataset(
            self._rows, partial(self.segments, eos=eos), tokenizer, self.max_tokens
        )
        return data

    def scorers(self) -> list[Scorer]:
        """That of the test split of a set of one's own, and the benchmarks."""
        own = [] if self._test is None else [self.own_scorer(self._test)]
        return [*own, *self.benchmarks.scorers()]

    def data_card(self) -> list[dict[str, Any]]:
        """The training set with its cuts, then what is scored with its overlap."""
        entry = card(self.source, "train", self._rows, self.data_dir)
        if self.cuts is not None:
            entry["cuts"] = self.cuts.note(self.max_tokens)
        cards = [entry]
        if self._test is not None:
            cards.append(card(self.source, "test", self._test, self.data_dir))
            cards[1]["overlap"] = overlap(self._texts(), [self.text(row) for row in self._test])
        return [*cards, *self.benchmarks.data_card(self._texts()), *self.forgetting.data_card()]

    def _texts(self) -> Iterator[str]:
        return (self.text(row) for row in self._rows)
