"""Signals that ask a cell to leave: SIGTERM, SIGUSR1, SIGUSR2 (schedulers) and Ctrl-C.

In training they only set a flag: the step is finished, a checkpoint written, then the cell leaves.
Anywhere else `Stopped` is raised at once, as nothing is lost there that a checkpoint could hold.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

_reason: str | None = None
_signal: signal.Signals | None = None
_deferred = False


class Stopped(BaseException):
    """The cell was asked to leave before it was complete; the same command goes on with it."""


@contextmanager
def handled() -> Iterator[dict[signal.Signals, Any]]:
    """Inside, the signals ask the cell to leave. Gives the handlers that were there before."""
    global _reason, _signal
    _reason = _signal = None
    if threading.current_thread() is not threading.main_thread():  # Python's rule
        yield {}
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    try:
        yield before
    finally:
        _reason = _signal = None  # what was asked of this cell is not asked of the next
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a request to leave waits; whoever is here looks at `requested`."""
    global _deferred
    outer, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = outer


def request(reason: str) -> None:
    """Ask the cell to leave at its next step, from any thread."""
    global _reason
    _reason = _reason or reason


def requested() -> str | None:
    """Why the cell is to leave; None: it may stay."""
    return _reason


def received() -> signal.Signals | None:
    """The signal that asked the cell to leave."""
    return _signal


def leave_if_requested() -> None:
    """Raise Stopped where there was a request."""
    if _reason is not None:
        raise Stopped(_reason)


def _receive(number: int, frame: FrameType | None) -> None:
    global _reason, _signal
    again, _signal = _signal is not None, signal.Signals(number)
    _reason = _reason or f"received {_signal.name}"
    if again and number == signal.SIGINT:
        raise KeyboardInterrupt
    if not again and not _deferred:
        raise Stopped(_reason)
