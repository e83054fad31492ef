"""What training may undo: general English and general ability, the same before and after.

`pydoc_topics` (the language reference that CPython carries for its help()) and `docstrings` (those
of held-out modules of installed packages, which a base pretrained on docstrings knows) are there
always. The others are the usual ones: bits per byte on WikiText-2, and the three accuracies of
"LoRA Learns Less and Forgets Less" (Biderman et al., arXiv 2405.09673), scored by lm-eval.

With a limit, the texts are few enough to be scored along the run too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks import checks
from tasks.corpora import CORPORA, pydoc_topics, spread
from tasks.data import Missing, card, lacking_sets, lacks, load, text_fingerprint
from tasks.docstrings import PACKAGES, held_out_documents, lacking_packages
from tasks.errors import TaskError
from tasks.metrics import Scorer, When
from tasks.rehearsal import Rehearsal
from tasks.scores import SCORES, scorer
from tasks.sets import find
from tasks.source import Source

if TYPE_CHECKING:
    from tasks.adaptllm import AdaptScorer
    from tasks.harness import HarnessScorer

HARNESS_PARTS = ("hellaswag", "winogrande", "arc_challenge")
TEXT_SETS = {"wikitext2": "test", "wikipedia_sample": "train", "c4_sample": "train"}
EMBEDDED = {"pydoc_topics": "topics", "docstrings": "docs"}  # nothing to fetch: their corpora
PARTS = (*EMBEDDED, *TEXT_SETS, *HARNESS_PARTS)
AUTO = ("wikitext2", *HARNESS_PARTS)
# With a limit a score is a quick look, so each text is cut too.
CHARACTERS_WITH_LIMIT = 1000


class Forgetting:
    """The chosen parts: names of PARTS, or `auto` for those of AUTO that are at hand.

    `auto` falls back on pydoc_topics where no general text is at hand, or on docstrings where the
    task trains on those topics. trained: parts whose texts the task trains on; of such a text
    training would look like the opposite of forgetting, so naming one raises TaskError.
    """

    def __init__(
        self,
        parts: Sequence[str] | str,
        *,
        data_dir: str | None,
        limit: int | None,
        revisions: Mapping[str, str] | None = None,
        trained: Collection[str] = (),
    ) -> None:
        names = [parts] if isinstance(parts, str) else list(parts)
        unknown = [name for name in names if name not in (*PARTS, "auto")]
        if unknown:
            raise TaskError(
                f"task.forgetting names {', '.join(map(repr, unknown))}; known parts: "
                f"{', '.join(PARTS)}, or auto"
            )
        if "auto" in names and len(names) > 1:
            raise TaskError("task.forgetting: 'auto' stands alone, or name the parts")
        if learned := [name for name in names if name in trained]:
            raise TaskError(
                f"task.forgetting names {', '.join(learned)}, which this task trains on: it "
                "would be learned, not forgotten; take docstrings, or auto for what is at hand"
            )
        checks.limit("task.forgetting_limit", limit)
        self.names = names
        self.data_dir = data_dir
        self.limit = limit
        self.revisions = revisions
        self.fallback = "docstrings" if "pydoc_topics" in trained else "pydoc_topics"
        self._resolved: list[str] | None = None

    def prepare(self) -> None:
        """Check that all is there. Raises TaskError."""
        for lack in self.lacking():
            raise TaskError(str(lack))

    def lacking(self) -> Iterator[Missing]:
        """What is missing of the parts, one after the other."""
        for name in self._parts():
            if name == "docstrings":
                found = lacking_packages(PACKAGES)
            else:
                found = lacking_sets(self._sets(name), self.data_dir)
            for lack in found:
                message = f"task.forgetting: {lack} task.forgetting=auto takes what is at hand."
                yield replace(lack, message=message)

    def sets(self) -> Iterator[tuple[Source, str]]:
        """(source, split) of the parts; of `auto` all that are looked for."""
        for name in AUTO if self.names == ["auto"] else self.names:
            yield from self._sets(name)

    def rehearsals(self) -> Iterator[Rehearsal]:
        """Each benchmark among the parts scores one made-up answer."""
        for name in self._parts():
            if name in HARNESS_PARTS:
                yield Rehearsal(name, self._sets(name), self._benchmark(name).rehearse)

    def scorers(self) -> list[Scorer]:
        """One scorer a part."""
        return [self._scorer(name) for name in self._parts()]

    def data_card(self) -> list[dict[str, Any]]:
        """One entry a set, with the keys of Task.data_card."""
        return [entry for name in self._parts() for entry in self._cards(name)]

    def _parts(self) -> list[str]:
        if self.names != ["auto"]:
            return self.names
        if self._resolved is None:
            found = [name for name in AUTO if all(self._at_hand(*s) for s in self._sets(name))]
            text = [] if "wikitext2" in found else [self.fallback]
            self._resolved = text + found
        return self._resolved

    def _at_hand(self, source: Source, split: str) -> bool:
        """Whether a set is there. A broken file counts, so that loading it raises an error."""
        path = source.path(split, self.data_dir)
        return path is not None or lacks(source, split, self.data_dir) is None

    def _scorer(self, name: str) -> Scorer:
        if name in HARNESS_PARTS:
            return self._benchmark(name)
        from tasks.likelihood import TextScorer  # brings torch

        titles, texts = zip(*self._texts(name), strict=True)
        key = {"set": name, "fingerprint": text_fingerprint(texts)}
        when: When = "before_after" if self.limit is None else "along"
        return TextScorer(name, texts, ids=titles, key=key, when=when)

    def _benchmark(self, name: str) -> AdaptScorer | HarnessScorer:
        return scorer(name, limit=self.limit, data_dir=self.data_dir, revisions=self.revisions)

    def _texts(self, name: str) -> list[tuple[str, str]]:
        """(title, text) of a general text set, cut where there is a limit."""
        if name in EMBEDDED:
            texts = self._embedded(name)
        else:
            ((source, split),) = self._sets(name)
            column = load(source, split, self.data_dir)["text"]
            texts = (
                articles(column)
                if name == "wikitext2"
                else [(f"{name}/{i}", text) for i, text in enumerate(column)]
            )
        if self.limit is None:
            return texts
        # Docstrings lie package by package: a limit takes some of each.
        texts = spread(texts, self.limit) if name == "docstrings" else texts[: self.limit]
        return [(title, text[:CHARACTERS_WITH_LIMIT]) for title, text in texts]

    def _embedded(self, name: str) -> list[tuple[str, str]]:
        if name == "pydoc_topics":
            return pydoc_topics()
        return [(document.name, document.text) for document in held_out_documents(PACKAGES)]

    def _cards(self, name: str) -> list[dict[str, Any]]:
        if name in EMBEDDED:
            texts = [text for _, text in self._embedded(name)]
            return [CORPORA[EMBEDDED[name]].card(name, texts)]
        return [
            card(source, split, load(source, split, self.data_dir), self.data_dir)
            for source, split in self._sets(name)
        ]

    def _sets(self, name: str) -> Sequence[tuple[Source, str]]:
        if name in EMBEDDED:
            return []
        if name in TEXT_SETS:
            return [(find(name, self.revisions), TEXT_SETS[name])]
        return SCORES[name].sources(self.revisions)


def articles(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(title, text) of the articles of WikiText, whose lines have ` = Title = ` before each.

    >>> articles([" = A = ", " text", " = = Section = = ", "", " = B = ", " more"])
    [('A', ' = A = \\n text\\n = = Section = = \\n'), ('B', ' = B = \\n more')]
    """
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        heading = re.fullmatch(r"\s*= ([^=].*?) =\s*", line)
        if heading:
            found.append((heading[1], []))
        elif not found:
            found.append(("", []))
        found[-1][1].append(line.removesuffix("\n"))
    texts = [(title, "\n".join(body)) for title, body in found]
    return [(title, text) for title, text in texts if text.strip()]
