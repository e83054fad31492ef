"""Continual pretraining on a domain's text: biomedicine and finance (the paper's section 5.2).

Documents packed to 2,048 tokens, the loss on every token. The paper makes its texts into reading
comprehension, as AdaptLLM does (arXiv 2309.09530); the label of a task on raw text says so.
Biomedicine (Table 6): PubMed abstracts, then PubMedQA, USMLE, BioMMLU and RCT. Finance (Table 7):
news, then AdaptLLM's five tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks import checks
from tasks.base import Scorer, Shared, Task
from tasks.data import card, load, text_fingerprint
from tasks.errors import TaskError
from tasks.examples import take
from tasks.likelihood import TextScorer
from tasks.mixing import Mixed
from tasks.overlap import overlap
from tasks.packing import MASKS, packed_dataset
from tasks.reading import reading_comprehension
from tasks.rehearsal import Rehearsal
from tasks.scores import Benchmarks
from tasks.sets import find
from tasks.source import Source

if TYPE_CHECKING:
    import datasets


class ContinualTask(Task):
    """corpus: one of the class's `corpora`; the first is the paper's, others go by their own names.

    max_documents: a random part of it (None: all); block: tokens in a packed row; max_blocks: stop
    packing there (None: the whole corpus); mask: see tasks.packing.
    preprocess: `reading_comprehension` (tasks.reading) or `none`, raw text.
    instructions: sets of tasks.sets that are mixed in; instruction_ratio: of their rows a document.
    scores: benchmarks of tasks.scores, whose mean is the task's average; beside: others that are
    scored but do not count in it; limit: questions of each (None: all).
    held_out_texts: documents whose perplexity is scored, where the corpus holds some out.
    """

    corpora: tuple[str, ...]

    def __init__(
        self,
        corpus: str | None = None,
        max_documents: int | None = None,
        block: int = 2048,
        max_blocks: int | None = None,
        mask: str = "documents",
        preprocess: str = "none",
        instructions: Sequence[str] = (),
        instruction_ratio: float = 1.0,
        scores: Sequence[str] = (),
        beside: Sequence[str] = (),
        limit: int | None = None,
        held_out_texts: int | None = 100,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        checks.whole("task.block", block, 2, checks.MAX_BLOCK)
        checks.limit("task.max_documents", max_documents)
        checks.limit("task.held_out_texts", held_out_texts)
        checks.limit("task.max_blocks", max_blocks)
        checks.choice("task.mask", mask, MASKS)
        checks.choice("task.preprocess", preprocess, ("reading_comprehension", "none"))
        for name in instructions:
            checks.choice("task.instructions", name, INSTRUCTIONS)
        if not 0 <= instruction_ratio <= 100:
            raise TaskError(f"task.instruction_ratio is {instruction_ratio}; take 0 to 100")
        corpus = corpus or self.corpora[0]
        checks.choice("task.corpus", corpus, self.corpora)
        self.name, self.label = self._named(corpus, preprocess)
        self.corpus = corpus
        self.preprocess = preprocess
        self.instructions = [
            find(name, self.revisions) for name in instructions if instruction_ratio
        ]
        self.instruction_ratio = instruction_ratio
        self.max_blocks = max_blocks
        self.mask = mask
        self.sources = [find(name, self.revisions) for name in CORPUS_SETS.get(corpus, (corpus,))]
        self.max_documents = max_documents
        self.block = block
        self.held_out_texts = held_out_texts
        self.benchmarks = Benchmarks(
            [*scores, *beside], limit=limit, data_dir=self.data_dir, revisions=self.revisions
        )

    def _named(self, corpus: str, preprocess: str) -> tuple[str, str]:
        """Name and label, which say what the text is, where it is not the paper's."""
        raw = preprocess == "none"
        if corpus == self.corpora[0]:
            tail = "_raw" if raw else ""
            return f"{self.name}{tail}", f"{self.label}{', raw text' if raw else ''}"
        tail = "" if raw else "_reading"
        return f"{self.name}_standin{tail}", f"{self.label} (stand-in{', raw text' if raw else ''})"

    def sets(self) -> Iterator[tuple[Source, str]]:
        """The corpus, the instructions, and the benchmarks'."""
        for source in self.sources:
            yield source, "train"
        for source in self.sources:
            if "test" in source.files and "text" in source.columns:
                yield source, "test"
        for source in self.instructions:
            yield source, "train"
        yield from self.benchmarks.sets()

    def rehearsals(self) -> Iterator[Rehearsal]:
        """The benchmarks."""
        return self.benchmarks.rehearsals()

    @cached_property
    def _parts(self) -> list[datasets.Dataset]:
        return [
            take(load(source, "train", self.data_dir), self.max_documents)
            for source in self.sources
        ]

    @cached_property
    def _texts(self) -> Sequence[str]:
        if len(self._parts) == 1:
            return self._parts[0]["text"]  # a large corpus stays on disk
        return [_sentence(row) for part in self._parts for row in part]

    @cached_property
    def _held_out(self) -> list[str]:
        (source, *others) = self.sources
        if others or "test" not in source.files:
            return []
        return list(load(source, "test", self.data_dir)["text"])[: self.held_out_texts]

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Packed blocks: input_ids, labels, position_ids."""
        return packed_dataset(
            self._read, tokenizer, self.block, max_blocks=self.max_blocks, mask=self.mask
        )

    @cached_property
    def _read(self) -> Sequence[str]:
        """What is trained on: the documents as they are made, with instructions between them."""
        if self.preprocess == "none" and not self.instructions:
            return self._texts
        made = str if self.preprocess == "none" else reading_comprehension
        rows = [load(source, "train", self.data_dir) for source in self.instructions]
        return Mixed(self._texts, made, rows, self.instruction_ratio)

    def scorers(self) -> list[Scorer]:
        scorers = self.benchmarks.scorers()
        if self._held_out:
            key = text_fingerprint(self._held_out)
            name = f"{self.corpus}_held_out"
            scorers.append(TextScorer(name, self._held_out, units=("perplexity",), key=key))
        return scorers

    def data_card(self) -> list[dict[str, Any]]:
        cards = [
            card(source, "train", part, self.data_dir)
            for source, part in zip(self.sources, self._parts, strict=True)
        ]
        for source in self.instructions:
            data = load(source, "train", self.data_dir)
            cards.append(card(source, "train", data, self.data_dir))
            cards[-1]["notes"] = f"general instructions, {self.instruction_ratio} a document in all"
        if self._held_out:
            source = self.sources[0]
            entry = card(source, "test", load(source, "test", self.data_dir), self.data_dir)
            entry["overlap"] = overlap(self._read, self._held_out)
            cards.append(entry)
        return [*cards, *self.benchmarks.data_card(self._read), *self.forgetting.data_card()]


class BiomedicineTask(ContinualTask):
    """PubMed abstracts; `biomed_abstracts` (local) stands in."""

    name = "biomedicine"
    label = "Biomedicine"
    corpora = ("pubmed_abstracts", "biomed_abstracts")


class FinanceTask(ContinualTask):
    """Financial news; `finance_sentences` (local: SEC filings, headlines and posts) stands in."""

    name = "finance"
    label = "Finance (financial-news-articles)"  # 0.2 billion tokens; the paper's is another corpus
    corpora = ("finance_news", "finance_sentences")


INSTRUCTIONS = ("wizardlm", "open_orca", "tulu_v2", "tulu_v2_standin")
# A stand-in corpus of several sets that hold sentences. Training splits only.
CORPUS_SETS = {"finance_sentences": ("fin_ner", "fiqa_sa")}


def _sentence(row: dict[str, Any]) -> str:
    return " ".join(row["tokens"]) if "tokens" in row else row["sentence"]
