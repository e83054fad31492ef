"""Models and tokenizers where they lie: in a folder, or on the model hub and in its cache.

Only safetensors count as weights, and no file that runs code when it is read is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bench.errors import UserError
from bench.run import wheel
from tasks.trouble import patiently, trouble

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")
# Files at the root of a hub repository: formats that run code when read are never downloaded.
TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
TIMEOUT = 10  # seconds, for one answer of the hub
HASHED_UP_TO = 4 << 30  # bytes; a checksum of a local folder beyond that takes too long
ROOT = Path(__file__).resolve().parents[2]  # of the checkout, where the committed models lie


def local(source: str) -> Path | None:
    """The folder that `source` names, None for a hub id; UserError for no such folder.

    A relative one is looked for in the current directory, then at the root of the checkout.
    """
    folder = Path(source).expanduser()
    for found in (folder, ROOT / folder):
        if found.is_dir():
            return found
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        places = "" if folder.is_absolute() else f" in {Path.cwd()}, nor in {ROOT}"
        raise UserError(f"the model folder {source} does not exist{places}.")
    return None


def check(source: str, revision: str | None, *, weights: bool, tokenizer: bool) -> None:
    """UserError unless `source`, a folder or hub id, has what is wanted of it, and answers."""
    folder = local(source)
    if folder is not None:
        _check_folder(folder, source, weights=weights, tokenizer=tokenizer)
        return
    with _explained(source, revision):
        try:
            patiently(lambda: _ask_hub(source, revision, weights=weights))
        except UserError:
            raise
        except Exception as unanswered:
            # Whatever keeps the hub from answering, a complete copy in the cache will do.
            cached = snapshot_download(source, revision=revision, local_files_only=True)
            try:
                _check_folder(Path(cached), source, weights=weights, tokenizer=tokenizer)
            except UserError:
                raise unanswered from None


def _ask_hub(source: str, revision: str | None, *, weights: bool) -> None:
    """One or two requests: is it there, may we read it, has it safe weights?"""
    wanted = [(CONFIG,), WEIGHTS] if weights else [TOKENIZER]
    for names in wanted:
        for name in names:
            try:
                get_hf_file_metadata(hf_hub_url(source, name, revision=revision), timeout=TIMEOUT)
                break
            except EntryNotFoundError:
                continue
        else:
            raise UserError(_lacks(source, names))


def _check_folder(folder: Path, source: str, *, weights: bool, tokenizer: bool) -> None:
    """UserError unless the folder holds what is needed, with every shard of the weights."""
    for names in [(CONFIG,), WEIGHTS] if weights else []:
        if not any((folder / name).is_file() for name in names):
            raise UserError(_lacks(source, names))
    if tokenizer and not any((folder / name).is_file() for name in TOKENIZER):
        raise UserError(_lacks(source, TOKENIZER))
    for shard in _shards(folder) if weights else []:
        if not shard.is_file():
            raise UserError(f"{source} is incomplete: {shard.name} is missing in {folder}.")


def _lacks(source: str, names: tuple[str, ...]) -> str:
    message = f"{source} holds no {' or '.join(names)}."
    if names == WEIGHTS:
        message += " Only safetensors are read; convert the model with save_pretrained first."
    return message


def _shards(folder: Path) -> list[Path]:
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return [single]
    try:
        names = json.loads(index.read_text())["weight_map"].values()
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} can't be read: {one_line(error)}") from error
    return [folder / name for name in sorted(set(names))]


def fetch(source: str, revision: str | None, *, weights: bool) -> tuple[Path, str | None]:
    """The folder of `source` on this machine, downloaded where needed, and its commit."""
    folder = local(source)
    if folder is not None:
        return folder, None
    with _explained(source, revision):
        patterns = [*TEXT_FILES, "*.safetensors"] if weights else TEXT_FILES
        snapshot = patiently(
            lambda: snapshot_download(
                source,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                etag_timeout=TIMEOUT,
            )
        )
        return Path(snapshot), commit(Path(snapshot))


def commit(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache is named by; None for any other."""
    return folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None


@contextmanager
def _explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into one message with a remedy."""
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{source!r} is neither a folder nor a hub id: {error}") from error
    except Exception as error:
        cause = _first_of(error, (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError))
        if isinstance(cause, GatedRepoError):
            message = (
                f"{source} is gated: accept its licence on its page of the model hub, then log in "
                "with `hf auth login` or set HF_TOKEN."
            )
        elif isinstance(cause, RepositoryNotFoundError):
            message = (
                f"the model hub knows no {source}, or it is private: check the name, and log in "
                "with `hf auth login` if it is yours."
            )
        elif isinstance(cause, RevisionNotFoundError):
            message = f"{source} has no revision {revision!r}: give a branch, a tag or a commit."
        elif (known := trouble(error)) is not None:
            message = f"{source} on the model hub: {known}."
        else:
            message = (
                f"can't reach {source} on the model hub, and no complete copy is in the cache "
                f"({_reason(error)}). Connect to the network (and unset HF_HUB_OFFLINE), or "
                f"download it once elsewhere (`hf download {source}`) and give the folder "
                "instead of the id."
            )
        raise UserError(message) from error


def _first_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first in the chain of causes that is of one of these kinds."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, kinds):
        link = link.__cause__ or link.__context__
    return link


def _reason(error: BaseException) -> str:
    """Why the hub did not answer, not that the cache is empty, which the message says already."""
    if isinstance(error, LocalEntryNotFoundError):
        return one_line(error.__cause__ or error.__context__ or error)
    return one_line(error)


def checksum(folder: Path, *, however_long: bool = False) -> str | None:
    """Of the weights: the hash the hub's cache names its files by, or computed where that is quick.

    For one file its SHA-256; for shards the SHA-256 of the lines "name hash", sorted.
    """
    shards = _shards(folder)
    hashes = [shard.resolve().name for shard in shards]
    if not all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes):
        if not however_long and sum(s.stat().st_size for s in shards) > HASHED_UP_TO:
            return None
        hashes = [wheel.sha256(shard) for shard in shards]
    if len(shards) == 1:
        return f"sha256:{hashes[0]}"
    lines = "".join(f"{shard.name} {value}\n" for shard, value in zip(shards, hashes, strict=True))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def stamps(folder: Path) -> list[Any]:
    """Name, size and time of change of each file: what tells, without reading, that one changed."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def verify(folder: Path, source: str, expected: str) -> None:
    """UserError unless the weights in `folder` have the SHA-256 that the configuration states."""
    found = str(checksum(folder, however_long=True)).removeprefix("sha256:")
    if found != expected.removeprefix("sha256:"):
        raise UserError(
            f"the weights of {source} in {folder} have sha256 {found}, but model.sha256 says "
            f"{expected}: the file is damaged or of another model. Restore it, or set "
            "model.sha256=null to take it as it is."
        )


def one_line(error: BaseException) -> str:
    """An exception's message without its line breaks; its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
