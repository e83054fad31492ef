"""Loading data sets, from the hub or from local JSON lines of the same columns, and judging them.

A set is looked for in `data_dir/<name>/` first. A local file is checked line by line before use; a
set that is neither there nor within reach on the hub is one TaskError, raised within seconds.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError

if TYPE_CHECKING:
    import datasets

SHOWN_PROBLEMS = 5
HUB_TIMEOUT = 5.0  # seconds
_CHECKED: set[tuple[Path, int, int, str]] = set()  # local files found sound in this process


@dataclass(frozen=True)
class Source:
    """Where one data set comes from and what its rows must hold.

    files: split -> file name in the local folder; compressed, it ends in `.zst` besides.
    splits: split -> split name on the hub, where it differs.
    columns: what a row must hold; `texts`, those of them that must not be empty.
    repeats: split -> how many rows of the published set repeat an earlier one (None: any number).
    """

    name: str
    licence: str
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    files: Mapping[str, str]
    hub_id: str | None = None
    config: str | tuple[str, ...] | None = None  # several are joined in their order
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    data_files: Mapping[str, list[str]] | None = None  # split -> hub files, of a huge set's part
    repeats: Mapping[str, int | None] = field(default_factory=dict)
    notes: str = ""
    instead: str = ""  # what to run where the set can't be had

    def path(self, split: str, data_dir: str | Path | None) -> Path | None:
        """The local file of a split, if it is there."""
        if data_dir is None or split not in self.files:
            return None
        path = self.place(self.files[split], data_dir)
        found = (path, path.with_name(f"{path.name}.zst"))
        return next((file for file in found if file.is_file()), None)

    def place(self, file: str, data_dir: str | Path) -> Path:
        """Where a local file of the set belongs."""
        return Path(data_dir).expanduser() / self.name / file

    def on_hub(self) -> str:
        """How a person would name the set on the hub."""
        if self.hub_id is None:
            return "none"
        if self.config is None:
            return self.hub_id
        config = self.config if isinstance(self.config, str) else " + ".join(self.config)
        return f"{self.hub_id}, config {config}"


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


def lacks(source: Source, split: str, data_dir: str | Path | None) -> Missing | None:
    """What stands in the way of loading a split; None: its local file is sound, or the hub answers.

    Nothing is loaded: a local file is read line by line once, the hub asked once, without retries.
    """
    path = source.path(split, data_dir)
    if path is not None:
        problem = _file_problem(path, source, split)
        return None if problem is None else _lack(source, split, data_dir, "broken", problem)
    if source.hub_id is None:
        why = "it is on no hub"
    else:
        reason = _hub_problem(source.hub_id, source.revision)
        if reason is None or _cached(source.hub_id):
            return None
        why = f"the hub gave: {reason}"
    return _lack(source, split, data_dir, why, _missing(source, split, data_dir, why))


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


def _file_problem(path: Path, source: Source, split: str) -> str | None:
    """What is wrong with a local file, if anything."""
    state = (path, path.stat().st_mtime_ns, path.stat().st_size, split)
    if state not in _CHECKED:  # a file of gigabytes is read once
        try:
            check_lines(path, source, split)
        except TaskError as error:
            return str(error)
        _CHECKED.add(state)
    return None


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
    import datasets

    require(source, split, data_dir)
    path = source.path(split, data_dir)
    with quiet_datasets():
        if path is not None:
            return datasets.load_dataset("json", data_files=str(path), split="train")
        configs = source.config if isinstance(source.config, tuple) else (source.config,)
        files = {} if source.data_files is None else {"data_files": dict(source.data_files)}
        try:
            parts = [
                datasets.load_dataset(
                    source.hub_id,
                    config,
                    split=source.splits.get(split, split),
                    revision=source.revision,
                    **files,
                )
                for config in configs
            ]
            data = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        except Exception as error:  # whatever the hub client raises, it is one message to a person
            raise TaskError(_missing(source, split, data_dir, _first_line(error))) from error
    missing = [c for c in source.columns if c not in data.column_names]
    if missing:
        raise TaskError(
            f"data set {source.name} ({source.on_hub()}), split {split}: missing column(s) "
            f"{', '.join(missing)}; it has {', '.join(data.column_names)}"
        )
    return data


def card(
    source: Source, split: str, data: datasets.Dataset, data_dir: str | Path | None
) -> dict[str, Any]:
    """What the record says of one split: origin, licence, columns, rows, fingerprint."""
    path = source.path(split, data_dir)
    return {
        "name": f"{source.name}/{split}",
        "hub_id": source.hub_id,
        "revision": None if path is not None else _revision(source),
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


def fingerprint(source: Source, split: str, data_dir: str | Path | None) -> str:
    """Of the rows of a split, wherever they are read from. Raises TaskError."""
    path = source.path(split, data_dir)
    if path is not None:
        return file_fingerprint(path)
    return str(load(source, split, data_dir)._fingerprint)


def text_fingerprint(texts: Iterable[str]) -> str:
    """The first 16 hex digits of a sha256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def check_lines(path: Path, source: Source, split: str) -> None:
    """Refuse a JSON lines file with broken lines, missing columns, empty or duplicate rows.

    Raises one TaskError that names file, line and column of the first problems.
    """
    allowed = source.repeats.get(split, 0)
    problems: list[str] = []
    repeated: list[str] = []
    seen: dict[bytes, int] = {}
    count = 0
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            row, problem = _row(line, source)
            if problem:
                problems.append(f"line {number}: {problem}")
                continue
            count += 1
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


def _hub_problem(hub_id: str, revision: str | None) -> str | None:
    """Why the hub can't give a set; None where it can. One request, no retry."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(hub_id, revision=revision, timeout=HUB_TIMEOUT)
    except Exception as error:  # offline mode, no name service, time-out, not found, gated: any
        return _first_line(error)
    return None


def _cached(hub_id: str) -> bool:
    """Whether an earlier download of the set lies in the datasets cache."""
    import datasets

    return (Path(datasets.config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")).is_dir()


def _revision(source: Source) -> str | None:
    """The commit that the hub serves for the set, or the revision asked for."""
    from huggingface_hub import HfApi

    assert source.hub_id is not None  # no local file, so it came from the hub
    try:
        info = HfApi().dataset_info(source.hub_id, revision=source.revision, timeout=HUB_TIMEOUT)
    except Exception:  # the set came from the cache: the asked-for revision is all that is known
        return source.revision
    return info.sha


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars of `datasets` inside: they would tear the run's own."""
    import datasets

    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
