"""How much memory there is and how much of it is free: a device's, or this process's on the host.

A container or a batch job may use less than the machine has: its cgroup says how much, in version 2
or 1, and so may every group above it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
# Controller, its folder, and its files: the limit, what is used, and in memory.stat the part of it
# that files are cached in and that is given back when it is wanted.
VERSIONS = (
    ("", "", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def limit() -> int | None:
    """Bytes that this process may use on the host, None where that cannot be told."""
    limits = [group[0] for group in _groups()]
    with suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def free(device: torch.device) -> int:
    """Bytes that are free on a device, 0 where that cannot be told."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return 0
    try:
        available = 1024 * _figure(MEMINFO, "MemAvailable:")
    except (OSError, ValueError):
        return 0
    return max(0, min([available, *(most - used for most, used in _groups())]))


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each cgroup that this process is in and that has a limit."""
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller, folder, *files in VERSIONS:
                if controller in controllers.split(","):
                    yield from _limited(ROOT / folder, path, files)


def _limited(root: Path, path: str, files: list[str]) -> Iterator[tuple[int, int]]:
    most, used, cached = files
    own = root / path.strip("/")
    for group in (own, *own.parents):
        with suppress(OSError, ValueError):  # no such folder here, or no limit ("max")
            given_back = _figure(group / "memory.stat", cached)
            use = int((group / used).read_text()) - given_back
            yield int((group / most).read_text()), use
        if group == root:
            return


def _figure(file: Path, name: str) -> int:
    """The number behind a name in a file of names and numbers. Raises ValueError without it."""
    for line in file.read_text().splitlines():
        key, *rest = line.split()
        if key == name:
            return int(rest[0])
    raise ValueError(f"{file} has no {name}.")
