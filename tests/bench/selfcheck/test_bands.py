"""Judging curves by bands, on made-up numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.selfcheck import bands, cells
from bench.selfcheck.bands import Band, Kind

KINDS = [
    Kind("old", "2.0", {"mora fp32": {1: Band(10.0, 1e-6, 0.1), 20: Band(4.0, 0.01, 0.5)}}),
    Kind("new", "2.1", {"mora fp32": {1: Band(10.0, 1e-6, 0.1), 20: Band(4.3, 0.01, 0.5)}}),
]


@pytest.mark.parametrize(
    ("curve", "ok"),
    [
        ({1: 10.0, 20: 4.0}, True),
        ({1: 10.004, 20: 4.07}, True),  # within the floor, within eight spreads
        ({1: 10.0, 20: 4.3}, True),  # as on another kind of machine
        ({1: 10.0, 20: 4.15}, False),  # between the two
        ({1: 10.006, 20: 4.0}, False),
        ({1: 10.0}, False),  # it ended before
        ({1: 10.0, 20: math.nan}, False),
    ],
)
def test_a_curve_has_to_fit_one_kind_of_machine(curve: dict[int, float], ok: bool) -> None:
    found = bands.judge("mora fp32", curve, KINDS)
    assert found.ok is ok and bool(found.remedy) is not ok


def test_the_nearest_kind_is_named_with_the_worst_step() -> None:
    found = bands.judge("mora fp32", {1: 10.0, 20: 4.45}, KINDS)
    assert "step 20" in found.said and "new" in found.said


def test_a_cell_without_bands_is_not_judged() -> None:
    found = bands.judge("mora bf16", {1: 10.0}, KINDS)
    assert found.ok is None and "--calibrate" in found.remedy


def test_bands_survive_their_file_and_a_kind_replaces_itself(tmp_path: Path) -> None:
    file = tmp_path / "bands.yaml"
    again = Kind("old", "2.2", {"mora fp32": {1: Band(9.0, 2e-6, 0.1)}})
    bands.save(bands.merged(KINDS, again), file)
    assert bands.load(file) == [KINDS[1], again]
    assert bands.load(tmp_path / "none.yaml") == []


def test_fit_takes_the_spread_of_repeats_alone() -> None:
    band = bands.fit([{1: 1.0}, {1: 1.2}, {1: 1.1}], [{1: 1.0}, {1: 3.0}])[1]
    assert band.mean == pytest.approx(1.1) and band.spread == pytest.approx(0.1)
    assert band.seeds == pytest.approx(math.sqrt(2))


def test_the_committed_bands_are_of_these_cells() -> None:
    kinds = bands.load()
    assert kinds
    for kind in kinds:
        assert set(kind.cells) == set(cells.NAMES)
        assert all(set(steps) == set(cells.STEPS) for steps in kind.cells.values())
