"""The clock of scripts/profile_cell.py: every second belongs to one part, the innermost."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from scripts import profile_cell


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Processor time, in the hand of the test."""
    at = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: at[0])
    return at


def test_the_innermost_part_has_the_time(now: list[float]) -> None:
    clock = profile_cell.Clock()
    now[0] = 1
    with clock.part("training"):
        now[0] = 3
        with clock.part("scoring"):
            now[0] = 6
        clock.rename("other steps")
        now[0] = 10
    now[0] = 15
    clock.switch()
    assert clock.spent == {"the rest": 6, "training": 2, "scoring": 3, "other steps": 4}


def test_wrapped_calls_are_a_part_and_still_answer(now: list[float]) -> None:
    def once(kind: str) -> str:
        now[0] += 2
        return kind

    kept, clock = SimpleNamespace(once=once), profile_cell.Clock()
    clock.wrap(kept, "once")
    assert (kept.once("data"), kept.once("card")) == ("data", "card")
    assert clock.spent["data"] == clock.spent["data card"] == 2


def test_the_table_has_every_part_and_the_sum() -> None:
    lines = profile_cell.table({"uuid": {"imports": 2.0, "the rest": 0.5}})
    assert len(lines) == 3 + len(profile_cell.PARTS)
    assert lines[2] == "| imports | 2.00 |" and lines[-1] == "| **all** | 2.50 |"
