"""Folders that are whole or not there (checkpoints, models that are kept), and the cache."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRAFT = ".writing-"  # how the name of a folder begins that is being filled


def cache_folder() -> Path:
    """The folder for everything that is made once and used again."""
    if own := os.environ.get("MORA_BENCH_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "mora-bench"


def kept_folder(part: str) -> Path:
    """The cache's folder of one kind of thing; MORA_BENCH_BASE_SCORES and such move it."""
    own = os.environ.get(f"MORA_BENCH_{part.upper()}")
    return Path(own).expanduser() if own else cache_folder() / part


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder to fill; on leaving it takes ``target``'s place, on the disk before this returns.

    It lies beside ``target`` in the meantime. Where something goes wrong inside, ``target`` stays
    as it was and nothing is left behind. Raises OSError where the disk does not let it.
    """
    draft = target.parent / f"{DRAFT}{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        yield draft
        for file in draft.iterdir():
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        _sync(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Put the names in the folder on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
