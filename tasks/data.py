"""Loading data sets, from the hub or from local JSON lines of the same columns, and judging them.

A set is looked for in `data_dir/<name>/` first. A local file is checked line by line before use; a
set that is neither there nor within reach on the hub is one TaskError, raised within seconds.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import hub
from tasks.errors import TaskError
from tasks.source import Source
from tasks.trouble import Trouble, Unfit, Unusable

if TYPE_CHECKING:
    import datasets

SHOWN_PROBLEMS = 5
AT_ONCE = 8  # sets that are looked at together
_CHECKED: dict[tuple[Path, int, int, str], hub.Seen] = {}  # local files found sound here


@dataclass(frozen=True)
class Missing:
    """Something that a task needs and that is not at hand; its text is a message for people.

    name: of the set or package; split: of the set; hub_id: with the configuration, or None;
    looked_in: the local file or folder that was looked for, None where no folder is set;
    why: in a clause; message: what, where, and what to do.
    """

    name: str
    why: str
    message: str
    split: str | None = None
    hub_id: str | None = None
    looked_in: str | None = None

    def __str__(self) -> str:
        return self.message


def seen(source: Source, split: str, data_dir: str | Path | None) -> hub.Seen:
    """What a split is like: a local file's, read line by line once, or one row of the hub's.

    Raises TaskError.
    """
    path = source.path(split, data_dir)
    if path is None:
        if source.hub_id is None:
            raise TaskError(_missing(source, split, data_dir, "it is on no hub"))
        return hub.look(source, split)
    state = (path, path.stat().st_mtime_ns, path.stat().st_size, split)
    if state not in _CHECKED:  # a file of gigabytes is read once
        _CHECKED[state] = check_lines(path, source, split)
    return _CHECKED[state]


def lacks(source: Source, split: str, data_dir: str | Path | None) -> Missing | None:
    """What stands in the way of loading a split; None: its local file is sound, or the hub's."""
    try:
        seen(source, split, data_dir)
    except Unusable as error:
        return _lack(source, split, data_dir, str(error), _said(source, split, data_dir, error))
    except TaskError as error:
        there = source.path(split, data_dir) is not None
        why = "broken" if there else "it is on no hub"
        return _lack(source, split, data_dir, why, str(error))
    return None


def look_at(needed: Iterable[tuple[Source, str]], data_dir: str | Path | None) -> None:
    """Open all splits at once, so that whoever asks for one afterwards does not wait."""
    every = list(needed)
    if not any(source.hub_id and source.path(s, data_dir) is None for source, s in every):
        return
    import datasets  # noqa: F401  (threads would import it at the same time)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda item: lacks(item[0], item[1], data_dir), every))


def _lack(
    source: Source, split: str, data_dir: str | Path | None, why: str, message: str
) -> Missing:
    file = source.files.get(split)
    return Missing(
        name=source.name,
        why=why,
        message=message,
        split=split,
        hub_id=None if source.hub_id is None else source.on_hub(),
        looked_in=None if data_dir is None or file is None else str(source.place(file, data_dir)),
    )


def _said(source: Source, split: str, data_dir: str | Path | None, error: Unusable) -> str:
    """One sentence: which set, what is wrong, what to do."""
    name = f"data set '{source.name}' ({split} split; hub id: {source.on_hub()})"
    if isinstance(error, Unfit):
        return f"{name} {error}."
    if isinstance(error, Trouble):
        return f"{name}: {error}."
    return _missing(source, split, data_dir, str(error))


def require(source: Source, split: str, data_dir: str | Path | None) -> None:
    """Check that a split can be loaded. Raises TaskError; see `lacks`."""
    lack = lacks(source, split, data_dir)
    if lack is not None:
        raise TaskError(str(lack))


def lacking_sets(
    needed: Iterable[tuple[Source, str]], data_dir: str | Path | None
) -> Iterator[Missing]:
    """What is missing of some (source, split), one after the other."""
    for source, split in needed:
        lack = lacks(source, split, data_dir)
        if lack is not None:
            yield lack


def load(source: Source, split: str, data_dir: str | Path | None) -> datasets.Dataset:
    """One split as a Dataset, its rows in the file's order. Raises TaskError."""
    return _opened(source, split, data_dir, lambda: hub.fetch(source, split))


def head(source: Source, split: str, data_dir: str | Path | None, count: int) -> datasets.Dataset:
    """The first rows of a split, without downloading the others. Raises TaskError."""
    data = _opened(source, split, data_dir, lambda: hub.head(source, split, count))
    return data.select(range(min(count, len(data))))


def _opened(
    source: Source,
    split: str,
    data_dir: str | Path | None,
    from_hub: Callable[[], datasets.Dataset],
) -> datasets.Dataset:
    import datasets

    require(source, split, data_dir)
    path = source.path(split, data_dir)
    if path is not None:
        try:
            with hub.quiet_datasets():
                return datasets.load_dataset("json", data_files=str(path), split="train")
        except datasets.exceptions.DatasetGenerationError as error:
            why = " ".join(str(error.__cause__ or error).split())
            raise TaskError(
                f"{path}: its lines make no table ({why}). Mend the file: a column holds values of "
                "one type throughout."
            ) from error
    try:
        return from_hub()
    except Unusable as error:
        raise TaskError(_said(source, split, data_dir, error)) from error


def card(
    source: Source, split: str, data: datasets.Dataset, data_dir: str | Path | None
) -> dict[str, Any]:
    """What the record says of one split: origin, licence, columns, rows, fingerprint."""
    path = source.path(split, data_dir)
    return {
        "name": f"{source.name}/{split}",
        "hub_id": source.hub_id,
        "revision": None if path is not None else _revision(source, split, data),
        "licence": source.licence,
        "columns": list(data.column_names),
        "rows": len(data),
        "fingerprint": data._fingerprint if path is None else file_fingerprint(path),
        # The folder's own name alone: records do not show where a machine keeps its data.
        "path": None if path is None else f"{path.parent.name}/{path.name}",
        "notes": source.notes,
    }


def part_name(name: str, rows: int, whole: int | None) -> str:
    """`name`, or `name_1000_of_5000` where only a part of the set is at hand.

    A score on a part is not a score on the benchmark, so it does not get its name.
    """
    return name if whole is None or whole == rows else f"{name}_{rows}_of_{whole}"


def file_fingerprint(path: Path) -> str:
    """The first 16 hex digits of a file's sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def state(source: Source, split: str, data_dir: str | Path | None) -> str | None:
    """What names the rows of a split: the fingerprint of its local file, or the hub's commit."""
    path = source.path(split, data_dir)
    return hub.commit(source, split) if path is None else file_fingerprint(path)


def text_fingerprint(texts: Iterable[str]) -> str:
    """The first 16 hex digits of a sha256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def check_lines(path: Path, source: Source, split: str) -> hub.Seen:
    """Refuse a JSON lines file with broken lines, missing columns, empty or duplicate rows.

    Returns how many rows it has, and the columns of the first. Raises one TaskError that names
    file, line and column of the first problems.
    """
    allowed = source.repeats.get(split, 0)
    problems: list[str] = []
    repeated: list[str] = []
    seen: dict[bytes, int] = {}
    count = 0
    columns: tuple[str, ...] = ()
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            row, problem = _row(line, source)
            if problem:
                problems.append(f"line {number}: {problem}")
                continue
            count += 1
            columns = columns or tuple(row)
            key = hashlib.blake2b(line.strip(), digest_size=12).digest()
            if key in seen and not _all_blank(row, source):
                repeated.append(f"line {number}: repeats line {seen[key]}")
            seen.setdefault(key, number)
    if allowed is not None and len(repeated) > allowed:
        problems += repeated[allowed:]
    if not problems and count == 0:
        problems = ["the file has no rows"]
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        more = len(problems) - SHOWN_PROBLEMS
        rest = f"; and {more} more" if more > 0 else ""
        raise TaskError(f"{path}: {shown}{rest}. Mend the file, or fetch it again.")
    return hub.Seen(None, count, columns)


@contextmanager
def opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines of a file, unpacked where it is compressed. A broken archive is a TaskError."""
    if path.suffix != ".zst":
        with path.open("rb") as file:
            yield file
        return
    import zstandard

    with path.open("rb") as packed:
        try:
            unpacked = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            yield io.BufferedReader(unpacked)
        except zstandard.ZstdError as error:
            raise TaskError(
                f"{path}: no whole zstandard file ({error}). Fetch it again."
            ) from error


def _row(line: bytes, source: Source) -> tuple[dict[str, Any], str | None]:
    """One parsed line and what is wrong with it, if anything."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return {}, "the line is empty" if not line.strip() else f"no valid JSON ({error})"
    if not isinstance(row, dict):
        return {}, f"a JSON object is needed, not {type(row).__name__}"
    for column in source.columns:
        if column not in row:
            return row, f"column '{column}' is missing"
    if b"\\ud" in line.lower():  # a character in halves, and perhaps only one of them
        for column, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return row, f"column '{column}' holds half of a character (a lone surrogate)"
    for column in source.texts:
        value = row[column]
        if value is None or (hasattr(value, "__len__") and not len(value)):
            return row, f"column '{column}' is empty"
        if isinstance(value, str) and not value.strip():
            return row, f"column '{column}' is empty"
    return row, None


def _all_blank(row: Mapping[str, Any], source: Source) -> bool:
    """Blank lines that a set keeps on purpose (WikiText) are no duplicates."""
    return not any(str(row[column]).strip() for column in source.columns)


def _missing(source: Source, split: str, data_dir: str | Path | None, reason: str) -> str:
    name = source.files.get(split)
    if name is None:
        local = "it has no local form"
    elif data_dir is None:
        local = (
            f"no local folder is set (data_dir, or MORA_BENCH_DATA) to hold {source.name}/{name}"
        )
    else:
        local = f"{source.place(name, data_dir)} is not there"
    return (
        f"data set '{source.name}' ({split} split; hub id: {source.on_hub()}) was not found: "
        f"{local}, and {reason}. Put the file there, or run where the hub can be reached"
        f"{'; or take ' + source.instead if source.instead else ''}."
    )


def _revision(source: Source, split: str, data: datasets.Dataset) -> str | None:
    """The commit that the rows came from; the revision asked for, where the cache knows no more."""
    return hub.commit_of(data) or hub.look(source, split).revision
