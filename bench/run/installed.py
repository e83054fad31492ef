"""What of the installed code a kept answer rests on. Nothing is imported to tell."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path


@cache
def version(package: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


@cache
def code(package: str, *patterns: str) -> str:
    """A hash of the names and bytes of a package's files: Python, and what the patterns name."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    top, digest = Path(spec.origin).parent, hashlib.sha256()
    for file in sorted(f for pattern in ("*.py", *patterns) for f in top.rglob(pattern)):
        digest.update(f"{file.relative_to(top).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
