"""What training may undo: general English and general ability, the same before and after.

`pydoc_topics` needs nothing: the language reference that CPython carries for its help(). The others
are the usual ones: bits per byte on WikiText-2, and the three accuracies of "LoRA Learns Less and
Forgets Less" (Biderman et al., arXiv 2405.09673), scored by lm-eval.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.base import Scorer
from tasks.data import Source, card, load, require, text_fingerprint
from tasks.errors import TaskError
from tasks.likelihood import TextScorer
from tasks.scores import SCORES, scorer
from tasks.sets import SETS

HARNESS_PARTS = ("hellaswag", "winogrande", "arc_challenge")
TEXT_SETS = {"wikitext2": "test", "wikipedia_sample": "train", "c4_sample": "train"}
PARTS = ("pydoc_topics", *TEXT_SETS, *HARNESS_PARTS)
AUTO = ("wikitext2", *HARNESS_PARTS)
# With a limit a score is a quick look, so each text is cut too.
CHARACTERS_WITH_LIMIT = 1000


class Forgetting:
    """The chosen parts: names of PARTS, or `auto` for those of AUTO that are at hand.

    `auto` falls back on pydoc_topics where no general text is at hand.
    """

    def __init__(
        self, parts: Sequence[str] | str, *, data_dir: str | None, limit: int | None
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
        if limit is not None and limit < 1:
            raise TaskError(f"task.forgetting_limit is {limit}; it must be at least 1, or null")
        self.names = names
        self.data_dir = data_dir
        self.limit = limit
        self._resolved: list[str] | None = None

    def prepare(self) -> None:
        """Check that the sets are there. Raises TaskError."""
        for name in self._parts():
            for source, split in _sets(name):
                try:
                    require(source, split, self.data_dir)
                except TaskError as error:
                    raise TaskError(
                        f"task.forgetting: {error} task.forgetting=auto takes what is at hand."
                    ) from error

    def scorers(self) -> list[Scorer]:
        return [self._scorer(name) for name in self._parts()]

    def data_card(self) -> list[dict[str, Any]]:
        return [entry for name in self._parts() for entry in self._cards(name)]

    def _parts(self) -> list[str]:
        if self.names != ["auto"]:
            return self.names
        if self._resolved is None:
            found = [name for name in AUTO if all(self._at_hand(*s) for s in _sets(name))]
            text = [] if "wikitext2" in found else ["pydoc_topics"]
            self._resolved = text + found
        return self._resolved

    def _at_hand(self, source: Source, split: str) -> bool:
        try:
            require(source, split, self.data_dir)
        except TaskError:
            if source.path(split, self.data_dir) is not None:
                raise  # it is there, but broken: that is not to be passed over
            return False
        return True

    def _scorer(self, name: str) -> Scorer:
        if name in HARNESS_PARTS:
            return scorer(name, limit=self.limit, data_dir=self.data_dir)
        titles, texts = zip(*self._texts(name), strict=True)
        key = {"set": name, "fingerprint": text_fingerprint(texts)}
        return TextScorer(name, texts, ids=titles, key=key)

    def _texts(self, name: str) -> list[tuple[str, str]]:
        """(title, text) of a general text set, cut where there is a limit."""
        if name == "pydoc_topics":
            texts = pydoc_topics()
        else:
            ((source, split),) = _sets(name)
            column = load(source, split, self.data_dir)["text"]
            texts = (
                articles(column)
                if name == "wikitext2"
                else [(f"{name}/{i}", text) for i, text in enumerate(column)]
            )
        if self.limit is None:
            return texts
        return [(title, text[:CHARACTERS_WITH_LIMIT]) for title, text in texts[: self.limit]]

    def _cards(self, name: str) -> list[dict[str, Any]]:
        if name != "pydoc_topics":
            return [
                card(source, split, load(source, split, self.data_dir), self.data_dir)
                for source, split in _sets(name)
            ]
        texts = [text for _, text in pydoc_topics()]
        return [
            {
                "name": name,
                "hub_id": None,
                "revision": f"Python {platform.python_version()}",
                "licence": "PSF",
                "columns": ["topic", "text"],
                "rows": len(texts),
                "fingerprint": text_fingerprint(texts),
                "path": None,
                "notes": "the topics of CPython's help()",
            }
        ]


def pydoc_topics() -> list[tuple[str, str]]:
    """(topic, text) of CPython's help(), by topic."""
    from pydoc_data.topics import topics

    return sorted(topics.items())


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


def _sets(name: str) -> Sequence[tuple[Source, str]]:
    if name == "pydoc_topics":
        return []
    return [(SETS[name], TEXT_SETS[name])] if name in TEXT_SETS else SCORES[name].sources
