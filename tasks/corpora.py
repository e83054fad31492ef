"""Text that every installation carries, nearer to and farther from what a base model has read.

docs: docstrings of scientific packages; topics: CPython's help() topics, in English;
python_source: the standard library; cpp_headers: torch's own C++ headers; permuted_docs: docstrings
whose characters are exchanged by one fixed permutation, so that their statistics stay and nothing
that was learnt of letters helps; half_permuted_docs: the same for the letters n to z alone. How
far each is from a base is measured, not assumed: by the bits per byte that the base needs before
training. One file or module in ten, one topic in six is held out.
"""

from __future__ import annotations

import importlib.util
import platform
import random
import string
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.data import Missing, text_fingerprint
from tasks.docstrings import (
    PACKAGES,
    documents,
    is_held_out,
    lacking_packages,
    package_root,
    package_version,
)

SKIPPED_SOURCE = {"site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip"}
TOPICS_TO_ONE = 6  # there are 79: a tenth would be too few to score
HEADERS = ("c10", "ATen", "torch")  # folders of torch/include; ATen/ops is generated
PERMUTED = string.printable[:95] + "\n"  # what is exchanged; other characters stay
HALF = string.ascii_lowercase[13:]


@dataclass(frozen=True)
class Text:
    """One document of a corpus."""

    title: str
    text: str
    held_out: bool


@dataclass(frozen=True)
class Corpus:
    """A named body of text, where it comes from, and how it is read (within seconds)."""

    label: str
    licence: str
    notes: str
    read: Callable[[], tuple[Text, ...]]
    revision: Callable[[], str]
    lacking: Callable[[], Iterator[Missing]]

    def card(self, name: str, texts: Sequence[str]) -> dict[str, Any]:
        """What the record says of some of its texts; see Task.data_card."""
        return {
            "name": name,
            "hub_id": None,
            "revision": self.revision(),
            "licence": self.licence,
            "columns": ["title", "text"],
            "rows": len(texts),
            "fingerprint": text_fingerprint(texts),
            "path": None,
            "notes": self.notes,
        }


def spread(items: Sequence[Any], count: int | None) -> list[Any]:
    """`count` of the items at even distances, in their order; None: all.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def pydoc_topics() -> list[tuple[str, str]]:
    """(topic, text) of CPython's help(), by topic."""
    from pydoc_data.topics import topics

    return sorted(topics.items())


def permuted(text: str, characters: str = PERMUTED) -> str:
    """The text with these characters, ASCII, exchanged by one fixed permutation.

    Every character stays one byte, so the text is as long as before.
    """
    return text.translate(_permutation(characters))


@cache
def _permutation(characters: str) -> dict[int, int]:
    order = list(characters)
    random.Random(0).shuffle(order)
    return str.maketrans(characters, "".join(order))


@cache
def _docs() -> tuple[Text, ...]:
    return tuple(Text(d.name, d.text, d.held_out) for d in documents(PACKAGES))


@cache
def _permuted_docs() -> tuple[Text, ...]:
    return tuple(Text(d.title, permuted(d.text), d.held_out) for d in _docs())


@cache
def _half_permuted_docs() -> tuple[Text, ...]:
    return tuple(Text(d.title, permuted(d.text, HALF), d.held_out) for d in _docs())


@cache
def _topics() -> tuple[Text, ...]:
    return tuple(
        Text(title, text, index % TOPICS_TO_ONE == 0)
        for index, (title, text) in enumerate(pydoc_topics())
    )


@cache
def _python_source() -> tuple[Text, ...]:
    root = Path(sysconfig.get_path("stdlib"))
    return tuple(_files(root, sorted(root.rglob("*.py"))))


@cache
def _cpp_headers() -> tuple[Text, ...]:
    root = _include()
    paths = [path for folder in HEADERS for path in sorted((root / folder).rglob("*.h"))]
    return tuple(_files(root, [path for path in paths if "ops" not in path.parts]))


def _files(root: Path, paths: Sequence[Path]) -> Iterator[Text]:
    """The files that hold text, but for tests and what other packages put there."""
    for path in paths:
        name = path.relative_to(root)
        if SKIPPED_SOURCE & set(name.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield Text(name.as_posix(), text, is_held_out(name.as_posix()))


def _include() -> Path:
    return package_root("torch") / "include"


def _lacking_headers() -> Iterator[Missing]:
    if importlib.util.find_spec("torch") is None:
        yield from lacking_packages(["torch"])
    elif not all((_include() / folder).is_dir() for folder in HEADERS):
        why = "this torch comes without its C++ headers"
        yield Missing("cpp_headers", why, f"{why}: take another corpus")


def _nothing() -> Iterator[Missing]:
    yield from ()


def _python() -> str:
    return f"Python {platform.python_version()}"


def _packages() -> str:
    return ", ".join(map(package_version, PACKAGES))


def _lacking_docs() -> Iterator[Missing]:
    return lacking_packages(PACKAGES)


CORPORA: Mapping[str, Corpus] = {
    "docs": Corpus(
        "Docstrings",
        "as the packages",
        "docstrings, split by module",
        _docs,
        _packages,
        _lacking_docs,
    ),
    "topics": Corpus(
        "Help topics", "PSF", "the topics of CPython's help()", _topics, _python, _nothing
    ),
    "python_source": Corpus(
        "Python source",
        "PSF",
        "the standard library without its tests, split by file",
        _python_source,
        _python,
        _nothing,
    ),
    "cpp_headers": Corpus(
        "C++ headers",
        "BSD-3-Clause",
        "torch's C++ headers, split by file",
        _cpp_headers,
        lambda: f"torch {version('torch').partition('+')[0]}",
        _lacking_headers,
    ),
    "permuted_docs": Corpus(
        "Permuted docstrings",
        "as the packages",
        "docstrings, split by module, under a fixed permutation of printable characters",
        _permuted_docs,
        _packages,
        _lacking_docs,
    ),
    "half_permuted_docs": Corpus(
        "Half permuted docstrings",
        "as the packages",
        "docstrings, split by module, under a fixed permutation of the letters n to z",
        _half_permuted_docs,
        _packages,
        _lacking_docs,
    ),
}
