"""How a command ends for a person: with a message, or in silence where nobody reads any more."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

Given = ParamSpec("Given")
NOBODY_READS = 141  # what a shell says of a program that a closed pipe ended


class UserError(ValueError):
    """Something the user can put right: the message says what is wrong, where, and what to do.

    The command line shows the message alone, without a traceback, and exits with status 2.
    """


def in_words(error: BaseException) -> str:
    """The error as a message; what the system refuses with the file, and what to do."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror or error}. Make room or the right to read and write there, or "
        "choose another folder"
    )


def quiet(main: Callable[Given, int]) -> Callable[Given, int]:
    """The command, which ends without a traceback where the reader of its output is gone: | head"""

    @functools.wraps(main)
    def command(*args: Given.args, **known: Given.kwargs) -> int:
        try:
            status = main(*args, **known)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Python flushes what is left once more as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NOBODY_READS

    return command
