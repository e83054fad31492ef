"""Pretraining from scratch (the paper's section 5.3; Table 3): validation perplexity on C4.

With `corpus: docs` the same task runs on docstrings of installed packages, for a machine without
data. The model is one with fresh weights (conf/model); which parameters train is the method's
business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks.base import Scorer, Shared, Task
from tasks.checks import MAX_BLOCK, choice, limit, whole
from tasks.data import Missing, card, load, text_fingerprint
from tasks.docs import DocsTask
from tasks.docstrings import PACKAGES
from tasks.likelihood import BlockScorer, TextScorer
from tasks.overlap import overlap
from tasks.packing import MASKS, packed_dataset
from tasks.sets import C4_SHARDS, SETS, c4_shards
from tasks.source import Source

if TYPE_CHECKING:
    import datasets

HELD_OUT = 10  # of a corpus without a validation split, one document in ten


class PretrainTask(Task):
    """corpus: `c4`, `c4_sample` or `docs`; block: tokens in a packed row (the paper: 512).

    shards: files of C4 to take, of its 1,024 (36 hold the paper's 5.2 billion tokens).
    max_blocks: stop packing there (None: the whole corpus).
    mask: `documents`: no document sees another, and perplexity is that of documents; `none`: they
    are joined and cut, and perplexity is that of such blocks (the paper's, after ReLoRA).
    validation_texts: how many held-out documents are scored (None: all).
    """

    name = "pretrain"
    label = "Pretraining"

    def __init__(
        self,
        corpus: str = "docs",
        block: int = 512,
        shards: int = 36,
        max_blocks: int | None = None,
        validation_texts: int | None = 100,
        packages: Sequence[str] = PACKAGES,
        mask: str = "documents",
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(trained=["c4_sample"] if corpus == "c4_sample" else [], **shared)
        choice("task.corpus", corpus, ("c4", "c4_sample", "docs"))
        whole("task.shards", shards, 1, C4_SHARDS)
        whole("task.block", block, 2, MAX_BLOCK)
        limit("task.max_blocks", max_blocks)
        limit("task.validation_texts", validation_texts)
        choice("task.mask", mask, MASKS)
        self.corpus = corpus
        self.mask = mask
        self.block = block
        self.max_blocks = max_blocks
        self.validation_texts = validation_texts
        self.docs = DocsTask(packages) if corpus == "docs" else None
        self.source: Source = (
            c4_shards(shards, self.revisions) if corpus == "c4" else SETS["c4_sample"]
        )

    def sets(self) -> Iterator[tuple[Source, str]]:
        """The splits of the corpus, where it is no packages'."""
        if self.docs is None:
            yield from ((self.source, split) for split in self._splits)

    def lacking(self) -> Iterator[Missing]:
        """The packages or the splits of the corpus that are not at hand."""
        return super().lacking() if self.docs is None else self.docs.lacking()

    @property
    def _splits(self) -> list[str]:
        return ["train", "validation"] if "validation" in self.source.files else ["train"]

    @cached_property
    def _data(self) -> list[datasets.Dataset]:
        return [load(self.source, split, self.data_dir) for split in self._splits]

    @cached_property
    def _texts(self) -> tuple[Sequence[str], Sequence[str]]:
        """Training and held-out texts; the columns of a hub set stay on disk."""
        if self.docs is not None:
            return self.docs.texts(held_out=False), self.docs.texts(held_out=True)
        if len(self._data) == 2:
            return self._data[0]["text"], self._data[1]["text"]
        column = list(self._data[0]["text"])
        return (
            [text for i, text in enumerate(column) if i % HELD_OUT],
            [text for i, text in enumerate(column) if not i % HELD_OUT],
        )

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Packed blocks: input_ids, labels, position_ids."""
        return packed_dataset(
            self._texts[0], tokenizer, self.block, max_blocks=self.max_blocks, mask=self.mask
        )

    def scorers(self) -> list[Scorer]:
        texts = [t for t in self._texts[1][: self.validation_texts] if t.strip()]
        if self.mask == "none":
            name = f"{self.corpus}_validation_blocks"
            return [BlockScorer(name, texts, self.block, key=text_fingerprint(texts))]
        return [
            TextScorer(
                f"{self.corpus}_validation",
                texts,
                units=("perplexity",),
                window=self.block,
                key=text_fingerprint(texts),
            )
        ]

    def data_card(self) -> list[dict[str, Any]]:
        if self.docs is not None:
            return [*self.docs.data_card(), *self.forgetting.data_card()]
        cards = [
            card(self.source, split, data, self.data_dir)
            for split, data in zip(self._splits, self._data, strict=True)
        ]
        scored = list(self._texts[1][: self.validation_texts])
        if self.corpus == "c4_sample":  # C4's own split is taken as it is: a scan would take hours
            cards[0]["notes"] += f"; one document in {HELD_OUT} is held out"
            cards[0]["overlap"] = overlap(self._texts[0], scored)
        return [*cards, *self.forgetting.data_card()]
