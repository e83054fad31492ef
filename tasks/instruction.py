"""Instruction tuning on Tulu v2, scored by MMLU (the paper's section 5.2).

The text is open-instruct's: each turn begins with `<|system|>`, `<|user|>` or `<|assistant|>` on a
line of its own, an assistant's turn ends with EOS, and only assistants' turns carry the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks import checks
from tasks.base import Scorer, Shared, Task
from tasks.data import Missing, card, lacking_sets, load
from tasks.errors import TaskError
from tasks.examples import Cuts, Segments, examples_dataset, take
from tasks.scores import Benchmarks
from tasks.sets import SETS

if TYPE_CHECKING:
    import datasets

ROLES = ("system", "user", "assistant")


def chat_segments(messages: Sequence[Mapping[str, str]], eos: str) -> Segments:
    """open-instruct's text of a conversation, in parts with and without loss.

    >>> chat_segments([{"role": "user", "content": "Hi"},
    ...                {"role": "assistant", "content": "Hello"}], "</s>")
    [('<|user|>\\nHi\\n<|assistant|>\\n', False), ('Hello</s>', True)]
    """
    parts: list[tuple[str, bool]] = []

    def add(text: str, learnt: bool) -> None:
        if parts and parts[-1][1] == learnt:
            parts[-1] = (parts[-1][0] + text, learnt)
        else:
            parts.append((text, learnt))

    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise TaskError(f"a message has the role {role!r}; known roles: {', '.join(ROLES)}")
        if role == "assistant":
            add("<|assistant|>\n", False)
            add(f"{content.strip()}{eos}\n", True)
        else:
            add(f"<|{role}|>\n{content.strip()}\n", False)
    if parts:
        parts[-1] = (parts[-1][0].rstrip(), parts[-1][1])
    return parts


class InstructionTask(Task):
    """train_set: `tulu_v2`, or `tulu_v2_standin` (local), which goes by its own name.

    max_examples: a random part of it (None: all); max_tokens: longer examples are cut.
    scores: benchmarks of tasks.scores; limit: questions of each (None: all).
    """

    name = "instruction"
    label = "Instruction tuning"

    def __init__(
        self,
        train_set: str = "tulu_v2",
        max_examples: int | None = None,
        max_tokens: int = 2048,
        scores: Sequence[str] = ("mmlu_0shot", "mmlu_5shot"),
        limit: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        checks.limit("task.max_examples", max_examples)
        checks.whole("task.max_tokens", max_tokens, 2, checks.MAX_BLOCK)
        if train_set not in ("tulu_v2", "tulu_v2_standin"):
            raise TaskError(f"task.train_set is {train_set!r}; take tulu_v2 or tulu_v2_standin")
        if train_set == "tulu_v2_standin":
            self.name, self.label = "instruction_standin", "Instruction tuning (stand-in)"
        self.source = SETS[train_set]
        self.max_examples = max_examples
        self.max_tokens = max_tokens
        self.benchmarks = Benchmarks(scores, limit=limit, data_dir=self.data_dir)
        self.cuts: Cuts | None = None

    def lacking(self) -> Iterator[Missing]:
        """The training set and the benchmarks that are not at hand."""
        yield from lacking_sets([(self.source, "train")], self.data_dir)
        yield from self.benchmarks.lacking()

    @cached_property
    def _rows(self) -> datasets.Dataset:
        return take(load(self.source, "train", self.data_dir), self.max_examples)

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row a conversation, in the set's order."""
        eos = tokenizer.eos_token or ""
        data, self.cuts = examples_dataset(
            (chat_segments(row["messages"], eos) for row in self._rows), tokenizer, self.max_tokens
        )
        return data

    def scorers(self) -> list[Scorer]:
        return self.benchmarks.scorers()

    def data_card(self) -> list[dict[str, Any]]:
        entry = card(self.source, "train", self._rows, self.data_dir)
        if self.cuts is not None:
            entry["cuts"] = self.cuts.note(self.max_tokens)
        return [entry, *self.benchmarks.data_card(self._texts()), *self.forgetting.data_card()]

    def _texts(self) -> Iterator[str]:
        for row in self._rows:
            yield "\n".join(message["content"] for message in row["messages"])
