"""Leases: one owner at a time, whoever dies, and whatever the clocks say."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UserError
from bench.run.progress import Progress
from bench.sweep import leases, outcomes, status, together
from bench.sweep.grid import Job
from bench.sweep.outcomes import Outcome
from bench.sweep.pending import Pending

CELL = "0123456789abcdef"


@pytest.fixture(scope="module")
def dead() -> dict[str, Any]:
    """How a process that has ended on this machine had named itself."""
    script = "import json; from bench.sweep import leases; print(json.dumps(leases._who()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    who: dict[str, Any] = json.loads(done.stdout)
    assert who["pid"] != os.getpid() and who["boot_id"] == leases.boot_id()
    return who


ELSEWHERE = {"host": "elsewhere", "pid": 1, "boot_id": "another", "pid_namespace": "another"}


def leave(path: Path, who: dict[str, Any], age: float = 0.0, token: str = "t0") -> Path:
    """A lease that somebody has left in the folder."""
    path.write_bytes(leases._encode({"cell": path.stem, "token": token, **who}))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{CELL}.lease"


def take(path: Path, watcher: leases.Watcher | None = None) -> leases.Lease:
    return leases.acquire(path, watcher or leases.Watcher())


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_one_owner_at_a_time(path: Path) -> None:
    lease = take(path)
    with pytest.raises(leases.Taken, match=f"{socket.gethostname()}, process {os.getpid()}"):
        take(path)
    assert files(path) == [path.name]
    lease.release()
    assert files(path) == []
    take(path).release()


def test_status_shows_how_far_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.02)
    with leases.held(path, leases.Watcher()) as lease:
        lease.show(12, 60)
        end = time.monotonic() + 20
        while "step 12 of 60" not in (seen := status.survey(path.parent)[0]).detail:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert (seen.state, seen.cell) == ("running", CELL)
        old = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == old:
            assert time.monotonic() < end
    assert status.survey(path.parent) == []


@pytest.mark.parametrize("age", [-5000, 0, 5000], ids=["clock back", "now", "clock forward"])
def test_on_this_machine_the_process_tells_not_the_clock(
    path: Path, dead: dict[str, Any], age: float
) -> None:
    lease = take(path)
    os.utime(path, (time.time() - age, time.time() - age))
    with pytest.raises(leases.Taken):
        take(path)
    lease.release()
    leave(path, dead, age)
    take(path).release()
    assert files(path) == []


def test_another_process_of_the_same_number_is_not_the_owner(path: Path) -> None:
    who = leases._who()
    leave(path, who | {"process_start": who["process_start"] - 1})
    take(path).release()


def test_a_process_in_another_container_is_not_judged_by_its_number(
    path: Path, dead: dict[str, Any]
) -> None:
    leave(path, dead | {"pid_namespace": "pid:[1]"})
    with pytest.raises(leases.Taken):
        take(path)


def test_an_owner_elsewhere_is_dead_when_it_stands_still_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WATCHED", 0.2)
    watcher = leases.Watcher()
    leave(path, ELSEWHERE, age=1000)
    with pytest.raises(leases.Taken):  # our clock, or the server's, may be wrong
        take(path, watcher)
    time.sleep(0.25)
    leave(path, ELSEWHERE, age=999)  # no: it lives
    with pytest.raises(leases.Taken):
        take(path, watcher)
    time.sleep(0.25)
    take(path, watcher).release()


@pytest.fixture
def left(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lease of a cell that an owner elsewhere has left behind, beside its record."""
    assert run().status == 0
    (record,) = (tmp_path / "runs").glob("*.json")
    monkeypatch.setattr(leases, "WATCHED", 0.3)
    return leave(record.with_suffix(".lease"), ELSEWHERE, age=1000)


def test_one_command_takes_over_from_a_dead_owner_elsewhere(run: Any, left: Path) -> None:
    """Which only watching can tell, and says so; of a record that is there it needs no proof."""
    assert run().out == "1 cell: 1 done before\n"
    left.with_suffix(".json").unlink()
    ended = run()
    assert ended.status == 0 and ended.out.endswith("1 cell: 1 ok\n"), ended.err
    assert "elsewhere, process 1, which has given no sign of life" in ended.err
    assert not left.exists()


def test_one_command_does_not_wait_for_a_living_owner(run: Any, left: Path) -> None:
    left.with_suffix(".json").unlink()
    leave(left, ELSEWHERE, age=20)
    ended = run()
    assert ended.status == 3 and "runs on elsewhere, process 1" in ended.err
    assert "sign of life" not in ended.err


def test_a_plain_rerun_spares_the_checkpoints_of_a_forced_one_at_work(run: Any, left: Path) -> None:
    checkpoint = left.with_suffix(".checkpoints") / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    leave(left, ELSEWHERE)
    for grid in ([], ["-m"]):
        assert run(*grid).out == "1 cell: 1 done before\n"
    assert checkpoint.is_dir() and left.exists()
    left.unlink()
    assert run().out == "1 cell: 1 done before\n"
    assert not checkpoint.parent.exists()


def test_of_several_processes_the_sweep_tells_whether_an_owner_is_dead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are started once it is, and find no lease."""
    monkeypatch.setattr(leases, "WATCHED", 0.2)
    started: list[bool] = []

    def start(config: Any, overrides: Any, title: str, *_: Any) -> Outcome:
        started.append(path.exists())
        return Outcome(title, "ok", None, "command")

    monkeypatch.setattr(together, "attempt", start)
    monkeypatch.setattr(together, "done", lambda plan: None)
    plan: Any = SimpleNamespace(
        config={"distributed": {"processes": 2}}, lease=path, title="cell", command="command"
    )
    leave(path, ELSEWHERE, age=1000)
    watcher = leases.Watcher()

    def tried() -> str:
        return together.run(plan, [], watcher, Progress(), print).status

    assert (tried(), started) == ("elsewhere", [])
    time.sleep(0.25)
    assert (tried(), started) == ("ok", [False])


def test_patience_begins_where_a_cell_is_first_found_taken(monkeypatch: Any) -> None:
    jobs = [Job((), "{}", name, name) for name in "ab"]
    queue = Pending(jobs, patience=0.5)
    time.sleep(0.6)  # others ran first
    taken = Outcome("a", "elsewhere", None, "command")
    monkeypatch.setattr(outcomes, "_outcomes", [])
    queue.settle(jobs[0], taken)
    assert len(queue.waiting) == 1 and not outcomes._outcomes
    time.sleep(0.6)
    queue.settle(jobs[0], taken)
    assert outcomes._outcomes == [taken]


def test_an_owner_elsewhere_lives_while_it_gives_signs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WATCHED", 0.0)
    watcher = leases.Watcher()
    for age in (0, 60, 119):
        leave(path, ELSEWHERE, age=age)
        with pytest.raises(leases.Taken):
            take(path, watcher)


def test_a_clock_set_back_delays_but_does_not_hide_a_death(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sign of life lies in the future of the file server's clock."""
    monkeypatch.setattr(leases, "WATCHED", 0.0)
    monkeypatch.setattr(leases, "STALE_AFTER", 0.2)
    watcher = leases.Watcher()
    leave(path, ELSEWHERE, age=-3600)
    with pytest.raises(leases.Taken):
        take(path, watcher)
    time.sleep(0.25)
    take(path, watcher).release()


def test_a_job_that_slurm_requeued_has_left_its_claim(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "lab")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    first = leases._who() | ELSEWHERE
    leave(path, first)
    with pytest.raises(leases.Taken):  # another process of the same job
        take(path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take(path).release()
    leave(path, first | {"slurm_job": "other/7"})
    with pytest.raises(leases.Taken):
        take(path)


def test_who_takes_over_may_die_half_way(path: Path, dead: dict[str, Any]) -> None:
    leave(path, dead, token="t0")
    leave(path.with_name(f".{CELL}.after-t0"), dead, token="t1")
    leave(path.with_name(f".{CELL}.after-t1"), leases._who(), token="t2")
    with pytest.raises(leases.Taken):  # the last in the chain lives
        take(path)
    leave(path.with_name(f".{CELL}.after-t1"), dead, token="t2")
    lease = take(path)
    assert files(path) == [path.name]
    lease.release()


def test_a_look_that_is_out_of_date_wins_nothing(path: Path, dead: dict[str, Any]) -> None:
    """The dead lease we saw was taken over before we came to succeed it."""
    leave(path, dead)
    seen = leases._chain(path)
    owner = take(path)
    assert leases._succeed(path, {"cell": CELL, "token": "late"}, seen) is None
    assert files(path) == [path.name] and owner.held_here()
    owner.release()


def test_who_is_held_for_dead_notices_and_spares_the_successor(path: Path) -> None:
    lease = take(path)
    lease.check()
    path.unlink()
    successor = take(path)
    lease.show(1, 2)
    lease.beat()
    lease._looked = 0.0
    with pytest.raises(leases.Lost, match="was removed or taken over"):
        lease.check()
    lease.release()
    assert successor.held_here() and "step" not in json.loads(path.read_text())
    successor.release()


@pytest.mark.parametrize(("number", "ours"), [(errno.ESTALE, False), (errno.EIO, True)])
def test_on_nfs_the_file_of_who_was_replaced_is_stale(
    path: Path, number: int, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take(path)

    def away(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", away)
        assert lease.held_here() == ours
    lease.release()


def test_a_link_whose_answer_was_lost_is_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats the request, and meets what it has made."""
    link = os.link

    def repeated(*paths: Any) -> None:
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", repeated)
    lease = take(path)
    assert lease.held_here() and files(path) == [path.name]
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(leases.Taken):
        take(path)
    lease.release()


@pytest.mark.parametrize("hidden", [FileNotFoundError, PermissionError])
def test_a_living_process_that_proc_hides_is_judged_by_its_age(
    dead: dict[str, Any], hidden: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, where /proc is mounted with hidepid."""
    living, read = leases._who(), Path.read_text

    def closed(self: Path, *given: Any) -> str:
        if self.name == "stat":
            raise hidden
        return read(self, *given)

    monkeypatch.setattr(Path, "read_text", closed)
    assert leases.owner_gone(living) is None
    assert leases.owner_gone(dead) is True
    assert leases.owner_gone(living | {"process_start": 0}) is False  # a machine without /proc


@pytest.mark.parametrize("content", [b"", b'{"cell"', b"[]"])
def test_a_torn_claim_speaks_by_its_age(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WATCHED", 0.0)
    path.write_bytes(content)
    with pytest.raises(leases.Taken):
        take(path)
    os.utime(path, (0, 0))
    take(path).release()


def test_where_there_are_no_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "link", link)
    lease = take(path)
    with pytest.raises(leases.Taken):
        take(path)
    lease.check()
    lease.release()
    assert files(path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot lease a cell in {tmp_path}/none: No such file"):
        take(tmp_path / "none" / f"{CELL}.lease")


def test_a_dead_claim_beside_a_record_is_removed_a_living_one_is_not(
    path: Path, dead: dict[str, Any]
) -> None:
    leave(path, dead)
    leases.remove_stale(path, leases.Watcher())
    assert files(path) == []
    lease = take(path)
    leases.remove_stale(path, leases.Watcher())
    assert lease.held_here()
    lease.release()


RACE = """
import multiprocessing as mp, os, sys
from pathlib import Path
from bench.sweep import leases

def contend(folder, barrier, won, rounds):
    for number in range(rounds):
        path = Path(folder) / f"{number:016x}.lease"
        barrier.wait(60)
        try:
            lease = leases.acquire(path, leases.Watcher())
        except leases.Taken:
            lease = None
        barrier.wait(60)
        if lease is not None:
            assert lease.held_here()
            won.append(number)
            lease.release()

if __name__ == "__main__":
    folder, dead, rounds, workers = sys.argv[1], sys.argv[2] == "dead", int(sys.argv[3]), 5
    context = mp.get_context("fork")
    corpse = context.Process(target=lambda: None)
    corpse.start(); corpse.join()
    for number in range(rounds if dead else 0):
        path = Path(folder) / f"{number:016x}.lease"
        who = leases._who() | {"pid": corpse.pid, "token": "t0"}
        path.write_bytes(leases._encode(who))
    with mp.Manager() as manager:
        won, barrier = manager.list(), context.Barrier(workers)
        crowd = [context.Process(target=contend, args=(folder, barrier, won, rounds))
                 for _ in range(workers)]
        [process.start() for process in crowd]
        [process.join() for process in crowd]
        print(sorted(won) == list(range(rounds)), len(won), os.listdir(folder))
"""


@pytest.mark.parametrize("kind", ["free", "dead"])
def test_of_many_at_once_exactly_one_wins(tmp_path: Path, kind: str) -> None:
    """Five processes, 60 cells, all at the same moment; dead: on the lease of a dead owner."""
    script, folder = tmp_path / "race.py", tmp_path / "runs"
    script.write_text(RACE)
    folder.mkdir()
    command = [sys.executable, str(script), str(folder), kind, "60"]
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.stdout == "True 60 []\n", done.stdout + done.stderr


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ask", [leases.look, leases.acquire])
def test_a_full_disk_is_told_where_a_lease_is_looked_at(path: Path, ask, monkeypatch) -> None:
    leave(path, ELSEWHERE)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="No space left on device"):
        ask(path, leases.Watcher())


def test_a_takeover_that_finds_the_disk_full_is_given_back(path: Path, dead, monkeypatch) -> None:
    leave(path, dead)
    draft = leases._draft
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_draft", lambda file, content: (
            full() if file == path and len(files(path)) > 1 else draft(file, content)
        ))  # fmt: skip
        with pytest.raises(UserError, match="No space left on device"):
            take(path)
    take(path).release()
    assert files(path) == []
