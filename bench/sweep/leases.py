"""Leases: who runs a cell, so that two sweeps over one folder never run it twice.

A lease is the file `<cell>.lease`, made in one step that shared file systems keep exclusive too.
Its owner writes it again every few seconds, step included, and removes it at the end.

The lease of an owner that died is taken over. On one machine the process tells, whatever the
clocks say. Elsewhere a lease is dead when by the file server's clock it is STALE_AFTER seconds old
and we have watched it unchanged for WATCHED seconds, or when we have watched it unchanged for
STALE_AFTER seconds, so that a clock set forward or back changes nothing.

Two that take over one dead lease must not both win, nor take the winner's for the dead one's.
So who succeeds the owner of token T is who first makes `.<cell>.after-T`, which names the
successor: the owner is the last of this chain, and a successor may in turn be succeeded.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.run import interrupts

BEAT = 10.0  # seconds between two signs of life
STALE_AFTER = 120.0  # seconds without one
WATCHED = 30.0  # seconds that a lease from elsewhere must stand still while we watch
SIZE = 1024  # bytes of a lease: always the same, so that one write replaces another whole
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Taken(Exception):
    """Another process runs the cell; `owner` is its lease.

    doubtful: by its age it is a dead one's, and who goes on watching it will know.
    """

    def __init__(self, owner: Mapping[str, Any], doubtful: bool = False) -> None:
        self.owner, self.doubtful = owner, doubtful
        super().__init__(f"runs on {owner.get('host', '?')}, process {owner.get('pid', '?')}")


class Lost(Exception):
    """Our lease was removed, or taken over by a process that found it stale."""


@dataclass(frozen=True)
class Seen:
    """A lease as read: who owns it, and the file server's time of the last sign of life."""

    owner: dict[str, Any]
    file: Path
    modified: float

    @property
    def token(self) -> str:
        """The owner's token; "torn" where the lease could not be read."""
        return str(self.owner.get("token", "torn"))


@dataclass
class Watcher:
    """What one sweep has seen of others' leases: since when, by our own clock, they stand still."""

    still: dict[tuple[str, str, float], float] = field(default_factory=dict)

    def dead(self, lease: Seen, server_now: float) -> bool:
        """Whether the lease's owner is gone, to the best knowledge of this process."""
        known = owner_gone(lease.owner)
        if known is not None:
            return known
        now = time.monotonic()
        key = (str(lease.file), lease.token, lease.modified)
        watched = now - self.still.setdefault(key, now)
        age = server_now - lease.modified
        return watched >= STALE_AFTER or (watched >= WATCHED and age >= STALE_AFTER)


def owner_gone(owner: Mapping[str, Any]) -> bool | None:
    """Whether the owner of a lease has ended; None where only its age can tell.

    The one rule for sweeps and for `bench.status`: on this machine (same boot, same pid namespace)
    the process tells, by its id and its start time; a job that SLURM requeued has ended where it
    ran before.
    """
    mine = _who()
    if _same_machine(owner, mine):
        pid, known = owner.get("pid"), owner.get("process_start")
        start = process_start(pid) if isinstance(pid, int) else None
        if start == 0 and known != 0:  # it lives, and may be another of the same number
            return None
        return start is None or start != known
    return True if _earlier_run_of_this_job(owner, mine) else None


@dataclass
class Lease:
    """A lease that this process holds."""

    path: Path
    content: dict[str, Any]
    handle: int  # of the file, so that what is written here never reaches a successor's lease
    lost: bool = False
    _looked: float = 0.0

    def show(self, step: int, total: int) -> None:
        """How far the cell is; others see it from the next sign of life on."""
        self.content |= {"step": step, "total_steps": total}

    def beat(self) -> None:
        """One sign of life."""
        content = self.content | {"heartbeat": _now()}
        with suppress(OSError):  # the file server may be away for a while
            os.pwrite(self.handle, _encode(content), 0)

    def held_here(self) -> bool:
        """Whether the lease file is still the one that this process wrote."""
        try:
            there, here = os.stat(self.path), os.fstat(self.handle)
        except FileNotFoundError:
            return False
        except OSError as error:  # the file server may be away; stale: NFS has removed our file
            return error.errno != errno.ESTALE
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def check(self) -> None:
        """Raise Lost unless this process still holds the lease. Looks once a second at most."""
        if time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            self.lost = self.lost or not self.held_here()
        if self.lost:
            raise Lost(f"its lease {self.path} was removed or taken over")

    def release(self) -> None:
        """Remove the lease, unless another process has taken it over, and close its file."""
        if self.held_here():
            with suppress(OSError):
                self.path.unlink()
        os.close(self.handle)


@contextmanager
def held(path: Path, watcher: Watcher) -> Iterator[Lease]:
    """Lease a cell and give signs of life inside. Raises Taken where another owner lives."""
    lease, end = acquire(path, watcher), threading.Event()

    def keep_beating() -> None:
        while not end.wait(BEAT):
            lease.beat()

    beating = threading.Thread(target=keep_beating, daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        with interrupts.deferred():
            end.set()
            beating.join()
            lease.release()


def acquire(path: Path, watcher: Watcher) -> Lease:
    """Lease the cell. Raises Taken, or UserError where the folder cannot be written to."""
    content = {"cell": path.stem, "token": secrets.token_hex(8), "started": _now(), **_who()}
    try:
        while True:
            handle = _make(path, content)
            if handle is not None:
                return Lease(path, content, handle)
            chain = _chain(path)
            if not chain:  # given back just now
                continue
            _refuse_living(chain[-1], path, watcher)
            handle = _succeed(path, content, chain)
            if handle is not None:
                return Lease(path, content, handle)
    except OSError as error:
        raise _unusable(path, error) from None


def look(path: Path, watcher: Watcher) -> None:
    """Raise Taken where a living owner holds the cell; UserError as `acquire`."""
    try:
        if chain := _chain(path):
            _refuse_living(chain[-1], path, watcher)
    except OSError as error:
        raise _unusable(path, error) from None


def _refuse_living(lease: Seen, path: Path, watcher: Watcher) -> None:
    now = _server_time(path.parent)
    if not watcher.dead(lease, now):
        old = now - lease.modified >= STALE_AFTER
        raise Taken(lease.owner, doubtful=old and owner_gone(lease.owner) is None)


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot lease a cell in {path.parent}: {error.strerror or error}. Make room or the "
        "right to write there, or choose another results_dir"
    )


def remove_stale(path: Path, watcher: Watcher) -> bool:
    """Remove a lease that outlived its owner, where the cell needs none any more.

    Whether there is no lease now.
    """
    if path.exists():
        try:
            acquire(path, watcher).release()
        except (Taken, UserError):
            return False
    return True


def _succeed(path: Path, content: Mapping[str, Any], chain: list[Seen]) -> int | None:
    """Take over from the last owner of the chain; None: another process did, or it has ended."""
    handle = _make(_after(path, chain[-1]), content)
    if handle is None:
        return None
    os.close(handle)
    now = _chain(path)
    if not now or now[-1].token != content["token"]:
        _after(path, chain[-1]).unlink()
        return None
    # Held here: no other process changes a chain whose last owner lives. It may become one link.
    try:
        draft, handle = _draft(path, content)
        os.replace(draft, path)
    except OSError:  # who can't finish the takeover gives it back
        _after(path, chain[-1]).unlink()
        raise
    for past in chain:
        with suppress(OSError):
            _after(path, past).unlink()
    return handle


def _chain(path: Path) -> list[Seen]:
    """The lease, who succeeded its owner, and so on; the last is the owner. Empty: no lease."""
    chain: list[Seen] = []
    file = path
    while (lease := _read(file)) is not None:
        chain.append(lease)
        file = _after(path, lease)
    return chain


def _after(path: Path, lease: Seen) -> Path:
    return path.with_name(f".{path.stem}.after-{lease.token}")


def _read(file: Path) -> Seen | None:
    try:
        text, modified = file.read_bytes(), file.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        owner = json.loads(text)
    except ValueError:
        owner = None
    # Torn by an editor or a full disk: it has no owner, but its age still counts.
    return Seen(owner if isinstance(owner, dict) else {}, file, modified)


def _make(file: Path, content: Mapping[str, Any]) -> int | None:
    """Make the file with the content in it, open; None where it is there already."""
    draft, handle = _draft(file, content)
    try:
        os.link(draft, file)
        return handle
    except FileExistsError:
        # NFS asks again where its answer was lost, and meets the link that it has made.
        if os.fstat(handle).st_nlink == 2:
            return handle
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        if error.errno not in NO_LINKS:
            raise
    finally:
        draft.unlink()
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    os.pwrite(handle, _encode(content), 0)
    return handle


def _draft(file: Path, content: Mapping[str, Any]) -> tuple[Path, int]:
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        os.pwrite(handle, _encode(content), 0)
    except OSError:
        os.close(handle)
        draft.unlink()
        raise
    return draft, handle


def _server_time(folder: Path) -> float:
    """Now, by the clock that dates files in the folder."""
    draft, handle = _draft(folder / "clock", {})
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        draft.unlink()


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode().ljust(SIZE - 1) + b"\n"


def _who() -> dict[str, Any]:
    """This process, so that others can tell whether it lives."""
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "boot_id": boot_id(),
        "pid_namespace": _pid_namespace(),
        "slurm_job": job and f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{job}",
        "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    }


def _same_machine(owner: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether a process id of the owner's means something here (not so across containers)."""
    keys = ("boot_id", "pid_namespace") if mine["boot_id"] else ("host",)
    return all(owner.get(key) == mine[key] for key in keys)


def _earlier_run_of_this_job(owner: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """A job that SLURM requeued has ended where it ran before."""
    return (
        mine["slurm_job"] is not None
        and owner.get("slurm_job") == mine["slurm_job"]
        and owner.get("slurm_restarts", 0) < mine["slurm_restarts"]
    )


def process_start(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine's start; None: there is none.

    A living process has 0 without /proc, or where /proc hides other users' (hidepid).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return 0


def boot_id() -> str | None:
    """Changes when the machine restarts, so that process ids of before mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
