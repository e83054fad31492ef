"""Steps to a target loss in tables, and which rows they do not tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import records, report
from bench.judge.cells import collect
from bench.judge.rows import group
from bench.judge.targets import apart, endpoint
from bench.report import tables
from bench.report.__main__ import main

WINDOW = 8


def cell(make, method: str, seed: int, steps: float, **known: Any) -> records.Record:
    """A record whose loss on value tokens, mean of eight steps, falls below 1 after `steps`."""
    record = make(method, seed=seed, **known)
    for point in record["curves"]["train"]:
        point["value_loss"] = 1.0 + (steps - 0.5 - (WINDOW - 1) / 2 - point["step"]) / 20
    return record


def write(folder: Path, make, steps: dict[str, list[float]], **known: Any) -> Path:
    for method, of_seeds in steps.items():
        for seed, number in enumerate(of_seeds):
            records.write(cell(make, method, seed, number, **known), folder)
    return folder


def shown(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The column by method, and the notes that speak of it."""
    (sheet,) = report.make(collect(folder)).sheets
    titles = [" ".join(column.title.split()) for column in sheet.table.columns]
    place = titles.index("steps to a value loss of 1")
    column = {row[0].text: row[place].text for row in sheet.table.rows}
    return column, [note for note in sheet.table.notes if "told apart" in note]


def test_arms_alike_are_not_told_apart_and_others_are(tmp_path: Path, make) -> None:
    steps = {
        "fft": [20, 21, 20, 19, 20],
        "lora": [37, 36, 38, 37, 36],
        "mora": [36, 38, 37, 36, 38],
    }
    column, notes = shown(write(tmp_path, make, {k: [*map(float, v)] for k, v in steps.items()}))
    assert column == {"FFT": "20 ± 1", "LoRA": "37 ± 1", "MoRA": "37 ± 1"}
    together, differ = notes
    assert together.startswith("not told apart by steps to a value loss of 1 (mean of 8 steps): ")
    assert together.count(" and ") == 1 and "LoRA r=8 and MoRA r=8 (× 0.99 [" in together
    assert differ.startswith("told apart by steps") and differ.count("FFT and") == 2
    assert "5 seeds" in differ


def test_one_seed_tells_nothing_apart(tmp_path: Path, make) -> None:
    column, notes = shown(write(tmp_path, make, {"lora": [40.0], "mora": [20.0]}))
    assert column == {"LoRA": "40", "MoRA": "20"}
    (note,) = notes
    assert note == (
        "one seed a row: no two of these are told apart by steps to a value loss of 1 "
        "(mean of 8 steps)"
    )


def test_two_seeds_are_too_few(tmp_path: Path, make) -> None:
    write(tmp_path, make, {"lora": [40.0, 41.0], "mora": [20.0, 20.0]})
    assert "2 paired seeds; at least 3 are needed" in shown(tmp_path)[1][0]


def test_a_perturbed_repeat_tells_how_little_one_seed_says(tmp_path: Path, make) -> None:
    write(tmp_path, make, {"fft": [20.0], "lora": [36.0], "mora": [38.0]})
    again = cell(make, "lora", 0, 39.0)
    again["config"] |= {"perturb": 1e-6, "perturb_seed": 1}
    again["cell"] = "f" * 16
    records.write(again, tmp_path)
    (note,) = shown(tmp_path)[1]
    assert note.startswith("one seed a row: no two of these are told apart")
    near, far = note.split("; no further apart ")[1].split("; further apart ")
    assert near.startswith("than a change that means nothing makes (× 1.08): LoRA r=8 and MoRA")
    assert "FFT and LoRA r=8 (× 0.56); FFT and MoRA" in far
    assert "says nothing of other seeds" in far


def test_who_never_gets_there_is_a_bound(tmp_path: Path, make) -> None:
    steps = {"lora": [100.0] * 3, "mora": [40.0, 100.0, 41.0], "fft": [20.0, 21.0, 22.0]}
    write(tmp_path, make, steps)
    column, notes = shown(tmp_path)
    assert column == {"FFT": "21 ± 1", "LoRA": "> 60", "MoRA": "≥ 47 ± 11"}
    assert "FFT and LoRA r=8 (the target was not reached by most cells of one)" in notes[0]
    (section,) = group(collect(tmp_path).cells)
    lines = tables.as_csv([section], "").splitlines()
    names, lora = lines[0].split(","), lines[2].split(",")
    assert lora[names.index("steps_to_value_loss_1_not_reached")] == "3"
    assert float(lora[names.index("steps_to_value_loss_1_mean")]) == 60


def test_the_record_names_the_target(tmp_path: Path, make) -> None:
    for seed in range(2):
        record = cell(make, "lora", seed, 40.0)
        record["config"]["analysis"] = {"target_loss": 0.5}
        records.write(record, tmp_path)
    (section,) = group(collect(tmp_path).cells)
    wanted = endpoint(section)
    assert wanted is not None and wanted.judged == 0.5
    assert "steps to a\nvalue loss\nof 0.5" in [c.title for c in tables.build(section).columns]


def test_the_diverged_count_as_slower(tmp_path: Path, make) -> None:
    write(tmp_path, make, {"mora": [30.0, 31.0, 32.0], "lora": [30.0, 31.0]})
    lost = cell(make, "lora", 2, 100.0, status="diverged", reason="not finite", metrics={})
    lost["curves"]["train"] = lost["curves"]["train"][:10]
    records.write(lost | {"examples": {}}, tmp_path)
    assert shown(tmp_path)[0] == {"LoRA": "≥ 40 ± 17", "MoRA": "31 ± 1"}


@pytest.mark.parametrize("rates", [(1e-3,), (1e-3, 2e-3)])
def test_several_rates_are_left_to_claims(tmp_path: Path, make, rates: tuple[float, ...]) -> None:
    for rate in rates:
        write(tmp_path, make, {"lora": [30.0] * 3, "mora": [40.0] * 3}, rate=rate)
    (section,) = group(collect(tmp_path).cells)
    said = apart(section)
    assert any("compared by claims" in line for line in said) == (len(rates) > 1)


def test_no_column_without_the_loss_on_the_answer(study: Path) -> None:
    (section,) = group(collect(study).cells)
    assert endpoint(section) is None and apart(section) == []
    assert not any("steps to" in column.title for column in tables.build(section).columns)
    assert "value_loss" not in tables.as_csv([section], "")


def test_the_printed_table_says_it(tmp_path: Path, make, capsys, no_figures) -> None:
    write(tmp_path, make, {"lora": [40.0], "mora": [20.0]})
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "one seed a row: no two of these are told apart" in printed
    assert "told apart" in (tmp_path / "out" / "table.md").read_text()
