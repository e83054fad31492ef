"""A cell of a sweep that several processes train: torchrun starts them here, and they report.

The parent waits, shows progress and passes on a request to leave; process.py is the other side.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.errors import UserError
from bench.run import distributed, interrupts
from bench.run.plan import Plan, done
from bench.run.progress import Progress
from bench.sweep import leases, pool
from bench.sweep.leases import Watcher
from bench.sweep.outcomes import Outcome

# Seconds before the time limit at which a job of several processes is told: full fine-tuning of 7B
# parameters writes a checkpoint of 81 GB.
NOTICE = 600
SHUTDOWN = NOTICE - 20  # seconds that torchrun gives its processes to write it


def needed(config: Mapping[str, Any]) -> bool:
    """Whether the cell wants several processes, which have not been started yet."""
    return config["distributed"]["processes"] > 1 and distributed.world() == 1


def run(
    plan: Plan,
    overrides: Sequence[str],
    watcher: Watcher,
    progress: Progress,
    say: Callable[[str], None],
) -> Outcome:
    """Run a cell in this process or, where it wants several, in others; how it ended."""
    from bench.sweep import attempt as alone

    if needed(plan.config):
        # Processes that are new each time could not tell that an owner elsewhere is dead.
        try:
            if (known := done(plan)) is not None:
                return alone.done_before(plan, known, watcher)
            leases.look(plan.lease, watcher)
        except leases.Taken as reason:
            return Outcome(plan.title, "elsewhere", str(reason), plan.command)
        except UserError as error:
            return Outcome(plan.title, "refused", str(error), plan.command)
        leases.remove_stale(plan.lease, watcher)
        return attempt(plan.config, overrides, plan.title, progress, say)
    return alone.attempt(plan, watcher, progress)


def attempt(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    title: str,
    progress: Progress,
    say: Callable[[str], None],
) -> Outcome:
    """Run the cell of a resolved configuration in processes of its own; how it ended.

    overrides: those of its command, for messages and the record. say: takes lines that stay.
    """
    processes = config["distributed"]["processes"]
    again = distributed.command(processes, overrides)
    gpus = pool.gpus() if str(config["device"]).startswith(("auto", "cuda")) else 0
    if gpus and processes > gpus:
        reason = (
            f"distributed.processes={processes}, but this machine has {gpus} GPUs: choose as many, "
            "or submit it with scripts/slurm/multi_node.sbatch"
        )
        return Outcome(title, "refused", reason, again)
    with tempfile.TemporaryDirectory(prefix="mora-bench-") as folder, interrupts.deferred():
        job, answer = Path(folder) / "cell.json", Path(folder) / "outcome.json"
        job.write_text(json.dumps({"config": config, "overrides": list(overrides)}))
        status, tail = _wait(_start(job, answer, processes), answer, progress, say)
        if answer.is_file():
            return Outcome(**json.loads(answer.read_text()))
    if asked := interrupts.requested():
        return Outcome(title, "stopped", f"{asked}; it can be resumed", again)
    why = f"its processes ended with status {status}: {' | '.join(tail)}"
    return Outcome(title, "failed", why, again)


def _start(job: Path, answer: Path, processes: int) -> subprocess.Popen[str]:
    share = str(max(1, pool.cores() // processes))
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", f"--shutdown-timeout={SHUTDOWN}",
            "-m", "bench.sweep.process", str(job), str(answer),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | dict.fromkeys(pool.THREADS, share),
        text=True,
        start_new_session=True,  # a Ctrl-C comes here alone, and is passed on as a request
    )  # fmt: skip


def _wait(
    process: subprocess.Popen[str],
    answer: Path,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[int, Sequence[str]]:
    """Until it has ended: its status, and the last lines that it wrote."""
    events: queue.Queue[tuple[str, str] | None] = queue.Queue()
    assert process.stdout is not None and process.stderr is not None
    streams: dict[str, IO[str]] = {"event": process.stdout, "line": process.stderr}
    for kind, stream in streams.items():
        threading.Thread(target=_listen, args=(kind, stream, events), daemon=True).start()
    tail, asked, open_ = deque[str](maxlen=pool.TAIL), False, len(streams)
    try:
        while open_:
            if interrupts.requested() and not asked:
                asked = True
                process.terminate()  # torchrun passes it on
            with suppress(queue.Empty):
                found = events.get(timeout=0.2)
                if found is None:
                    open_ -= 1
                elif found[0] == "event":
                    _show(json.loads(found[1]), progress)
                else:
                    tail.append(found[1])
                    if not asked and not answer.exists():  # else torchrun's own account of the end
                        say(found[1])
        return process.wait(), tail
    finally:
        progress.stop()
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


def _listen(kind: str, stream: IO[str], events: queue.Queue[tuple[str, str] | None]) -> None:
    for line in stream:
        events.put((kind, line.rstrip()))
    events.put(None)


def _show(message: Mapping[str, Any], progress: Progress) -> None:
    step, total, loss, note = message["at"]
    if loss is None:
        progress.start(total, step)
    else:
        progress.note(note)
        progress.step(step, loss)
