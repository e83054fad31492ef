"""Continual pretraining on the docstrings of installed packages: the paper's setting in small.

Learnt: perplexity on the docstrings of held-out modules, and a cloze of the API names that those
mention. The counterpart, with no data set to fetch, of PubMed abstracts and their tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks.base import Scorer, Shared, Task
from tasks.checks import MAX_BLOCK, MAX_LIMIT, limit, whole
from tasks.data import Missing, text_fingerprint
from tasks.docstrings import (
    PACKAGES,
    Document,
    cloze_items,
    documents,
    lacking_packages,
    package_version,
)
from tasks.errors import TaskError
from tasks.likelihood import ChoiceScorer, TextScorer
from tasks.overlap import overlap
from tasks.packing import packed_dataset

if TYPE_CHECKING:
    import datasets

CLOZE_CONTEXT = 1500  # characters before the name; the rest is far away and costs time


class DocsTask(Task):
    """packages: whose docstrings; max_documents: a random part of them (None: all).

    block: tokens in a packed row; held_out_texts, cloze_questions: how many are scored (None: all;
    0 questions: none).
    """

    name = "docs"
    label = "Docstrings"

    def __init__(
        self,
        packages: Sequence[str] = PACKAGES,
        max_documents: int | None = None,
        block: int = 512,
        held_out_texts: int | None = 50,
        cloze_questions: int | None = 200,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        whole("task.block", block, 2, MAX_BLOCK)
        limit("task.max_documents", max_documents)
        limit("task.held_out_texts", held_out_texts)
        whole("task.cloze_questions", cloze_questions, 0, MAX_LIMIT, or_null=True)
        if not packages:
            raise TaskError("task.packages is empty; name at least one installed package")
        self.packages = list(packages)
        self.max_documents = max_documents
        self.block = block
        self.held_out_texts = held_out_texts
        self.cloze_questions = cloze_questions

    def lacking(self) -> Iterator[Missing]:
        """The packages that are not installed."""
        return lacking_packages(self.packages)

    @cached_property
    def corpus(self) -> list[Document]:
        """The documents of the packages, training and held-out. Raises TaskError."""
        corpus = documents(self.packages, self.max_documents)
        if len({document.held_out for document in corpus}) < 2:
            raise TaskError(
                f"the packages {', '.join(self.packages)} give {len(corpus)} docstrings, too few "
                "to train on some modules and hold others out; name more, or raise max_documents"
            )
        return corpus

    def texts(self, *, held_out: bool) -> list[str]:
        """Texts of the held-out documents, or of those to train on. Raises TaskError."""
        return [d.text for d in self.corpus if d.held_out == held_out]

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """Packed blocks: input_ids, labels, position_ids."""
        return packed_dataset(self.texts(held_out=False), tokenizer, self.block)

    def scorers(self) -> list[Scorer]:
        held_out = [d for d in self.corpus if d.held_out][: self.held_out_texts]
        texts = [d.text for d in held_out]
        items = cloze_items(self.corpus, self.cloze_questions)
        scorers: list[Scorer] = [
            TextScorer(
                "docs_held_out",
                texts,
                units=("perplexity",),
                ids=[d.name for d in held_out],
                key=text_fingerprint(texts),
            )
        ]
        if items:  # a small part of the packages may mention no name
            scorers.append(
                ChoiceScorer(
                    "docs_cloze",
                    [(item.context[-CLOZE_CONTEXT:], item.choices, item.answer) for item in items],
                    ids=[item.document for item in items],
                    key=text_fingerprint(item.context for item in items),
                )
            )
        return scorers

    def data_card(self) -> list[dict[str, Any]]:
        train, test = self.texts(held_out=False), self.texts(held_out=True)
        cards: list[dict[str, Any]] = [
            {
                "name": f"docs/{split}",
                "hub_id": None,
                "revision": ", ".join(map(package_version, self.packages)),
                "licence": "as the packages",
                "columns": ["text"],
                "rows": len(texts),
                "fingerprint": text_fingerprint(texts),
                "path": None,
                "notes": "docstrings, split by module",
            }
            for split, texts in (("train", train), ("held_out", test))
        ]
        cards[1]["overlap"] = overlap(train, test)
        return [*cards, *self.forgetting.data_card()]
