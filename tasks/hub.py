"""Data sets on the hub: opened as a run opens them, and what stands in the way in one sentence.

`look` streams one row of a split, so that a wrong config, a missing column or a gated set shows
before a model is loaded. A commit never changes, so what was seen at one need not be asked again.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.trouble import Trouble, Unfit, Unusable, explained, is_transport, patiently

if TYPE_CHECKING:
    import datasets

    from tasks.source import Source

TIMEOUT = 5.0  # seconds, for one answer
AGAIN = 60.0  # seconds until a set that could not be had is asked for again

Key = tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a split was like when it was opened.

    revision: the commit (None: unknown); rows: where the set says so; licence: that of its card;
    cached: the hub did not answer, and a copy was at hand.
    """

    revision: str | None
    rows: int | None
    columns: tuple[str, ...]
    licence: str | None = None
    cached: bool = False


_seen: dict[Key, Seen] = {}  # by what is opened and its commit
_answers: dict[Key, Seen] = {}  # by what is opened, in this process
_refusals: dict[Key, tuple[float, Unusable]] = {}
_streams: dict[Key, Any] = {}  # open ones, of the first config
_heads: dict[Key, datasets.Dataset] = {}
_lock = threading.Lock()


def look(source: Source, split: str) -> Seen:
    """Open a split as `load` will, streaming, and read one row. Asked once a process.

    Raises Unusable.
    """
    key = _key(source, split)
    with _lock:
        if (found := _answers.get(key)) is not None:
            return found
        when, refusal = _refusals.get(key, (-AGAIN, None))
    if refusal is not None and time.monotonic() - when < AGAIN:
        raise refusal
    try:
        found = _look(source, split)
    except Unusable as error:
        with _lock:
            _refusals[key] = (time.monotonic(), error)
        raise
    with _lock:
        _answers[key] = found
    return found


def commit(source: Source, split: str) -> str | None:
    """The commit at which a split was looked at in this process; None where it was not."""
    found = _answers.get(_key(source, split))
    return None if found is None else found.revision


def remember(entries: Iterable[Mapping[str, Any]]) -> None:
    """Take up what an earlier process saw, as `remembered` gave it."""
    for entry in entries:
        seen = entry["seen"] | {"columns": tuple(entry["seen"]["columns"])}
        _seen[tuple(entry["key"])] = Seen(**seen)


def remembered() -> list[dict[str, Any]]:
    """What was seen at a commit, as plain values."""
    return [{"key": list(key), "seen": asdict(seen)} for key, seen in _seen.items()]


def _key(source: Source, split: str) -> Key:
    what = [source.hub_id, source.config, source.revision, source.data_files]
    return (json.dumps(what), source.splits.get(split, split), ",".join(source.columns))


def _look(source: Source, split: str) -> Seen:
    with explained(source):
        try:
            info = patiently(lambda: _info(source))
        except Exception as error:
            if not is_transport(error) or not _cached(source):
                raise
            data = concatenated(opened(source, split, revision=source.revision))
            columns = tuple(data.column_names)
            commit = commit_of(data) or source.revision
            return _fitting(source, Seen(commit, len(data), columns, cached=True))
        key = (*_key(source, split), info.sha)
        if not info.gated and key in _seen:  # a gated one may have been closed since
            return _seen[key]
        _be_brief()
        parts = patiently(lambda: opened(source, split, revision=info.sha, streaming=True))
        found = [tuple(patiently(partial(_first, part))) for part in parts]
        counts = [_rows(part) for part in parts]
        rows = None if None in counts else sum(n for n in counts if n is not None)
        licence = getattr(info.card_data, "license", None) if info.card_data else None
        seen = Seen(info.sha, rows, found[0], _text(licence))
        for columns in found:
            _fitting(source, Seen(info.sha, rows, columns))
        with _lock:
            _seen[key] = seen
            _streams[_key(source, split)] = parts[0]
        return seen


def _info(source: Source) -> Any:
    from huggingface_hub import HfApi

    assert source.hub_id is not None
    return HfApi().dataset_info(source.hub_id, revision=source.revision, timeout=TIMEOUT)


def _first(part: Any) -> list[str]:
    row = next(iter(part), None)
    if row is None:
        raise Unfit("has no rows")
    return list(row)


def _rows(part: Any) -> int | None:
    try:
        splits = part.info.splits
        return None if not splits else splits[str(part.split)].num_examples or None
    except (AttributeError, KeyError):
        return None


def _text(licence: Any) -> str | None:
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence


def _fitting(source: Source, seen: Seen) -> Seen:
    if lacking := [column for column in source.columns if column not in seen.columns]:
        raise Unfit(
            f"lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}; it has "
            f"{', '.join(seen.columns)}"
        )
    return seen


def head(source: Source, split: str, count: int) -> datasets.Dataset:
    """The first rows of a split, streamed once a process. Raises Unusable."""
    key = (*_key(source, split), str(count))
    if key not in _heads:
        _heads[key] = _head(source, split, count)
    return _heads[key]


def _head(source: Source, split: str, count: int) -> datasets.Dataset:
    import datasets

    seen = look(source, split)
    with explained(source):
        if seen.cached:
            data = concatenated(opened(source, split, revision=source.revision))
            return data.select(range(min(count, len(data))))
        part = _streams.get(_key(source, split))
        if part is None:
            (part, *_) = patiently(
                lambda: opened(source, split, revision=seen.revision, streaming=True)
            )
        rows = patiently(lambda: list(part.take(count)))
        return datasets.Dataset.from_list(rows, features=part.features)


def fetch(source: Source, split: str) -> datasets.Dataset:
    """The whole split, downloaded where it is not in the cache. Raises Unusable."""
    seen = look(source, split)
    with explained(source):
        data = concatenated(
            patiently(lambda: opened(source, split, revision=seen.revision or source.revision))
        )
        found = commit_of(data)
        if found and seen.revision and found != seen.revision:
            # datasets takes whatever is in its cache where a download fails.
            raise Trouble(
                f"the download of revision {seen.revision[:12]} failed, and the cache holds "
                f"revision {found[:12]}"
            )
        return _checked(source, data)


def _checked(source: Source, data: datasets.Dataset) -> datasets.Dataset:
    _fitting(source, Seen(None, None, tuple(data.column_names)))
    return data


def opened(
    source: Source, split: str, *, revision: str | None, streaming: bool = False
) -> list[Any]:
    """One part a config: the one call by which both a look and a run open a set."""
    import datasets

    configs = source.config if isinstance(source.config, tuple) else (source.config,)
    files = {} if source.data_files is None else {"data_files": dict(source.data_files)}
    with quiet_datasets():
        return [
            datasets.load_dataset(
                source.hub_id,
                config,
                split=source.splits.get(split, split),
                revision=revision,
                streaming=streaming,
                **files,
            )
            for config in configs
        ]


def concatenated(parts: list[Any]) -> datasets.Dataset:
    """The parts one after the other."""
    import datasets

    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def commit_of(data: datasets.Dataset) -> str | None:
    """The commit that a downloaded set came from: `datasets` names a folder of its cache by it."""
    for file in data.cache_files:
        if match := re.search(r"/([0-9a-f]{40})/", file["filename"]):
            return match[1]
    return None


def _cached(source: Source) -> bool:
    """Whether an earlier download of the set lies in the datasets cache."""
    import datasets

    assert source.hub_id is not None
    name = source.hub_id.replace("/", "___")
    return (Path(datasets.config.HF_DATASETS_CACHE) / name).is_dir()


def _be_brief() -> None:
    """datasets would try a stream again for minutes; nothing but a look streams here."""
    import datasets

    for name in ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES"):
        setattr(datasets.config, name, 1)
    for name in vars(datasets.config):
        if name.startswith("STREAMING_") and name.endswith("RETRY_INTERVAL"):
            setattr(datasets.config, name, 0)


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
