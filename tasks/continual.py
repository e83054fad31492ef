"""Continual pretraining on a domain's text: biomedicine and finance (the paper's section 5.2).

Documents packed to 2,048 tokens, the loss on every token. Biomedicine (Table 6): PubMed abstracts,
then PubMedQA, USMLE, BioMMLU and RCT. Finance (Table 7): news, then AdaptLLM's five tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks import checks
from tasks.base import Scorer, Shared, Task
from tasks.data import Missing, card, lacking_sets, load, text_fingerprint
from tasks.errors import TaskError
from tasks.examples import take
from tasks.likelihood import TextScorer
from tasks.overlap import overlap
from tasks.packing import packed_dataset
from tasks.scores import Benchmarks
from tasks.sets import SETS

if TYPE_CHECKING:
    import datasets


class ContinualTask(Task):
    """corpus: one of the class's `corpora`; the first is the paper's, others go by their own names.

    max_documents: a random part of it (None: all); block: tokens in a packed row.
    scores: benchmarks of tasks.scores; limit: questions of each (None: all).
    held_out_texts: documents whose perplexity is scored, where the corpus holds some out.
    """

    corpora: tuple[str, ...]

    def __init__(
        self,
        corpus: str | None = None,
        max_documents: int | None = None,
        block: int = 2048,
        scores: Sequence[str] = (),
        limit: int | None = None,
        held_out_texts: int | None = 100,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        checks.whole("task.block", block, 2, checks.MAX_BLOCK)
        checks.limit("task.max_documents", max_documents)
        checks.limit("task.held_out_texts", held_out_texts)
        corpus = corpus or self.corpora[0]
        if corpus not in self.corpora:
            raise TaskError(f"task.corpus is {corpus!r}; take {' or '.join(self.corpora)}")
        if corpus != self.corpora[0]:
            self.name, self.label = f"{self.name}_standin", f"{self.label} (stand-in)"
        self.corpus = corpus
        self.sources = [SETS[name] for name in CORPUS_SETS.get(corpus, (corpus,))]
        self.max_documents = max_documents
        self.block = block
        self.held_out_texts = held_out_texts
        self.benchmarks = Benchmarks(scores, limit=limit, data_dir=self.data_dir)

    def lacking(self) -> Iterator[Missing]:
        """The corpus and the benchmarks that are not at hand."""
        needed = [(source, "train") for source in self.sources]
        needed += [(s, "test") for s in self.sources if "test" in s.files and "text" in s.columns]
        yield from lacking_sets(needed, self.data_dir)
        yield from self.benchmarks.lacking()

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
        return packed_dataset(self._texts, tokenizer, self.block)

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
        if self._held_out:
            source = self.sources[0]
            entry = card(source, "test", load(source, "test", self.data_dir), self.data_dir)
            entry["overlap"] = overlap(self._texts, self._held_out)
            cards.append(entry)
        return [*cards, *self.benchmarks.data_card(self._texts), *self.forgetting.data_card()]


class BiomedicineTask(ContinualTask):
    """PubMed abstracts; `biomed_abstracts` (local) stands in."""

    name = "biomedicine"
    label = "Biomedicine"
    corpora = ("pubmed_abstracts", "biomed_abstracts")


class FinanceTask(ContinualTask):
    """Financial news; `finance_sentences` (local: SEC filings, headlines and posts) stands in."""

    name = "finance"
    label = "Finance"
    corpora = ("finance_news", "finance_sentences")


# A stand-in corpus of several sets that hold sentences. Training splits only.
CORPUS_SETS = {"finance_sentences": ("fin_ner", "fiqa_sa")}


def _sentence(row: dict[str, Any]) -> str:
    return " ".join(row["tokens"]) if "tokens" in row else row["sentence"]
