"""``hydra/launcher=slurm``: a SLURM job a cell through submitit; the command waits for them.

submitit by itself waits for ever where a job dies and SLURM keeps no accounts, and starts a
requeued job over. Here a cell's record is its result, whatever became of the job, and a requeued
job goes on from the cell's checkpoint.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.run import interrupts
from bench.run.plan import done
from bench.sweep import outcomes, together
from bench.sweep.array import new_folder, notice, refuse_secrets
from bench.sweep.grid import Job
from bench.sweep.local import split
from bench.sweep.outcomes import Outcome, of_record
from bench.sweep.overview import Overview
from bench.sweep.task import PATIENCE, composer

SECONDS_BETWEEN_LOOKS = 2.0
# SLURM may take this long to list a job again that it requeues, or to show its last file.
GONE = 30.0


class CellJob:
    """What submitit runs in the job. Knows how to be started again.

    since: from when on a record counts under force=true.
    """

    def __init__(self, since: float) -> None:
        self.since = since

    def __call__(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        """Run the cell; the fields of its Outcome."""
        with interrupts.handled() as submitits:
            try:
                outcome = self.attempt(overrides)
            except interrupts.Stopped as stopped:
                command = outcomes.command_line(overrides)
                outcome = Outcome("the cell", "stopped", str(stopped), command)
            if outcome.status == "stopped":
                self.wait_to_be_requeued(submitits)
        return asdict(outcome)

    def attempt(self, overrides: tuple[str, ...]) -> Outcome:
        """Run the cell here. Where another process has it, try again for PATIENCE seconds."""
        import torch

        from bench.run.plan import plan
        from bench.run.progress import Shown
        from bench.sweep import together
        from bench.sweep.leases import Watcher

        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))
        with composer() as here:
            config, command = here.compose(overrides), outcomes.command_line(overrides)
            planned = plan(config, command, since=self.since)
        watcher, say = Watcher(), partial(print, file=sys.stderr, flush=True)
        end = time.monotonic() + PATIENCE
        while True:
            shown = Shown(planned.title)
            outcome = together.run(planned, overrides, watcher, shown, say)
            if outcome.status != "elsewhere" or time.monotonic() > end:
                return outcome
            time.sleep(5)

    def wait_to_be_requeued(self, submitits: Mapping[signal.Signals, Any]) -> None:
        """The checkpoint is written. The time limit near: let submitit requeue the job. Preempted:
        SLURM requeues it itself, but not one that ends before it is killed."""
        number = interrupts.received()
        if number == signal.SIGUSR2 and callable(submitits.get(number)):
            submitits[number](number, None)  # leaves the process
        while number == signal.SIGTERM:
            time.sleep(1)

    def checkpoint(self, *arguments: Any) -> Any:
        """submitit's name for: what to run when the job is requeued. The same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def run(jobs: list[Job], settings: Mapping[str, Any]) -> None:
    """Submit the cells that are not complete, and wait for them."""
    todo = split(jobs)
    if not todo:
        return
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on this machine: submit from a login node of the cluster.")
    folder = new_folder(Path(settings["submitit_folder"]))
    submitted = dict(enumerate(zip(todo, submit(todo, folder, settings), strict=True)))
    with Overview(len(jobs), len(jobs) - len(todo), settings["array_parallelism"]) as overview:
        overview.say(f"{len(todo)} jobs, logs in {folder}")
        for slot, (job, _) in submitted.items():
            overview.begin(slot, job.title)
        try:
            wait(submitted, overview)
        except interrupts.Stopped as stopped:
            numbers = sorted({slurm.job_id.split("_")[0] for _, slurm in submitted.values()})
            reason = f"{stopped}; its jobs go on (to stop them: scancel {' '.join(numbers)})"
            again = outcomes.command_line(sys.argv[1:])
            outcomes.add(Outcome("the sweep", "stopped", reason, again, whole=True))


def submit(jobs: list[Job], folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    """One array; submitit's jobs, in the order of the cells. The folder is theirs alone, so that
    no file of another submission is taken for a result."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    for job in jobs:
        refuse_secrets(job)
    if notice(jobs):
        settings = {**settings, "signal_delay_s": max(together.NOTICE, settings["signal_delay_s"])}
    if "%" in str(folder):  # SLURM would take it for a pattern, and submitit cannot say otherwise
        raise UserError(f"no % in the path {folder}, please; hydra/launcher=sbatch takes any path.")
    own = {"submitit_folder", "max_num_timeout"}
    shared = BaseQueueConf.__dataclass_fields__.keys()
    executor = submitit.AutoExecutor(
        cluster="slurm",
        folder=folder / "%j",
        slurm_max_num_timeout=settings["max_num_timeout"],
    )
    try:
        executor.update_parameters(
            **{
                key if key in shared else f"slurm_{key}": value
                for key, value in settings.items()
                if key not in own and value is not None
            }
        )
        found: list[Any] = executor.map_array(
            CellJob(jobs[0].since), [job.overrides for job in jobs]
        )
    except (submitit.core.utils.FailedJobError, NameError) as error:
        raise UserError(f"sbatch refused the jobs: {error}") from None
    return found


def wait(submitted: dict[int, tuple[Job, Any]], overview: Overview) -> None:
    """Until each cell has ended: by its record, by what its job says, or by the job's death."""
    missing: dict[int, float] = {}
    while submitted:
        queued = in_queue([slurm.job_id for _, slurm in submitted.values()])
        for slot, (job, slurm) in list(submitted.items()):
            outcome = ended(job, slurm)
            if outcome is None and queued is not None and slurm.job_id not in queued:
                since = missing.setdefault(slot, time.monotonic())
                if time.monotonic() - since > GONE:
                    reason = f"its job {slurm.job_id} ended without a record: {slurm.paths.stderr}"
                    outcome = Outcome(job.title, "failed", reason, job.command)
            else:
                missing.pop(slot, None)
            if outcome is not None:
                del submitted[slot]
                overview.end(slot, outcome)
                outcomes.add(outcome)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def ended(job: Job, slurm: Any) -> Outcome | None:
    """How the cell has ended, if it has."""
    plan = job.plan()
    with suppress(UserError):
        if (record := done(plan)) is not None:
            return of_record(job.title, job.command, record)
    if not slurm.paths.result_pickle.exists():
        return None
    error = slurm.exception()
    if error is not None:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome(job.title, "failed", words[-1], job.command)
    return Outcome(**slurm.result())


def in_queue(ids: list[str]) -> set[str] | None:
    """Which of these array tasks SLURM still has; None: it does not say."""
    arrays = sorted({number.split("_")[0] for number in ids})
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(arrays)}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if listed.returncode:
        return set() if "Invalid job id" in listed.stderr else None
    return set(listed.stdout.split())
