"""Continual pretraining on text at different distances from what the base knows.

One recipe for every corpus of tasks.corpora: whole documents packed to blocks by the model's own
tokenizer, the loss on every token; perplexity and bits per byte of held-out documents, cheap enough
to follow along the run. The distance is the base's own `held_out_bits_per_byte`, before training
(analysis.before=true).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks.base import Scorer, Shared, Task
from tasks.checks import MAX_BLOCK, limit, whole
from tasks.corpora import CORPORA, Text, spread
from tasks.data import Missing, text_fingerprint
from tasks.errors import TaskError
from tasks.likelihood import TextScorer
from tasks.overlap import overlap
from tasks.packing import packed_dataset

if TYPE_CHECKING:
    import datasets

# What a corpus holds of the texts that tell of forgetting: Python's library carries its topics.
TRAINED = {"topics": ("pydoc_topics",), "python_source": ("pydoc_topics",)}


class TextTask(Task):
    """corpus: a name of tasks.corpora.

    max_documents: so many training documents, at random but the same in every run (None: all).
    block: tokens in a packed row; max_blocks: stop packing there (None: all).
    held_out_texts: documents that are scored, from all over the corpus (None: all), each cut to
    its first held_out_characters (None: uncut).
    """

    def __init__(
        self,
        corpus: str = "topics",
        max_documents: int | None = None,
        block: int = 512,
        max_blocks: int | None = None,
        held_out_texts: int | None = 40,
        held_out_characters: int | None = 2000,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(trained=TRAINED.get(corpus, ()), **shared)
        if corpus not in CORPORA:
            raise TaskError(f"task.corpus is {corpus!r}; take one of {', '.join(CORPORA)}")
        whole("task.block", block, 2, MAX_BLOCK)
        limit("task.max_documents", max_documents)
        limit("task.max_blocks", max_blocks)
        limit("task.held_out_texts", held_out_texts)
        limit("task.held_out_characters", held_out_characters)
        self.name, self.label = f"text_{corpus}", CORPORA[corpus].label
        self.corpus = CORPORA[corpus]
        self.max_documents, self.max_blocks = max_documents, max_blocks
        self.block = block
        self.held_out_texts, self.held_out_characters = held_out_texts, held_out_characters

    def lacking(self) -> Iterator[Missing]:
        """The packages that the corpus is made of and that are not installed."""
        return self.corpus.lacking()

    @cached_property
    def train(self) -> list[Text]:
        """The documents to train on."""
        every = [text for text in self.corpus.read() if not text.held_out]
        if self.max_documents is None or self.max_documents >= len(every):
            return every
        kept = random.Random(0).sample(range(len(every)), self.max_documents)
        return [every[i] for i in sorted(kept)]

    @cached_property
    def held_out(self) -> list[Text]:
        """The documents that are scored, cut."""
        every = [text for text in self.corpus.read() if text.held_out]
        return [
            Text(t.title, t.text[: self.held_out_characters], True)
            for t in spread(every, self.held_out_texts)
        ]

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Packed blocks: input_ids, labels, position_ids."""
        texts = [text.text for text in self.train]
        return packed_dataset(texts, tokenizer, self.block, max_blocks=self.max_blocks)

    def scorers(self) -> list[Scorer]:
        """`held_out_bits_per_byte` and `held_out_perplexity`, of one pass."""
        texts = [text.text for text in self.held_out]
        return [
            TextScorer(
                "held_out",
                texts,
                units=("bits per byte", "perplexity"),
                ids=[text.title for text in self.held_out],
                key=text_fingerprint(texts),
                when="along",
            )
        ]

    def data_card(self) -> list[dict[str, Any]]:
        """The documents trained on, and those scored with their overlap."""
        parts = {"train": self.train, "held_out": self.held_out}
        texts = {split: [text.text for text in part] for split, part in parts.items()}
        cards = [self.corpus.card(f"{self.name}/{k}", v) for k, v in texts.items()]
        cards[1]["overlap"] = overlap(texts["train"], texts["held_out"])
        return [*cards, *self.forgetting.data_card()]
