"""A seed of the data that is the same for all cells is a setting, whichever number it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import records
from bench.judge.cells import collect
from bench.judge.rows import group
from tests.bench.judge.hand import HIGH, LOW, Make, verdict


def fill(folder: Path, make: Make, part: str, key: str, fixed: int | None, **known: object) -> None:
    for method, values in (("mora", HIGH), ("lora", LOW)):
        for seed, final in enumerate(values):
            record = make(method, seed=seed, final=final, **known)
            if fixed is not None:
                record["config"][part][key] = fixed
            records.write(record, folder)


@pytest.mark.parametrize(("part", "key"), [("task", "seed"), ("trainer", "data_seed")])
@pytest.mark.parametrize("fixed", [None, 0, 2, 7])
def test_one_seed_of_the_data_tears_no_row(
    tmp_path: Path, make: Make, part: str, key: str, fixed: int | None
) -> None:
    fill(tmp_path, make, part, key, fixed)
    (section,) = group(collect(tmp_path).cells)
    assert [[cell.seed for cell in row.cells] for row in section.rows] == [[0, 1, 2]] * 2
    assert verdict(tmp_path).verdict == "holds"


def test_a_perturbed_cell_follows_the_one_that_it_repeats(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "task", "seed", 0)
    record = make("mora", seed=0, final=0.8)
    record["config"]["task"]["seed"] = 0
    record["config"] |= {"perturb": 1e-6, "perturb_seed": 1}
    record["cell"] = "0123456789abcdef"
    records.write(record, tmp_path)
    found = collect(tmp_path)
    (perturbed,) = found.perturbed
    assert perturbed.row_key == next(c.row_key for c in found.cells if c.method == "mora")
    assert len({cell.row_key for cell in found.cells if cell.method == "mora"}) == 1


def test_fixed_and_following_seeds_are_two_settings(tmp_path: Path, make: Make) -> None:
    """The first cell of each is one and the same; it counts with those that follow."""
    fill(tmp_path, make, "task", "seed", None)
    for seed in (1, 2):
        record = make("mora", seed=seed, final=0.9, cell=f"0123456789abcde{seed}")
        record["config"]["task"]["seed"] = 0
        records.write(record, tmp_path)
    seeds = [[c.seed for c in row.cells] for s in group(collect(tmp_path).cells) for row in s.rows]
    assert sorted(seeds) == [[0, 1, 2], [0, 1, 2], [1, 2]]
