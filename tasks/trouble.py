"""What goes wrong with a hub, and what to do about it: what libraries raise, as one clause."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import TaskError

if TYPE_CHECKING:
    from tasks.source import Source

WAITS = (1.0, 2.0, 4.0)  # seconds before the hub is asked again that was busy or broke off
BUSY = (408, 429, 500, 502, 503, 504)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


class Unusable(TaskError):
    """A set that cannot be had from the hub: why, as a clause."""


class Unfit(Unusable):
    """The set itself is not as it is needed; the clause follows its name."""


class Trouble(Unusable):
    """The set may be well, but not the way to it; the clause says what to do."""


def patiently(ask: Callable[[], T]) -> T:
    """Ask again, a few times and a little later, where the hub is busy.

    A download that breaks off is resumed by huggingface_hub itself.
    """
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if status(error) not in BUSY:
                raise
            time.sleep(wait)
    return ask()


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn what the libraries raise into Unfit, Trouble, or Unusable for no answer at all."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:  # they raise all kinds
        if (clause := _unfit(error, source)) is not None:
            raise Unfit(clause) from error
        if (clause := trouble(error)) is not None:
            raise Trouble(clause) from error
        raise Unusable(f"the hub gave: {first_line(error)}") from error


def trouble(error: BaseException) -> str | None:
    """Why a download failed, whatever was to be had, and what to do; None: no known trouble."""
    from huggingface_hub import constants
    from huggingface_hub.errors import FileMetadataError

    for link in chain(error):
        said = str(link)
        full = isinstance(link, OSError) and link.errno in FULL
        if full or "o space left" in said or "Not enough disk space" in said:
            return (
                f"the disk is full where downloads are kept ({constants.HF_HOME}): free some of "
                "it, or set HF_HOME to another disk"
            )
    for link in chain(error):
        if isinstance(link, (json.JSONDecodeError, FileMetadataError)):
            return (
                f"what answers at {constants.ENDPOINT} is no hub but something like a proxy's "
                "page: look at HTTPS_PROXY and HF_ENDPOINT, or log in to the network"
            )
    if (code := status(error)) in BUSY:
        return f"the hub is too busy (status {code}): try again later"
    if _broken_off(error):
        return "the download broke off: run the same command again, and it goes on from there"
    return None


def _unfit(error: BaseException, source: Source) -> str | None:
    """What is wrong with the set itself, as a clause after its name."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in with `hf auth login` or set HF_TOKEN"
    for link in chain(error):
        said = str(link)
        if isinstance(link, GatedRepoError) or "is a gated dataset" in said:
            return f"is gated: accept its terms on its page of the hub, then {log_in}"
        if isinstance(link, RevisionNotFoundError):
            return (
                f"has no revision {source.revision!r}: name a branch, a tag or a commit "
                "in task.revisions"
            )
    for link in chain(error):
        said = str(link)
        if isinstance(link, RepositoryNotFoundError) or "doesn't exist on the Hub" in said:
            return f"is not on the hub, or private: look at its id, or {log_in}"
        if "scripts are no longer supported" in said:
            return (
                "is a loading script, which datasets no longer runs: name a revision with data "
                "files, such as refs/convert/parquet, in task.revisions"
            )
        if match := re.search(r"BuilderConfig '(.*?)' not found\. Available: \[(.*?)\]", said):
            return f"has no config {match[1]}; it has {match[2].replace(chr(39), '')}"
        if match := re.search(r"(?:Bad|Unknown) split:? \"?(\w+).*?\[(.*?)\]", said):
            return f"has no split {match[1]}; it has {match[2].replace(chr(39), '')}"
        if re.search(r"ompression type zstd not supported|No module named 'zstandard'", said):
            return "is compressed, and what unpacks it is missing: pip install zstandard"
        if type(link).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError"):
            return f"holds no data file that fits: {first_line(link)}"
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """An error's first line without the full stop; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def status(error: BaseException) -> int | None:
    for link in chain(error):
        code = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
    return None


def _broken_off(error: BaseException) -> bool:
    names = {"RemoteProtocolError", "ReadError", "IncompleteRead", "ReadTimeout"}
    return any(
        type(link).__name__ in names or "Consistency check failed" in str(link)
        for link in chain(error)
    )


def is_transport(error: BaseException) -> bool:
    """Whether the hub was not reached at all, rather than saying no."""
    code = status(error)
    return code is None or code in BUSY
