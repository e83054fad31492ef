"""What a run does late, tried on a few rows before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.data import Missing, lacks
from tasks.metrics import Answer
from tasks.source import Source

# Rows that are read for it: enough for the examples before a question, and for a set that is
# sorted by subject.
ROWS = 300


@dataclass(frozen=True)
class Rehearsal:
    """name: of what is tried; sets: what it reads.

    call: raises what is wrong; gives what a model will be asked to generate, if anything.
    """

    name: str
    sets: Sequence[tuple[Source, str]]
    call: Callable[[], Answer | None] = field(repr=False)


_passed: dict[str, Answer | None] = {}


def failing(rehearsals: Iterable[Rehearsal], data_dir: str | None) -> Iterator[Missing]:
    """Those that fail although their sets are at hand; a lacking set is told of elsewhere.

    What has passed once in this process, on the same files, is not tried again.
    """
    for rehearsal in rehearsals:
        key = _key(rehearsal, data_dir)
        if key in _passed or any(lacks(s, split, data_dir) for s, split in rehearsal.sets):
            continue
        try:
            answer = rehearsal.call()
        except Exception as error:  # of a template, a data set's builder, a scorer
            said = (
                str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
            )
            message = f"{rehearsal.name} fails on the first rows of its set: {said}"
            yield Missing(rehearsal.name, "its rehearsal", message)
        else:
            _passed[key] = answer


@dataclass(frozen=True)
class Room:
    """What a model can be asked. context: tokens of prompt and answer together.

    count: tokens of a prompt; None: the tokenizer is not at hand, and a prompt is taken as one.
    """

    model: str
    context: int
    count: Callable[[str], int] | None = None


def overlong(
    rehearsals: Iterable[Rehearsal], data_dir: str | None, room: Room
) -> Iterator[Missing]:
    """Those that ask for more than a model has room for, of the ones that have passed."""
    for rehearsal in rehearsals:
        answer = _passed.get(_key(rehearsal, data_dir))
        if answer is None:
            continue
        prompt = room.count(answer.prompt) if room.count and answer.prompt else 1
        if prompt + answer.tokens > room.context:
            message = (
                f"{rehearsal.name} needs a context of {prompt + answer.tokens:,} tokens, "
                f"{answer.tokens:,} of them for the answer, and {room.model} has "
                f"{room.context:,}: take a model with a longer one, or leave it out of what is "
                "scored."
            )
            yield Missing(rehearsal.name, "its answers", message)


def _key(rehearsal: Rehearsal, data_dir: str | None) -> str:
    files = [source.path(split, data_dir) for source, split in rehearsal.sets]
    stamps = [None if file is None else file.stat().st_mtime_ns for file in files]
    return repr((rehearsal, data_dir, stamps))
