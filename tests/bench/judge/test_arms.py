"""Which cells an arm and a claim are about."""

from __future__ import annotations

from pathlib import Path

from bench.judge.claims import Arm
from tests.bench.judge.hand import HIGH, LOW, Make, fill, verdict


def test_an_arm_may_be_about_one_rate(tmp_path: Path, make: Make) -> None:
    """At that rate alone, whatever is best; a third arm with several rates takes no part."""
    for rate, mora, lora in ((1e-3, HIGH, LOW), (2e-3, LOW, HIGH)):
        fill(tmp_path, make, "mora", mora, rate=rate)
        fill(tmp_path, make, "lora", lora, rate=rate)
        fill(tmp_path, make, "dora", mora, rate=rate)
    for rate, said in ((1e-3, "holds"), (2e-3, "reversed")):
        found = verdict(tmp_path, a=Arm("mora", rate=rate), b=Arm("lora", rate=rate))
        assert found.verdict == said
        assert len(found.cells) == 6


def test_a_third_arm_with_a_single_seed_takes_no_part(tmp_path: Path, make: Make) -> None:
    """Without that seed, which is tried, the arm has nothing."""
    fill(tmp_path, make, "mora", (*HIGH, 0.82))
    fill(tmp_path, make, "lora", (*LOW, 0.51))
    fill(tmp_path, make, "dora", HIGH[:1])
    found = verdict(tmp_path)
    assert found.verdict == "holds" and found.without_one == "the same without any one seed"


def test_claims_may_be_about_one_experiment(tmp_path: Path, make: Make) -> None:
    for experiment, mora, lora in (("one", HIGH, LOW), ("two", LOW, HIGH)):
        known = {"experiment": experiment, "scale": experiment}
        fill(tmp_path, make, "mora", mora, **known)
        fill(tmp_path, make, "lora", lora, **known)
    assert verdict(tmp_path, setting=(("experiment", ("one",)),)).verdict == "holds"
    assert verdict(tmp_path, setting=(("experiment", ("two",)),)).verdict == "reversed"
