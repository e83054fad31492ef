"""scripts/time_overhead.py: what it says of the seconds that it measured."""

from __future__ import annotations

from time_overhead import report


def test_the_share_is_taken_within_a_round() -> None:
    text = report("LoRA on uuid", 50, [10.0, 20.0, 10.0], [10.1, 20.4, 10.3])
    assert "50 steps of LoRA on uuid" in text
    assert "3 rounds" in text
    assert "| more, s | 0.3 | 0.1 to 0.4 |" in text
    assert "| more, % of the bare loop | 2.0 | 1.0 to 3.0 |" in text
    assert "| more, % of five minutes | 0.1 | 0.0 to 0.1 |" in text
