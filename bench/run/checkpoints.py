"""Checkpoints: whole or not there, checked by checksum, the last two kept.

A checkpoint is a folder checkpoint-STEP. It is written under another name and renamed when
everything in it is on the disk; manifest.json holds the sha256 of each file. Weights are
safetensors; the Trainer's own files are read with weights_only=True.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError
from bench.run import folders

KEPT = 2
WEIGHTS, HISTORY, MANIFEST = "state.safetensors", "history.json", "manifest.json"
T = TypeVar("T")
log = logging.getLogger(__name__)


@contextmanager
def writing(parent: Path, number: int) -> Iterator[Path]:
    """A folder to fill; on leaving it becomes ``parent/checkpoint-NUMBER``, and old ones go.

    A disk that is full leaves the older checkpoints as they are: training goes on with a warning.
    """
    try:
        for left_behind in parent.glob(f"{folders.DRAFT}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        with folders.replacing(parent / f"checkpoint-{number}") as draft:
            yield draft
            sums = {p.name: _sha256(p) for p in sorted(draft.iterdir()) if p.is_file()}
            (draft / MANIFEST).write_text(json.dumps(sums))
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise  # not what torch.save makes of a disk that is full
        log.warning("checkpoint at step %d not written in %s: %s", number, parent, str(error))
        return
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
    """Write the method's state as safetensors and the history as JSON into ``folder``."""
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS)
    (folder / HISTORY).write_text(json.dumps(asdict(history)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """{name: tensor on the CPU} of the method's state, as ``save_state`` wrote it."""
    return load_file(folder / WEIGHTS)


def load_history(folder: Path, kind: Callable[..., T]) -> T:
    """The saved history, as an object of class ``kind``.

    Raises UserError where its fields are another version's, or the file is no JSON.
    """
    try:
        return kind(**json.loads((folder / HISTORY).read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / HISTORY} is from another version ({error}); delete {folder.parent} to "
            "start the cell over."
        ) from None


def _all(parent: Path) -> list[Path]:
    return [f for f in parent.glob("checkpoint-*") if f.is_dir() and f.name[11:].isdigit()]


def step(folder: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


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
