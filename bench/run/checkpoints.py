"""Checkpoints: whole or not there, checked by checksum, the last two kept.

A checkpoint is a folder checkpoint-STEP. It is written under another name and renamed when
everything in it is on the disk; manifest.json holds the sha256 of each file. Weights are
safetensors; the Trainer's own files are read with weights_only=True.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError

KEPT = 2
WEIGHTS, HISTORY, MANIFEST = "state.safetensors", "history.json", "manifest.json"
DRAFT = ".writing-"
T = TypeVar("T")
log = logging.getLogger(__name__)


@contextmanager
def writing(parent: Path, number: int) -> Iterator[Path]:
    """A folder to fill; on leaving it becomes ``parent/checkpoint-NUMBER``, and old ones go.

    A disk that is full leaves the older checkpoints as they are: training goes on with a warning.
    """
    target, draft = parent / f"checkpoint-{number}", parent / f"{DRAFT}{secrets.token_hex(4)}"
    try:
        for left_behind in parent.glob(f"{DRAFT}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        _seal(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        _sync(parent)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise  # not what torch.save makes of a disk that is full
        log.warning("checkpoint at step %d not written in %s: %s", number, parent, str(error))
        return
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in sorted(_all(parent), key=step)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def newest(parent: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; broken ones are named."""
    for folder in sorted(_all(parent), key=step, reverse=True):
        broken = _broken(folder)
        if broken is None:
            return folder
        log.warning("%s is broken (%s); it is passed over.", folder, broken)
    return None


def save_state(folder: Path, weights: dict[str, Tensor], history: Any) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS)
    (folder / HISTORY).write_text(json.dumps(asdict(history)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def load_history(folder: Path, kind: Callable[..., T]) -> T:
    try:
        return kind(**json.loads((folder / HISTORY).read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / HISTORY} is from another version ({error}); delete {folder.parent} to "
            "start the cell over."
        ) from None


def discard(parent: Path) -> None:
    """Remove a finished cell's checkpoints."""
    shutil.rmtree(parent, ignore_errors=True)


def _all(parent: Path) -> list[Path]:
    return [f for f in parent.glob("checkpoint-*") if f.is_dir() and f.name[11:].isdigit()]


def step(folder: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def _seal(folder: Path) -> None:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sums = {p.name: _sha256(p) for p in files}
    with (folder / MANIFEST).open("w") as handle:
        json.dump(sums, handle)
        handle.flush()
        os.fsync(handle.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Put the names in the folder on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _broken(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        for name, checksum in sums.items():
            if _sha256(folder / name) != checksum:
                return f"{name} has changed"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None if sums else "it is empty"


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
