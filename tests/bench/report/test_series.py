"""What each arm ends with against a number of the task: capacity over the number of facts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from bench import records, report
from bench.judge.cells import collect
from bench.judge.rows import group
from bench.report import files, series
from tests.bench.studies import metric

PARAMETERS = 1_000


def facts(make: Any, bits: float, number: int, **known: Any) -> records.Record:
    """A cell that stores so many bits of `number` facts of 8 bits."""
    cell = hashlib.sha256(f"{number} {known}".encode()).hexdigest()[:16]
    made: records.Record = make(trainable=PARAMETERS, final=0.5, cell=cell, **known)
    task = {"_target_": "tasks.facts.FactsTask", "facts": number, "values": 256}
    task |= {"seed": made["seed"]}
    made["config"]["task"] = task
    made["task"] = {"name": "facts", "label": "Facts", "settings": task, "data": []}
    made["metrics"]["bits_tempered"] = metric(bits, unit="bits", chance=0.0)
    return made


def saturating(make: Any, folder: Path, numbers: tuple[int, ...] = (32, 64, 128)) -> None:
    """LoRA stores 300 bits at most, at the better of two rates; MoRA keeps everything."""
    for number in numbers:
        for seed in (1, 2):
            stored = min(300.0 if number < 128 else 250.0, 8.0 * number) + seed
            records.write(facts(make, stored, number, method="lora", seed=seed), folder)
            worse = facts(make, stored - 99, number, method="lora", seed=seed, rate=1e-1)
            records.write(worse, folder)
            records.write(facts(make, 8.0 * number, number, seed=seed), folder)


def table(folder: Path) -> dict[str, list[str]]:
    (found,) = series.find(group(collect(folder).cells))
    return {row[0].text: [value.text for value in row[1:]] for row in found.table.rows}


def test_capacity_is_the_most_bits_a_trained_parameter(tmp_path: Path, make) -> None:
    saturating(make, tmp_path)
    rows = table(tmp_path)
    # 257.5, 301.5 and 251.5 are the means of two seeds; at 64 facts 301 and 302 bits: t = 12.7.
    assert rows["LoRA r=8"] == ["1,000", "258", "302", "252", "0.301 [0.295 to 0.308]"]
    assert rows["MoRA r=8"][1:4] == ["256", "512", "1,024"]
    assert rows["MoRA r=8"][4].startswith("≥ 1.024")  # all that there was


def test_a_peak_at_the_largest_number_is_a_bound(tmp_path: Path, make) -> None:
    for number, stored in ((32, 100.0), (64, 120.0), (128, 140.0)):
        records.write(facts(make, stored, number, method="lora"), tmp_path)
    assert table(tmp_path)["LoRA r=8"][-1] == "≥ 0.140"


def test_what_differs_otherwise_is_no_series(tmp_path: Path, make) -> None:
    saturating(make, tmp_path, (32, 64))
    other = facts(make, 300.0, 128)
    other["environment"] = other["environment"] | {"precision": "bf16"}
    records.write(other, tmp_path)
    assert series.find(group(collect(tmp_path).cells)) == []  # two numbers, and one in bf16


@pytest.mark.parametrize("panel", [0, 1])
def test_the_figure_has_the_tables_numbers(tmp_path: Path, make, panel: int) -> None:
    saturating(make, tmp_path)
    (found,) = series.find(group(collect(tmp_path).cells))
    figure = series.figure(found)
    assert figure is not None
    lines = [line for line in figure.axes[panel].lines if line.get_linestyle() != ":"]
    scale = (1, PARAMETERS)[panel]
    assert [*lines[0].get_xdata()] == [32, 64, 128]
    assert lines[0].get_ydata() == pytest.approx([v / scale for v in (257.5, 301.5, 251.5)])
    plt.close("all")


def test_only_the_largest_of_a_series_has_figures_of_its_own(
    tmp_path: Path, make, monkeypatch
) -> None:
    monkeypatch.setattr(files, "FIGURES_OF", 8)
    saturating(make, tmp_path / "records")
    for seed in (3, 4):
        records.write(facts(make, 290.0, 64, method="lora", seed=seed), tmp_path / "records")
    files.write(report.make(collect(tmp_path / "records")), tmp_path / "out")
    drawn = {path.name for path in (tmp_path / "out").glob("*.svg")}
    (name,) = [name for name in drawn if name.endswith("-facts-series.svg")]
    assert {other.split("-")[3] for other in drawn - {name}} == {"facts_64"}
    written = (tmp_path / "out" / "table.md").read_text()
    assert "by facts" in written and f"({name})" in written


def test_a_rate_at_which_a_seed_diverged_is_not_the_best(tmp_path: Path, make) -> None:
    """The one seed of three that came to the end has most bits; the others count too."""
    for number in (32, 64, 128):
        for seed in (1, 2, 3):
            records.write(facts(make, 100.0, number, method="lora", seed=seed), tmp_path)
            lucky = facts(make, 120.0, number, method="lora", seed=seed, rate=1e-1)
            lost = {"status": "diverged", "reason": "not finite", "metrics": {}}
            records.write(lucky if seed == 1 else lucky | lost, tmp_path)
            records.write(facts(make, 50.0, number, seed=seed) | (lost if seed > 1 else {}),
                          tmp_path)  # fmt: skip
    rows = table(tmp_path)
    assert rows["LoRA r=8"][1:4] == ["100"] * 3
    assert rows["MoRA r=8"][1:4] == ["50 (1 of 3 seeds)"] * 3


def test_an_arm_is_one_where_its_operator_goes_unsaid(tmp_path: Path, make) -> None:
    """At the largest number rotation is alone, so that its section does not name the operator."""
    for number in (32, 64, 128, 256):
        for operator in ("rotation", "sharing")[: 1 if number == 256 else 2]:
            known = facts(make, 100.0 + number, number, settings={"operator": operator})
            records.write(known, tmp_path)
    rows = table(tmp_path)
    assert rows["MoRA (rotation) r=8"][1:5] == ["132", "164", "228", "356"]
    assert rows["MoRA (sharing) r=8"][1:5] == ["132", "164", "228", "–"]


def test_who_did_worse_than_a_guess_is_drawn_at_the_axis(tmp_path: Path, make) -> None:
    saturating(make, tmp_path)
    for seed in (1, 2):
        records.write(facts(make, -40.0, 256, method="lora", seed=seed), tmp_path)
        records.write(facts(make, 900.0, 256, method="mora", seed=seed), tmp_path)
    (found,) = series.find(group(collect(tmp_path).cells))
    drawn = series.figure(found)
    assert drawn is not None
    marks = [line for line in drawn.axes[0].lines if line.get_marker() == "v"]
    assert [[*map(float, line.get_xdata())] for line in marks] == [[256.0]]
    words = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
    assert any("triangle at the axis: worse than a guess" in text for text in words)
    plt.close(drawn)


def test_series_of_two_models_have_files_of_their_own(tmp_path: Path, make, monkeypatch) -> None:
    monkeypatch.setattr(files, "FIGURES_OF", 8)
    for model in ("first", "second"):
        for number in (32, 64, 128):
            record = facts(make, 8.0 * number, number, method="lora", seed=1)
            record["model"]["name"] = record["config"]["model"]["name"] = model
            record["config"]["model"]["source"] = model
            record["cell"] = hashlib.sha256(f"{model} {number}".encode()).hexdigest()[:16]
            records.write(record, tmp_path / "records")
    made = report.make(collect(tmp_path / "records"))
    assert len(made.series) == 2
    files.write(made, tmp_path / "out")
    drawn = {path.name for path in (tmp_path / "out").glob("*-series.svg")}
    assert drawn == {"facts-first-facts-series.svg", "facts-second-facts-series.svg"}
    written = (tmp_path / "out" / "table.md").read_text()
    assert all(f"({name})" in written for name in drawn)


def test_a_number_of_which_all_cells_failed_is_left_out(tmp_path: Path, make) -> None:
    """Whether the smallest number, by which the metric is chosen, or another."""
    saturating(make, tmp_path, (64, 128, 256))
    for number in (32, 512):
        failed = facts(make, 0.0, number, method="lora", seed=1)
        records.write(failed | {"status": "failed", "reason": "x", "metrics": {}}, tmp_path)
    (found,) = series.find(group(collect(tmp_path).cells))
    assert [*found.sections] == [64, 128, 256]
    assert table(tmp_path)["MoRA r=8"][1:4] == ["512", "1,024", "2,048"]


def test_a_series_of_validation_seeds_says_so(tmp_path: Path, make) -> None:
    for number in (32, 64, 128):
        records.write(facts(make, 8.0 * number, number, seed=1), tmp_path)
        records.write(facts(make, 8.0 * number, number, seed=9, split="validation"), tmp_path)
    reported, validation = series.find(group(collect(tmp_path).cells))
    assert reported.table.title == "Facts on SmolLM2-135M-Instruct, laptop scale, by facts"
    assert validation.table.title.startswith(reported.table.title)
    assert "they choose learning rates and are not results" in validation.table.title


def test_series_that_differ_otherwise_are_titled_apart(tmp_path: Path, make) -> None:
    """By what differs beside the number; of the number each has all."""
    for precision in ("bf16", "fp32"):
        for number in (32, 64, 128):
            record = facts(make, 8.0 * number, number, seed=1, method="lora")
            record["environment"] = record["environment"] | {"precision": precision}
            record["cell"] = hashlib.sha256(f"{precision} {number}".encode()).hexdigest()[:16]
            records.write(record, tmp_path)
    found = series.find(group(collect(tmp_path).cells))
    assert sorted(one.table.title for one in found) == [
        f"Facts on SmolLM2-135M-Instruct, laptop scale, precision {precision}, by facts"
        for precision in ("bf16", "fp32")
    ]
    drawn = [series.figure(one) for one in found]
    titles = [figure.get_suptitle() for figure in drawn if figure is not None]
    assert sorted("bf16" in title for title in titles) == [False, True]
    assert not any("facts 1" in title for title in titles)
    plt.close("all")
