"""What a run does late, tried on a few rows before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

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
    call: Callable[[], None]


def failing(rehearsals: Iterable[Rehearsal], data_dir: str | None) -> Iterator[Missing]:
    """Those that fail although their sets are at hand; a lacking set is told of elsewhere."""
    for rehearsal in rehearsals:
        if any(lacks(source, split, data_dir) for source, split in rehearsal.sets):
            continue
        try:
            rehearsal.call()
        except Exception as error:  # of a template, a data set's builder, a scorer
            said = (
                str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
            )
            message = f"{rehearsal.name} fails on the first rows of its set: {said}"
            yield Missing(rehearsal.name, "its rehearsal", message)
