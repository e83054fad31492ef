"""Where two ways of computing break even, on curves whose answer is known."""

from __future__ import annotations

import math

import pytest

from scripts.timing import crossing


@pytest.mark.parametrize("guess", [16, 40, 250, 301, 5000, 10**6])
def test_the_crossing_is_found_from_either_side(guess: int) -> None:
    """Forming costs as much as 300 tokens' worth of the other way."""
    found = crossing(lambda tokens: math.log((tokens + 100) / 400), guess)
    assert found == pytest.approx(300, rel=0.1)


def test_a_way_that_is_always_the_faster_one_gives_the_bound() -> None:
    assert crossing(lambda tokens: 1.0, 300) == 16
    assert crossing(lambda tokens: -1.0, 300) == 8192
    assert crossing(lambda tokens: -1.0, 300, most=1000) == 1000
