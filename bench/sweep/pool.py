"""Workers: processes that run cells, each with its own share of this machine's threads.

A worker reads each cell as a line of JSON and reports its progress in such lines. Where a worker
dies, its cell fails and the sweep goes on. Where the sweep dies, its workers write a checkpoint and
exit.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.errors import UserError
from bench.run import device, imports, interrupts
from bench.sweep import footprint
from bench.sweep.grid import Job
from bench.sweep.outcomes import Outcome
from bench.sweep.overview import Overview
from bench.sweep.pending import Pending

# What the libraries underneath read, each once, when it is imported.
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip
TAIL = 15  # last lines of a dead worker that are shown


class Worker:
    """A process that runs cells one after the other."""

    def __init__(
        self, slot: int, workers: int, size: int, events: queue.Queue[tuple[Worker, Any]]
    ) -> None:
        self.slot, self.ready = slot, False
        self.job: Job | None = None
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment(slot, workers, size),
            text=True,
            start_new_session=True,  # a Ctrl-C comes here alone, and is passed on as a request
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self._stderr = threading.Thread(
            target=self._read, args=(self.process.stderr, events), daemon=True
        )
        self._stderr.start()
        threading.Thread(
            target=self._listen, args=(self.process.stdout, events), daemon=True
        ).start()

    def run(self, job: Job) -> None:
        """Send a cell to the process, which must be idle."""
        self.job = job
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its death is an event of its own
            told = {"config": job.config, "command": job.command, "since": job.since}
            self.process.stdin.write(json.dumps(told))
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def leave(self) -> None:
        """Ask it to leave: after its cell's next step, or at once where it has none."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        if self.job is not None:
            self.process.terminate()

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def cause_of_death(self) -> str:
        """Wait for the process to end; the signal that killed it, or its status and last lines."""
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed ({name}{'; out of memory?' if code == -9 else ''})"
        return f"its process ended with status {code}: {' | '.join(self.tail)}"

    def _listen(self, stream: IO[str], events: queue.Queue[tuple[Worker, Any]]) -> None:
        for line in stream:
            events.put((self, json.loads(line)))
        self._stderr.join()
        events.put((self, None))

    def _read(self, stream: IO[str], events: queue.Queue[tuple[Worker, Any]]) -> None:
        for line in stream:
            self.tail.append(line.rstrip())
            events.put((self, {"event": "says", "text": line.rstrip()}))


class Pool:
    """Workers at a queue of cells."""

    def __init__(self, size: int, workers: int, pending: Pending, overview: Overview) -> None:
        self.pending, self.overview = pending, overview
        self.total, self.size = workers, size
        self.events: queue.Queue[tuple[Worker, Any]] = queue.Queue()
        self.idle: list[Worker] = []
        self.workers = [Worker(slot, workers, size, self.events) for slot in range(size)]
        self.leaving = False

    def run(self) -> None:
        """Run the pending cells; returns when all workers have ended.

        A request to stop lets cells write their checkpoints first. Raises UserError where a worker
        cannot start.
        """
        try:
            with interrupts.deferred():
                while self.workers:
                    if interrupts.requested():
                        self._dismiss()
                    self._hand_out()
                    with suppress(queue.Empty):
                        self._take(*self.events.get(timeout=0.2))
        finally:
            for worker in self.workers:
                worker.kill()

    def _dismiss(self) -> None:
        """Once: all workers are to leave."""
        if not self.leaving:
            self.leaving = True
            self.overview.say(f"{interrupts.requested()}: cells write their checkpoints and leave")
            for worker in self.workers:
                worker.leave()

    def _hand_out(self) -> None:
        """Cells to idle workers; a worker that will get none any more may go."""
        while self.idle and not self.leaving:
            job = self.pending.next()
            if job is None:
                busy = any(worker.job for worker in self.workers)
                if not len(self.pending) and not busy:
                    for worker in self.workers:
                        worker.leave()
                    self.leaving = True
                return
            worker = self.idle.pop()
            self.overview.begin(worker.slot, job.title)
            worker.run(job)

    def _take(self, worker: Worker, message: dict[str, Any] | None) -> None:
        if message is None:
            self._ended(worker)
        elif message["event"] == "ready":
            worker.ready = True
            self.idle.append(worker)
        elif message["event"] == "says":
            self.overview.say(f"[worker {worker.slot}] {message['text']}")
        elif message["event"] == "step":
            self.overview.step(worker.slot, *message["at"])
        elif message["event"] == "end":
            self._end(worker, Outcome(**message["outcome"]))

    def _end(self, worker: Worker, result: Outcome) -> None:
        assert worker.job is not None
        job, worker.job = worker.job, None
        self.overview.end(worker.slot, result)
        self.pending.settle(job, result)

    def _ended(self, worker: Worker) -> None:
        """A worker has ended: as asked to, or with its cell."""
        self.workers.remove(worker)
        worker.process.wait()
        if worker in self.idle:
            self.idle.remove(worker)
        if worker.job is not None:
            job = worker.job
            status = "stopped" if self.leaving else "failed"
            self._end(worker, Outcome(job.title, status, worker.cause_of_death(), job.command))
        elif not worker.ready and not self.leaving:
            raise UserError(f"a worker cannot start: {worker.cause_of_death()}")
        if not self.leaving and len(self.pending):
            self.workers.append(Worker(worker.slot, self.total, self.size, self.events))


def environment(slot: int, workers: int, size: int) -> dict[str, str]:
    """A worker's share: threads, so that workers do not wait for each other's cores; and a GPU.

    size: how many workers there are and share the memory, at most ``workers``.
    """
    share = str(max(1, cores() // workers))
    variables = dict.fromkeys(THREADS, share)
    variables[footprint.SHARERS["cpu"]] = str(size)
    devices = visible_gpus()
    if devices:
        own = slot % len(devices)
        variables["CUDA_VISIBLE_DEVICES"] = devices[own]
        variables[footprint.SHARERS["cuda"]] = str(len(range(own, size, len(devices))))
    return variables


def cores() -> int:
    """Cores that this process may use: those that it has, and no more than OMP_NUM_THREADS."""
    there = available()
    with suppress(KeyError, ValueError):
        there = min(there, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, there)


def available() -> int:
    """Cores that this process has: its affinity, and the container's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [found or 1]
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limits.append(int(quota) // int(period))
    return max(1, min(limits))


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them or else by index."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name for name in named.split(",") if name.strip()]
        # CUDA takes none from the first negative number on.
        return list(itertools.takewhile(lambda name: not name.strip().startswith("-"), names))
    if not device.may_have_gpu():
        return []
    imports.ahead("torch")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def gpus() -> int:
    """How many GPUs this process may use."""
    return len(visible_gpus())
