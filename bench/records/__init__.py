"""Records: one JSON file a cell, written once and whole, checked on writing and on reading.

A record is a plain dict (its fields: `SCHEMA`), its file is `<folder>/<cell>.json`, and `cell`
is the hash of everything that determines the result (`cell_id`). Nothing in a record is ever
executed; a file that is torn, foreign or holds NaN is named and refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]
Check = Callable[[Any, str], None]  # a value and the name of its field; raises _Mismatch

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged", "failed", "skipped")

_FILE_NAME = re.compile(r"[0-9a-f]{16}\.json")
_PRETENDER = re.compile(r"[0-9a-fA-F]{16}.*\.json")
_TIMES = {"seconds", "tokens_per_second", "peak_memory_bytes", "started", "finished"}


class _Mismatch(ValueError):
    """A field that is not as the schema has it; the caller adds the name of the file."""


# ---------------------------------------------------------------------------- schema


def _is(kind: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            field = f"field {name}" if name else "the record"
            raise _Mismatch(f"{field} is {_short(value)}; expected {words}")

    return check


def _number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Mismatch(f"field {name} is {_short(value)}; expected a finite number")


def _or_null(check: Check) -> Check:
    def checked(value: Any, name: str) -> None:
        if value is not None:
            check(value, name)

    return checked


def _one_of(*allowed: Any) -> Check:
    def check(value: Any, name: str) -> None:
        if value not in allowed or isinstance(value, bool):
            words = " or ".join(map(repr, allowed))
            raise _Mismatch(f"field {name} is {_short(value)}; expected {words}")

    return check


def _list_of(check: Check) -> Check:
    def checked(value: Any, name: str) -> None:
        _is(list, "a list")(value, name)
        for i, item in enumerate(value):
            check(item, f"{name}[{i}]")

    return checked


def _numbers(value: Any, name: str) -> None:
    """As _list_of(_number), fast enough for the singular values of hundreds of layers."""
    _is(list, "a list of numbers")(value, name)
    try:
        if all(map(math.isfinite, value)):
            return
    except (TypeError, OverflowError):
        pass
    _list_of(_number)(value, name)


def _table_of(check: Check) -> Check:
    def checked(value: Any, name: str) -> None:
        _object(value, name)
        for key, item in value.items():
            check(item, f"{name}.{key}")

    return checked


def _fields(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object that has all of `fields`; more keys than those are welcome."""

    def checked(value: Any, name: str) -> None:
        _object(value, name)
        prefix = f"{name}." if name else ""
        for key, check in fields.items():
            if key not in value:
                raise _Mismatch(f"field {prefix}{key} is missing")
            check(value[key], f"{prefix}{key}")
        for key, check in (optional or {}).items():
            if key in value:
                check(value[key], f"{prefix}{key}")

    return checked


def _points(value: Any, name: str) -> None:
    """Points of a curve: a step and numbers (or null: not measured, or not finite)."""
    _is(list, "a list")(value, name)
    for i, point in enumerate(value):
        _object(point, f"{name}[{i}]")
        _integer(point.get("step"), f"{name}[{i}].step")
        for key, number in point.items():
            if type(number) is float and math.isfinite(number):
                continue
            if key == "metrics":
                _table_of(_or_null(_number))(number, f"{name}[{i}].{key}")
            elif number is not None:
                _number(number, f"{name}[{i}].{key}")


_object = _is(dict, "an object")
_text = _is(str, "text")
_integer = _is(int, "a whole number")
_flag = _is(bool, "true or false")

_METRIC = _fields(
    {
        "value": _number,
        "n": _integer,
        "higher_is_better": _flag,
        "unit": _text,
        "chance": _or_null(_number),
    }
)
_FORGOTTEN = _fields({"before": _number, "after": _number, "drop": _number, "n": _integer})
_LAYER = _fields(
    {
        "kind": _text,
        "singular_values": _numbers,
        "above_0.1": _integer,
        "effective_rank": _number,
        "frobenius": _number,
    }
)

# What every reader needs, and the parts that grow with the length of a run.
_HEAD: dict[str, Check] = {
    "schema_version": _one_of(SCHEMA_VERSION),
    "cell": _text,
    "status": _one_of(*STATUSES),
    "reason": _or_null(_text),
    "experiment": _text,
    "scale": _text,
    "command": _text,
    "config": _object,
    "method": _fields(
        {
            "name": _text,
            "label": _text,
            "rank": _or_null(_integer),
            "learning_rate": _or_null(_number),
            "settings": _object,
        }
    ),
    "model": _fields(
        {"name": _text, "label": _text, "source": _or_null(_text), "revision": _or_null(_text)}
    ),
    "task": _fields(
        {"name": _text, "label": _text, "settings": _object, "data": _list_of(_object)}
    ),
    "seed": _integer,
    "parameters": _fields(
        {
            "trainable": _or_null(_integer),
            "total": _or_null(_integer),
            "adapter_bytes": _or_null(_integer),
        }
    ),
    "metrics": _table_of(_METRIC),
    "before": _table_of(_METRIC),
    "forgetting": _or_null(_fields({"mean_drop": _number, "parts": _table_of(_FORGOTTEN)})),
    "cost": _fields(
        dict.fromkeys(
            (
                "setup_seconds",
                "training_seconds",
                "scoring_seconds",
                "tokens",
                "tokens_per_second",
                "peak_memory_bytes",
            ),
            _or_null(_number),
        )
    ),
    "merge_audit": _or_null(_fields({"max_abs": _number, "mean_abs": _number, "dtype": _text})),
    "environment": _fields(
        {"device": _or_null(_text), "precision": _or_null(_text), "versions": _object}
    ),
    "started": _text,
    "finished": _text,
}
_BULK: dict[str, Check] = {
    "curves": _fields({"train": _points, "scores": _points}),
    "examples": _table_of(_numbers),
    "spectrum": _or_null(_fields({"layers": _table_of(_LAYER)})),
}
_OPTIONAL: dict[str, Check] = {"example_ids": _table_of(_list_of(_text))}

SCHEMA: Check = _fields({**_HEAD, **_BULK}, _OPTIONAL)
_HEAD_ONLY: Check = _fields(_HEAD | dict.fromkeys(_BULK, lambda value, name: None))


def blank(**known: Any) -> Record:
    """A record with every field there is, empty but for what is `known`.

    For cells that end before all of it is known (failed, skipped, diverged).
    """
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "cell": "",
        "status": "failed",
        "reason": None,
        "experiment": "",
        "scale": "",
        "command": "",
        "config": {},
        "method": {},
        "model": {},
        "task": {},
        "seed": 0,
        "parameters": dict.fromkeys(("trainable", "total", "adapter_bytes")),
        "metrics": {},
        "before": {},
        "forgetting": None,
        "curves": {"train": [], "scores": []},
        "examples": {},
        "cost": dict.fromkeys(
            (
                "setup_seconds",
                "training_seconds",
                "scoring_seconds",
                "tokens",
                "tokens_per_second",
                "peak_memory_bytes",
            )
        ),
        "merge_audit": None,
        "spectrum": None,
        "environment": {"device": None, "precision": None, "versions": {}},
        "started": "",
        "finished": "",
    }
    return record | known


def check(record: Any, where: str | Path = "record", *, head_only: bool = False) -> None:
    """Raise UserError naming `where` and the first field that is not as the schema has it.

    head_only leaves out what grows with the length of a run: curves, examples, spectrum.
    """
    try:
        (_HEAD_ONLY if head_only else SCHEMA)(record, "")
        if not re.fullmatch("[0-9a-f]{16}", record["cell"]):
            raise _Mismatch(
                f"field cell is {_short(record['cell'])}; expected 16 hexadecimal digits"
            )
        if record["status"] != "ok" and not record["reason"]:
            raise _Mismatch(f"field reason is empty, but the status is {record['status']!r}")
        for name, ids in record.get("example_ids", {}).items():
            if not head_only and len(ids) != len(record["examples"].get(name, [])):
                raise _Mismatch(f"field example_ids.{name} does not fit examples.{name}")
    except _Mismatch as error:
        raise UserError(f"{where}: {error}") from None


# ---------------------------------------------------------------------------- identity


def cell_id(what: Mapping[str, Any]) -> str:
    """16 hex digits that name a cell: a hash of `what` determines its result.

    The order of keys does not matter, nor whether a number is written 1 or 1.0.
    Raises UserError for values JSON has no form for, NaN and infinities among them.
    """
    if wrong := _unwritable(what):
        raise UserError(f"configuration: {wrong}")
    text = json.dumps(_canonical(what), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


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


# ---------------------------------------------------------------------------- files


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

    Raises UserError: a field is wrong (nothing is written), or the folder cannot be written
    to or is full (an older record of the cell stays as it was).
    """
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
    if wrong := _unwritable(record):
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
    except _Mismatch as error:
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
    """Record files (`<16 hex>.json`) at or below the path, sorted; hidden folders are left out.

    Raises UserError: no such path, or a file that has the name of a record almost.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found: list[str] = []
    for folder, folders, names in os.walk(path, onerror=_cannot_list):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _FILE_NAME.fullmatch(name):
                found.append(os.path.join(folder, name))
            elif _PRETENDER.fullmatch(name):
                raise UserError(
                    f"{os.path.join(folder, name)}: looks like a record, but records are named "
                    "<16 hex digits>.json; rename it, or move it elsewhere"
                )
    return [Path(name) for name in sorted(found)]


def load(path: str | Path) -> pd.DataFrame:
    """One row a cell, for notebooks; a final metric has a column of its name.

    A cell that lies there more than once (a cell run twice) counts once, by its first file.
    Raises UserError as `find` and `read` do, and where there is no record at all.
    """
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    for file in find(path):
        record = read(file, head_only=True)
        rows.setdefault(record["cell"], _row(record, file))
    if not rows:
        raise UserError(f"{path}: no records here (files named <16 hex digits>.json)")
    frame = pd.DataFrame(list(rows.values()))
    whole = ["rank", "trainable_parameters", "total_parameters", "adapter_bytes"]
    frame[whole] = frame[whole].astype("Int64")
    order = ["experiment", "task", "model", "scale", "method", "rank", "learning_rate", "seed"]
    return frame.sort_values([*order, "cell"], ignore_index=True)


def _row(record: Record, file: Path) -> dict[str, Any]:
    method, cost, parameters = record["method"], record["cost"], record["parameters"]
    forgetting = record["forgetting"]
    return {
        "cell": record["cell"],
        "experiment": record["experiment"],
        "method": method["name"],
        "label": method["label"],
        "task": record["task"]["name"],
        "model": record["model"]["name"],
        "scale": record["scale"],
        "seed": record["seed"],
        "rank": method["rank"],
        "learning_rate": method["learning_rate"],
        "status": record["status"],
        "reason": record["reason"],
        "trainable_parameters": parameters["trainable"],
        "total_parameters": parameters["total"],
        "adapter_bytes": parameters["adapter_bytes"],
        "tokens_per_second": cost["tokens_per_second"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "training_seconds": cost["training_seconds"],
        "forgetting": None if forgetting is None else forgetting["mean_drop"],
        "file": str(file),
    } | {name: metric["value"] for name, metric in record["metrics"].items()}


# ---------------------------------------------------------------------------- messages


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise _Mismatch(f"holds {name}, which is no JSON; numbers in a record are finite or null")


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")


def _cannot_write(folder: Path, error: OSError, name: str = "") -> NoReturn:
    what = f" {name}" if name else ""
    raise UserError(
        f"cannot write{what} in {folder}: {error.strerror or error}. Make room or the right to "
        "write there, or choose another folder"
    ) from None


def _unwritable(value: Any, name: str = "") -> str:
    """Names the first field that JSON has no form for."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"key {key!r} of {name or 'the top level'} is not text"
            if found := _unwritable(item, f"{name}.{key}" if name else key):
                return found
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if found := _unwritable(item, f"{name}[{i}]"):
                return found
    elif isinstance(value, float) and not math.isfinite(value):
        return f"field {name} is {value}; numbers in a record are finite or null"
    elif value is not None and not isinstance(value, (str, int, float)):
        return f"field {name} is a {type(value).__name__}, which JSON has no form for"
    return ""
