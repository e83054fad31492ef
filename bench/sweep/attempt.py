"""One attempt at a cell: run it unless it is done or taken. Whatever happens is an outcome."""

from __future__ import annotations

import logging
import sys
import time

from omegaconf.errors import OmegaConfBaseException

from bench import records
from bench.errors import UserError
from bench.run import distributed, imports, interrupts
from bench.run.plan import Plan, done, tidy
from bench.run.prepare import Cell, prepare
from bench.run.progress import Progress
from bench.sweep import estimate, leases
from bench.sweep.outcomes import Outcome, of_record
from methods import MethodError
from tasks import TaskError

MISTAKES = (UserError, MethodError, TaskError, OmegaConfBaseException)
# Seconds that the first process has to record or to tell what broke all of them down, before
# another's end makes torchrun end it as well.
GRACE = 5.0
log = logging.getLogger(__name__)


def attempt(plan: Plan, watcher: leases.Watcher, progress: Progress) -> Outcome:
    """Run the cell, and say how it ended; KeyboardInterrupt alone passes through.

    watcher: what this process has seen of others' leases.
    """
    if not distributed.joined():
        reason = "processes that were started together train one cell: leave -m out of the command"
        return Outcome(plan.title, "refused", reason, plan.command)
    if distributed.first():
        return _lead(plan, watcher, progress)
    return _follow(plan)


def _lead(plan: Plan, watcher: leases.Watcher, progress: Progress) -> Outcome:
    begun = False
    try:
        if (known := done(plan)) is not None:
            return done_before(plan, known, watcher)
        leases.look(plan.lease, watcher)
        ready = prepare(plan)
        _refuse_what_cannot_fit(ready)
        with leases.held(plan.lease, watcher) as lease:
            if (known := done(plan)) is not None:  # completed elsewhere while we prepared
                return of_record(plan.title, plan.command, known, fresh=False)
            begun = distributed.tell(True)
            record = _run(ready, lease, progress)
            return of_record(plan.title, plan.command, record)
    except (leases.Taken, leases.Lost) as reason:
        return Outcome(plan.title, "elsewhere", str(reason), plan.command)
    except interrupts.Stopped as reason:
        return Outcome(plan.title, "stopped", f"{reason}; it can be resumed", plan.command)
    except MISTAKES as error:
        return Outcome(plan.title, "refused", str(error), plan.command)
    except Exception as error:  # what no check foresaw; the other cells go on
        log.debug("the cell broke down here:", exc_info=True)
        return Outcome(plan.title, "failed", f"{type(error).__name__}: {error}", plan.command)
    finally:
        if not begun:
            distributed.tell(False)


def _refuse_what_cannot_fit(ready: Cell) -> None:
    """Raise UserError where the device has not the memory, before anything is loaded."""
    plan = ready.plan
    if plan.config["check_memory"]:
        config = {**plan.config, "precision": plan.placement.precision}
        if reason := estimate.refused(config, ready.method, plan.placement.where):
            raise UserError(f"{reason} To run it as it is: check_memory=false.")


def _follow(plan: Plan) -> Outcome:
    """Work at the cell with the first process, which alone leases, writes and tells."""
    if not distributed.tell():
        return Outcome(plan.title, "ok", None, plan.command, fresh=False)
    try:
        ready = prepare(plan)
        imports.ahead("bench.run.cell")
        from bench.run.cell import run_cell

        record = run_cell(ready, lambda: None, Progress())
        return of_record(plan.title, plan.command, record)
    except interrupts.Stopped as reason:
        return Outcome(plan.title, "stopped", str(reason), plan.command)
    except MISTAKES as error:
        time.sleep(GRACE)
        outcome = Outcome(plan.title, "refused", str(error), plan.command)
        # The first process is still there: it has not met the mistake, and nobody else prints it.
        print(f"process {distributed.rank()}: {outcome.reason}", file=sys.stderr, flush=True)
        return outcome
    except Exception:
        time.sleep(GRACE)
        raise


class Reporting(Progress):
    """Progress that is shown here, and in the lease for others."""

    def __init__(self, shown: Progress, lease: leases.Lease) -> None:
        self.shown, self.lease, self.total = shown, lease, 0

    def start(self, total: int, done: int = 0) -> None:
        self.total = total
        self.lease.show(done, total)
        self.shown.start(total, done)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def step(self, step: int, loss: float) -> None:
        self.lease.show(step, self.total)
        self.shown.step(step, loss)

    def stop(self) -> None:
        self.shown.stop()


def _run(ready: Cell, lease: leases.Lease, progress: Progress) -> records.Record:
    imports.ahead("bench.run.cell")  # heavy, and needed by cells that run
    from bench.run import cell

    try:
        return cell.run_cell(ready, lease.check, Reporting(progress, lease))
    except (leases.Lost, *MISTAKES):
        raise
    except Exception as error:
        log.debug("the cell broke down here:", exc_info=True)
        with interrupts.deferred():
            lease.check()
            return cell.failed(ready, error)


def done_before(plan: Plan, record: records.Record, watcher: leases.Watcher) -> Outcome:
    """The outcome of a cell whose record is there; what its end left beside it is removed."""
    if leases.remove_stale(plan.lease, watcher):  # else a forced rerun that is at work needs it
        tidy(plan)
    return of_record(plan.title, plan.command, record, fresh=False)
