"""Where two ways break even, on curves whose answer is known; what a stopped run has told."""

from __future__ import annotations

import math

import pytest

from scripts.timing import crossing, interleave, ratio


@pytest.mark.parametrize("guess", [16, 40, 250, 301, 5000, 10**6])
def test_the_crossing_is_found_from_either_side(guess: int) -> None:
    """Forming costs as much as 300 tokens' worth of the other way."""
    found = crossing(lambda tokens: math.log((tokens + 100) / 400), guess)
    assert found == pytest.approx(300, rel=0.1)


def test_a_way_that_is_always_the_faster_one_gives_the_bound() -> None:
    assert crossing(lambda tokens: 1.0, 300) == 16
    assert crossing(lambda tokens: -1.0, 300) == 8192
    assert crossing(lambda tokens: -1.0, 300, most=1000) == 1000


def test_a_run_that_is_stopped_has_told_the_rounds_before() -> None:
    """Each contestant once a round, and the order turns."""
    order: list[str] = []
    told: list[dict[str, int]] = []

    def second() -> None:
        order.append("b")
        if len(order) >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave(
            {"a": lambda: order.append("a"), "b": second},
            rounds=9,
            warmup=1,
            after_round=lambda seconds: told.append({k: len(v) for k, v in seconds.items()}),
        )
    assert order == ["a", "b", "b", "a", "a", "b", "b"]
    assert told == [{"a": 1, "b": 1}, {"a": 2, "b": 2}]


def test_the_interval_of_a_median_lies_evenly() -> None:
    """Of nine rounds the second and the eighth: 96 % (a binomial of 9 tosses)."""
    found = ratio([float(i) for i in range(1, 10)], [1.0] * 9)
    assert (found.median, found.low, found.high) == (5.0, 2.0, 8.0)
    few = ratio([3.0, 1.0, 2.0], [1.0] * 3)
    assert (few.low, few.high) == (1.0, 3.0)
