"""Mathematical reasoning: MetaMathQA, scored by GSM8K and MATH (the paper's section 5.2; Table 4).

Trained as MetaMath does: Alpaca's prompt without input, the response and EOS, cut to 512 tokens,
loss on the response. Scored as lm-eval asks (`gsm8k`, `math`) and as MetaMath asks
(`gsm8k_metamath`, `math_metamath`), whether an answer was found apart from whether it was right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks import checks
from tasks.base import Scorer, Shared, Task
from tasks.data import Missing, card, lacking_sets, load
from tasks.errors import TaskError
from tasks.examples import Cuts, Segments, examples_dataset, take
from tasks.prompts import metamath_prompt
from tasks.scores import Benchmarks
from tasks.sets import SETS

if TYPE_CHECKING:
    import datasets


def metamath_segments(query: str, response: str, eos: str) -> Segments:
    """MetaMath's training text: nothing stands between prompt and response."""
    return [(metamath_prompt(query), False), (f"{response}{eos}", True)]


def gsm8k_response(answer: str) -> str:
    """A GSM8K solution in the form of MetaMathQA's responses.

    >>> gsm8k_response("2 and 3 are <<2+3=5>>5.\\n#### 5")
    '2 and 3 are 5.\\n#### 5\\nThe answer is: 5'
    """
    solution = re.sub(r"<<.*?>>", "", answer).strip()
    return f"{solution}\nThe answer is: {solution.rpartition('####')[2].strip()}"


class MathsTask(Task):
    """train_set: `metamathqa`, or `gsm8k`, whose training split rehearses it under its own name.

    max_examples: a random part of it (None: all); max_tokens: longer examples are cut.
    scores: benchmarks of tasks.scores; limit: questions of each (None: all).
    """

    name = "math"
    label = "Mathematics"

    def __init__(
        self,
        train_set: str = "metamathqa",
        max_examples: int | None = None,
        max_tokens: int = 512,
        scores: Sequence[str] = ("gsm8k", "math", "gsm8k_metamath", "math_metamath"),
        limit: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        checks.limit("task.max_examples", max_examples)
        checks.whole("task.max_tokens", max_tokens, 2, checks.MAX_BLOCK)
        if train_set not in ("metamathqa", "gsm8k"):
            raise TaskError(f"task.train_set is {train_set!r}; take metamathqa or gsm8k")
        if train_set == "gsm8k":
            self.name, self.label = "math_gsm8k_train", "Mathematics (GSM8K train)"
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

    def _pair(self, row: Mapping[str, str]) -> tuple[str, str]:
        if self.source.name == "gsm8k":
            return row["question"], gsm8k_response(row["answer"])
        return row["query"], row["response"]

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row a question, in the set's order; the loss is on the response and EOS."""
        eos = tokenizer.eos_token or ""
        data, self.cuts = examples_dataset(
            (metamath_segments(*self._pair(row), eos) for row in self._rows),
            tokenizer,
            self.max_tokens,
        )
        return data

    def scorers(self) -> list[Scorer]:
        return self.benchmarks.scorers()

    def data_card(self) -> list[dict[str, Any]]:
        entry = card(self.source, "train", self._rows, self.data_dir)
        if self.cuts is not None:
            entry["cuts"] = self.cuts.note(self.max_tokens)
        texts = (self._pair(row)[0] for row in self._rows)
        return [entry, *self.benchmarks.data_card(texts), *self.forgetting.data_card()]
