"""Scores of untouched models: each a record of its own, computed once for all cells and sweeps.

`<folder>/base-<id>.json`, named by a hash of all that determines the score. The file spells that
out in full, and whoever reads it compares: a score is never taken for another's. Of several
processes that want one at the same time, the first computes it and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bench import records
from bench.errors import UserError
from bench.run import distributed, installed, interrupts
from bench.run.device import Placement
from bench.run.folders import kept_folder
from tasks.base import Metric, Scorer

Metrics = dict[str, Metric]

# Another version of one of these may score another way.
PACKAGES = ("lm_eval", "tokenizers", "torch", "transformers")
SECONDS_BETWEEN_LOOKS = 0.2


def identity(
    base: Mapping[str, Any] | None,
    scorer: Scorer,
    placement: Placement,
    dtype: torch.dtype,
    batch_size: int,
) -> dict[str, Any] | None:
    """What determines a scorer's metrics of an untouched model, as plain values.

    base: LoadedModel.identity. None where that is not known, or neither the content of the scorer
    nor a key of its own: such a score is computed for each cell.
    """
    key, content = scorer.cache_key(), _content(scorer)
    if base is None or (content is None and key is None):
        return None
    what = {
        "base": base,
        "dtype": str(dtype).removeprefix("torch."),
        "device": placement.describe(),
        "precision": placement.precision,
        "batch_size": batch_size,
        "scorer": {
            "class": f"{type(scorer).__module__}.{type(scorer).__qualname__}",
            "name": scorer.name,
            "content": content,
            "key": key,
        },
        "versions": {package: installed.version(package) for package in PACKAGES},
        "code": installed.code("tasks", "*.yaml"),  # what a scorer asks and how it counts
    }
    plain: dict[str, Any] = json.loads(json.dumps(what))
    return plain


def once(what: dict[str, Any] | None, compute: Callable[[], Metrics]) -> Metrics:
    """The metrics of the identity ``what``: from their record, or computed and recorded.

    None is computed. In several processes of one cell the first decides for all. A folder that
    can't be written to is done without.
    """
    if what is None:
        return compute()
    file = kept_folder("base_scores") / f"base-{records.cell_id(what)}.json"
    with _turn(file) if distributed.first() else nullcontext():
        found: Metrics | None = distributed.tell(_read(file, what))
        if found is None:
            begin = time.perf_counter()
            found = compute()
            if distributed.first():
                _write(file, what, found, time.perf_counter() - begin)
    return found


def _content(scorer: Scorer) -> str | None:
    """A hash of what a scorer holds; None where that can't be told, as of a closure.

    The folder of its data is left out: the key has a fingerprint of what lies there.
    """
    digest = hashlib.sha256()
    try:
        _feed(digest, {k: v for k, v in vars(scorer).items() if k != "data_dir"})
    except TypeError:
        return None
    return digest.hexdigest()[:32]


def _feed(digest: Any, value: Any) -> None:
    """Add a value to a hash, types and lengths included. Raises TypeError: no way to."""
    digest.update(f"{type(value).__name__}:".encode())
    if isinstance(value, Mapping):
        _feed(digest, list(value.items()))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(f"{len(value)}:".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, torch.Tensor):
        _feed(digest, value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}:".encode() + value.tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(value)})
    elif value is None or isinstance(value, str | bytes | bool | int | float | os.PathLike):
        text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        digest.update(f"{len(text)}:".encode() + text)
    else:
        raise TypeError(f"the content of a {type(value).__name__} is not known")


def _read(file: Path, what: Mapping[str, Any]) -> Metrics | None:
    """The kept metrics; None where there are none, or the file is torn or of another identity."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["identity"] != what:
            return None
        return {name: Metric(**values) for name, values in kept["metrics"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(file: Path, what: Mapping[str, Any], metrics: Metrics, seconds: float) -> None:
    """Record the metrics, whole or not at all."""
    record = {
        "identity": what,
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "seconds": seconds,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(UserError):
        records.atomic_write(file, json.dumps(record).encode())


@contextmanager
def _turn(file: Path) -> Iterator[None]:
    """Inside, no other process computes this score, where the folder can be locked.

    The lock ends with the process that holds it. Raises Stopped where this one is to leave.
    """
    lock = file.with_suffix(".lock")
    held = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while held is None:
            interrupts.leave_if_requested()
            held = _try(lock)
            if held is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except OSError:  # no such folder, or one that knows no locks
        pass
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                lock.unlink()
            held.close()


def _try(lock: Path) -> IO[str] | None:
    """The locked file, or None: another process has it, or took it away as we opened it."""
    opened = lock.open("a")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(opened.fileno()), lock.stat()):
            return opened
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        opened.close()
        raise
    opened.close()
    return None
