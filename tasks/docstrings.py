"""A text corpus that every installation carries: the docstrings of scientific Python packages.

Sources are parsed, never imported. The corpus is split by module, so that no held-out docstring has
a neighbour of its own file in training.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.data import Missing
from tasks.errors import TaskError

PACKAGES = ("numpy", "scipy", "pandas")
MIN_CHARACTERS = 300
HELD_OUT = 10  # one module in ten
SKIPPED = {"tests", "test", "testing", "_vendor", "vendored", "conftest"}

CLOZE_CHOICES = 4
CLOZE_WORDS_BEFORE = 40
CLOZE_NAME_LENGTH = 5  # shorter names are words of English too often
CLOZE_A_DOCUMENT = 2


def is_held_out(name: str) -> bool:
    """Whether a module or document of a name is held out: one in ten, the same ones always."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0


@dataclass(frozen=True)
class Document:
    """One documented object: its qualified name and signature, then its docstring."""

    name: str  # numpy.linalg._linalg.norm
    module: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document's module is kept out of training."""
        return is_held_out(self.module)

    @property
    def short_name(self) -> str:
        """The object's own name, without its module: norm."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Cloze:
    """The text of a held-out docstring up to an API name, and names to choose from."""

    document: str
    context: str
    choices: list[str]
    answer: int


def package_version(package: str) -> str:
    """An installed package's name and version, for the data card."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (no version)"


def package_root(package: str) -> Path:
    """The folder of an installed package. Raises TaskError where there is none."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.origin.endswith("__init__.py"):
        raise TaskError(
            f"task.packages names {package!r}, which is not an installed package; install it or "
            "leave it out"
        )
    return Path(spec.origin).parent


def lacking_packages(packages: Sequence[str]) -> Iterator[Missing]:
    """Those of the packages that are not installed."""
    for package in packages:
        try:
            package_root(package)
        except TaskError as error:
            yield Missing(package, "it is not an installed package", str(error))


def documents(packages: Sequence[str], max_documents: int | None = None) -> list[Document]:
    """The docstrings of at least MIN_CHARACTERS of the packages, by file and line; no text twice.

    max_documents: so many, chosen at random but the same in every run.
    """
    every = list(_distinct(tuple(packages), held_out_alone=False))
    if max_documents is not None and max_documents < len(every):
        kept = sorted(random.Random(0).sample(range(len(every)), max_documents))
        every = [every[i] for i in kept]
    return every


def held_out_documents(packages: Sequence[str]) -> list[Document]:
    """The docstrings of the held-out modules; only those are parsed, a tenth of the work.

    A text that a training module has as well, which `documents` gives to the first of them, is
    among them.
    """
    return list(_distinct(tuple(packages), held_out_alone=True))


@cache  # parsing takes seconds, and a grid asks again in each cell
def _distinct(packages: tuple[str, ...], *, held_out_alone: bool) -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    with _no_collection():
        for package in packages:
            for document in _package_documents(package, held_out_alone):
                found.setdefault(document.text.partition("\n\n")[2], document)
    return tuple(found.values())


@contextmanager
def _no_collection() -> Iterator[None]:
    """Inside, Python looks for no cycles of garbage: syntax trees have none, and are many objects.

    Looking through all that is loaded, again and again, takes longer than parsing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _package_documents(package: str, held_out_alone: bool) -> Iterator[Document]:
    root = package_root(package)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(part in SKIPPED or part.startswith("test_") for part in parts):
            continue
        module = ".".join([package, *(part for part in parts if part != "__init__")])
        if held_out_alone and not is_held_out(module):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # templates and files for another Python: no docstring to be had
            continue
        yield from _documents(tree, module)


def _documents(tree: ast.Module, module: str) -> Iterator[Document]:
    def visit(node: ast.AST, name: str) -> Iterator[Document]:
        text = ast.get_docstring(node)  # type: ignore[arg-type]
        if text is not None and len(text) >= MIN_CHARACTERS:
            signature = (
                f"({ast.unparse(node.args)})"
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                else ""
            )
            yield Document(name, module, f"{name}{signature}\n\n{text}\n")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from visit(child, f"{name}.{child.name}")

    yield from visit(tree, module)


def cloze_items(corpus: Sequence[Document], limit: int | None = None) -> list[Cloze]:
    """Questions on the API names that held-out docstrings mention, in backquotes or in See Also.

    The right name is documented in the training part and occurs in the context for the first time;
    the wrong ones are documented names of the same package and of like length that the document
    does not hold. So the answer is known from training text, never copied from the context.
    """
    known: dict[str, set[str]] = {}
    for document in corpus:
        name = document.short_name
        if not document.held_out and _usable(name):
            known.setdefault(document.module.partition(".")[0], set()).add(name)
    items = [
        item
        for document in corpus
        if document.held_out
        for item in _document_items(document, known.get(document.module.partition(".")[0], set()))
    ]
    if limit is not None and limit < len(items):
        kept = sorted(random.Random(0).sample(range(len(items)), limit))
        items = [items[i] for i in kept]
    return items


def _document_items(document: Document, names: set[str]) -> Iterator[Cloze]:
    rng = random.Random(document.name)
    count = 0
    for name, start in _mentions(document.text):
        context = document.text[:start]
        if name not in names or _holds(context, name) or len(context.split()) < CLOZE_WORDS_BEFORE:
            continue
        others = sorted(
            other
            for other in names
            if abs(len(other) - len(name)) <= 2
            and other[0].isupper() == name[0].isupper()
            and not _holds(document.text, other)
        )
        if len(others) < CLOZE_CHOICES - 1:
            continue
        choices = [name, *rng.sample(others, CLOZE_CHOICES - 1)]
        rng.shuffle(choices)
        yield Cloze(document.name, context, choices, choices.index(name))
        count += 1
        if count == CLOZE_A_DOCUMENT:
            return


def _mentions(text: str) -> list[tuple[str, int]]:
    """(name, where it starts) of the names in backquotes and at the head of See Also entries."""
    found = list(re.finditer(r"`~?(?:\w+\.)*(\w+)(?:\(\))?`", text))
    section = re.search(r"^See Also\n-+\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    if section:
        entry = re.compile(r"^(?:\w+\.)*(\w+) *(?=:|$)", re.MULTILINE)
        found += entry.finditer(text, section.start(1), section.end(1))
    return sorted(((m[1], m.start(1)) for m in found), key=lambda mention: mention[1])


def _usable(name: str) -> bool:
    return len(name) >= CLOZE_NAME_LENGTH and not name.startswith("_")


def _holds(text: str, name: str) -> bool:
    # Most names don't stand there, and `in` needs no pattern compiled to tell.
    return name in text and re.search(rf"\b{re.escape(name)}\b", text) is not None
