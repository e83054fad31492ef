"""What a run does late, tried on a few rows before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.data import Missing, lacks
from tasks.source import Source

# Rows that are read for it: enough for the examples before a question, and for a set that is
# sorted by subject.
ROWS = 300


@dataclass(frozen=True)
class Rehearsal:
    """name: of what is tried; sets: what it reads; call: raises what is wrong."""

    name: str
    sets: Sequence[tuple[Source, str]]
    call: Callable[[], None] = field(repr=False)


_passed: set[str] = set()


def failing(rehearsals: Iterable[Rehearsal], data_dir: str | None) -> Iterator[Missing]:
    """Those that fail although their sets are at hand; a lacking set is told of elsewhere.

    What has passed once in this process, on the same files, is not tried again.
    """
    for rehearsal in rehearsals:
        files = [source.path(split, data_dir) for source, split in rehearsal.sets]
        stamps = [None if file is None else file.stat().st_mtime_ns for file in files]
        key = repr((rehearsal, data_dir, stamps))
        if key in _passed or any(lacks(s, split, data_dir) for s, split in rehearsal.sets):
            continue
        try:
            rehearsal.call()
        except Exception as error:  # of a template, a data set's builder, a scorer
            said = (
                str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
            )
            message = f"{rehearsal.name} fails on the first rows of its set: {said}"
            yield Missing(rehearsal.name, "its rehearsal", message)
        else:
            _passed.add(key)
