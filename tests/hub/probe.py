"""Run by the tests in a process of its own: looks at data sets, and says what came of it.

Reads from standard input a JSON list of {do: lacks | fetch | head, source: {...}, split, disk}.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks import hub
from tasks.data import head, lacks, load
from tasks.errors import TaskError
from tasks.source import Source


@contextmanager
def small_disk(size: int | None) -> Iterator[None]:
    """Inside, no file can grow beyond `size` bytes: as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one(job: dict[str, Any]) -> dict[str, Any]:
    """What came of one job, and the seconds that it took."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in job["source"].items()}
    source, split = Source(**fields), job.get("split", "train")
    begin = time.monotonic()
    said: dict[str, Any] = {}
    try:
        with small_disk(job.get("disk")):
            if job["do"] == "lacks":
                lack = lacks(source, split, None)
                said["error"] = None if lack is None else lack.message
                if lack is None:
                    seen = hub.look(source, split)
                    said |= {"revision": seen.revision, "rows": seen.rows}
                    said |= {"columns": seen.columns, "licence": seen.licence}
            else:
                take = {"fetch": load, "head": lambda *a: head(*a, 3)}[job["do"]]
                data = take(source, split, None)
                said |= {"rows": len(data), "commit": hub.commit_of(data), "first": data[0]}
    except TaskError as error:
        said["error"] = str(error)
    return said | {"seconds": round(time.monotonic() - begin, 2)}


if __name__ == "__main__":
    import datasets  # noqa: F401  (its import is no part of a job's time)

    print(json.dumps([one(job) for job in json.load(sys.stdin)]))
