"""Record files: written whole or not at all, read with every doubt named, found below a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import UserError
from bench.records.checks import Mismatch, unwritable
from bench.records.fields import Record, check
from bench.records.redact import redact

_FILE_NAME = re.compile(r"[0-9a-f]{16}\.json")
_ALMOST = re.compile(r"[0-9a-fA-F]{16}.*\.json")
_TIMES = {
    "seconds", "tokens_per_second", "peak_memory_bytes", "kept_bytes", "started", "finished"
}  # fmt: skip


def same(a: Record, b: Record) -> bool:
    """Whether two records agree in everything but times (seconds, tokens/s, memory, dates)."""
    return not differences(a, b)


def differences(a: Record, b: Record) -> list[str]:
    """Names of the fields, times apart, in which two records differ."""
    return list(_differences(a, b, ""))


def _differences(a: Any, b: Any, name: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if _is_time(key) and not name.startswith("config"):
                continue
            field = f"{name}.{key}" if name else key
            if key not in a or key not in b:
                yield field
            else:
                yield from _differences(a[key], b[key], field)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _differences(left, right, f"{name}[{i}]")
    elif type(a) is not type(b) or a != b:
        yield name


def _is_time(key: str) -> bool:
    return key in _TIMES or key.endswith("_seconds")


def prepare_folder(folder: str | Path) -> Path:
    """Make the folder and try to write in it. Raises UserError naming it; leaves nothing."""
    folder = Path(folder)
    probe = folder / f".probe.{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        _cannot_write(folder, error)
    return folder


def write(record: Record, folder: str | Path) -> Path:
    """Check the record and write it as `<folder>/<cell>.json`, all of it or nothing.

    Secrets of the environment are taken out here, and nowhere else.

    Raises UserError: a field is wrong (nothing is written), or the folder cannot be written
    to or is full (an older record of the cell stays as it was).
    """
    record = redact(record)
    check(record, "record")
    path = Path(folder) / f"{record['cell']}.json"
    atomic_write(path, _encode(record, path))
    return path


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file by `data` in one step, on the disk before this returns.

    Raises UserError naming the folder; no temporary file stays behind.
    """
    # The hidden name lies in the same folder, since a rename is atomic only within one disk.
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        _cannot_write(path.parent, error, path.name)


def _sync_folder(folder: Path) -> None:
    """Put the rename on the disk as well, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encode(record: Record, path: Path) -> bytes:
    """JSON, one line a field of the record: small, yet a diff shows what changed."""
    if wrong := unwritable(record):
        raise UserError(f"{path.name}: {wrong}")
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, ensure_ascii=False)}"
        for key, value in record.items()
    ]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")


def read(path: str | Path, *, head_only: bool = False) -> Record:
    """The record in the file, checked. head_only: curves, examples, spectrum unchecked.

    Raises UserError naming the file and what is wrong: missing, torn, foreign, NaN, a field.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Mismatch as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a complete JSON file ({error}); it was torn or is no record. "
            "Delete it and run the cell again"
        ) from None
    check(record, path, head_only=head_only)
    if path.name != f"{record['cell']}.json":
        raise UserError(f"{path}: holds the record of cell {record['cell']}; its name must be that")
    return record


def complete(path: str | Path) -> bool:
    """Whether the cell need not run (again): its record is there, and says ok or diverged.

    A diverged cell diverges again; a failed or skipped one may do better.
    Raises UserError where a file is there that is no record.
    """
    return Path(path).exists() and read(path)["status"] in ("ok", "diverged")


def find(path: str | Path) -> list[Path]:
    """Record files (`<16 hex>.json`) at or below the path, sorted.

    Folders that hold none are left out: see holds_none.

    Raises UserError: no such path, or a file that has the name of a record almost.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found: list[str] = []
    for folder, folders, names in os.walk(path, onerror=_cannot_list):
        folders[:] = [name for name in folders if not holds_none(name)]
        for name in names:
            if _FILE_NAME.fullmatch(name):
                found.append(os.path.join(folder, name))
            elif _ALMOST.fullmatch(name):
                raise UserError(
                    f"{os.path.join(folder, name)}: looks like a record, but records are named "
                    "<16 hex digits>.json; rename it, or move it elsewhere"
                )
    return [Path(name) for name in sorted(found)]


def holds_none(folder: str) -> bool:
    """Whether a folder of this name below one of records has none: a hidden one, a cell's
    checkpoints, which come and go, and what W&B keeps.
    """
    return folder.startswith(".") or folder.endswith(".checkpoints") or folder == "wandb"


def _refuse_constant(name: str) -> NoReturn:
    raise Mismatch(f"holds {name}, which is no JSON; numbers in a record are finite or null")


def _cannot_list(error: OSError) -> None:
    if error.errno == errno.ENOENT:  # removed since it was listed
        return
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")


def _cannot_write(folder: Path, error: OSError, name: str = "") -> NoReturn:
    what = f" {name}" if name else ""
    raise UserError(
        f"cannot write{what} in {folder}: {error.strerror or error}. Make room or the right to "
        "write there, or choose another folder"
    ) from None
