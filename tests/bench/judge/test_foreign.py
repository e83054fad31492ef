"""Anyone's table, peft's stored results, and our cells in both forms."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import records, report
from bench.errors import UserError
from bench.judge import foreign
from bench.judge.cells import collect
from bench.judge.rows import group
from bench.report import export
from bench.report.__main__ import main

HEAD = "method,rank,learning_rate,seed,metric,value,steps\n"
CLAIM = """\
id: faster
stated: here
says: MoRA needs fewer steps than LoRA.
task: "*"
endpoint: {kind: to_target, targets: [1.0]}
a: {method: mora}
b: {method: lora}
direction: better
margin: 1.02
"""


def known_study(file: Path, ratio: float = 1.10, seeds: int = 12) -> None:
    """Log-normal steps; LoRA needs `ratio` times MoRA's."""
    rng = np.random.default_rng(5)
    lines = []
    for seed in range(seeds):
        base = rng.normal(math.log(100), 0.05)
        for method, shift in (("mora", 0.0), ("lora", math.log(ratio))):
            steps = math.exp(base + shift + rng.normal(0, 0.03))
            lines.append(f"{method},8,1e-3,{seed},steps_to_target,{steps:.2f},500\n")
    file.write_text(HEAD + "".join(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "claims"
    made.mkdir()
    (made / "faster.yaml").write_text(CLAIM)
    return made


def judged(out: Path) -> dict[str, str]:
    lines = csv.DictReader(io.StringIO((out / "claims.csv").read_text()))
    return next(line for line in lines if line["effect"])


def test_a_table_with_a_known_answer(tmp_path: Path, folder: Path, no_figures: None) -> None:
    known_study(tmp_path / "steps.csv")
    command = [str(tmp_path / "steps.csv"), "--claims-from", str(folder), "--out", str(tmp_path)]
    assert main(command) == 0
    line = judged(tmp_path)
    assert line["verdict"] == "holds" and line["seeds"] == "12"
    low, high = (math.exp(float(line[edge])) for edge in ("low", "high"))
    assert low < 1.10 < high < low * 1.1
    assert (tmp_path / "table.md").exists()


def test_what_was_never_reached_is_censored(tmp_path: Path, folder: Path, no_figures: None) -> None:
    known_study(tmp_path / "steps.csv", ratio=1.3, seeds=5)
    text = (tmp_path / "steps.csv").read_text().splitlines()
    text[2] = "lora,8,1e-3,0,steps_to_target,,500"
    (tmp_path / "steps.csv").write_text("\n".join(text) + "\n")
    command = [str(tmp_path / "steps.csv"), "--claims-from", str(folder), "--out", str(tmp_path)]
    assert main(command) == 0
    line = judged(tmp_path)
    assert line["seeds"] == "5" and "/6.21461" in line["by_seed"]  # the logarithm of 500


def test_who_is_ahead_must_have_got_there(tmp_path: Path, folder: Path, no_figures: None) -> None:
    """'Never' counts as the last step, which is nearly nothing more than the others took."""
    lines = [
        f"{method},8,1e-3,{seed},steps_to_target,{steps},300"
        for seed in range(12)
        for method, steps in (("mora", "" if seed < 4 else 100 + seed), ("lora", 280 + seed))
    ]
    (tmp_path / "steps.csv").write_text(HEAD + "\n".join(lines) + "\n")
    command = [str(tmp_path / "steps.csv"), "--claims-from", str(folder), "--out", str(tmp_path)]
    assert main(command) == 0
    line = judged(tmp_path)
    assert line["verdict"] == "cannot tell"
    assert "4 cells of a, which is ahead, never got there" in line["reason"]


def test_a_speed_is_better_the_higher_it_is(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{HEAD}mora,8,1e-3,0,tokens_per_second,90,1\n")
    (cell,) = foreign.table(file).cells
    assert cell.metrics["tokens_per_second"].higher_is_better


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mora,8,1e-3,x,accuracy,0.5,1", "line 3: seed is 'x'; it must be a number"),
        ("mora,8,1e-3,1.5,accuracy,0.5,1", "line 3: seed is '1.5'; it must be a whole number"),
        ("mora,8,-1,1,accuracy,0.5,1", "line 3: learning_rate is -1; it must be above 0"),
        ("mora,8,1e-3,1,accuracy,,1", "line 3: value is empty"),
        ("mora,8,1e-3,1,tokens_to_target,,1", "line 3: value is empty; only steps_to_target may"),
        ("mora,8,1e-3,1,steps_to_target,,", "line 3: value is empty: steps must say how many"),
        ("mora,8,1e-3,1,accuracy,nan,1", "line 3: value is 'nan'; it must be a finite number"),
        (",8,1e-3,1,accuracy,0.5,1", "line 3: method is empty"),
        ("mora,8,1e-3,0,accuracy,0.5,1", "line 3: seed 0 of mora has accuracy twice"),
        ("mora,8,1e-3,1,accuracy,0.5,1,9", "line 3: it has more fields than the heading"),
        ("mora,8,1e-3,0,loss,0.5,7", "line 3: steps is 7, and 1 on another of its lines"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{HEAD}mora,8,1e-3,0,accuracy,0.5,1\n{line}\n")
    with pytest.raises(UserError, match=message):
        foreign.table(file)


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("method,seed,value\nmora,1,2\n")
    with pytest.raises(UserError, match="column rank, learning_rate, metric is missing"):
        foreign.table(file)
    file.write_text(HEAD.strip() + ",colour\n")
    with pytest.raises(UserError, match="unknown column 'colour'"):
        foreign.table(file)
    file.write_text(HEAD)
    with pytest.raises(UserError, match="no lines below its heading"):
        foreign.table(file)


def test_our_cells_as_a_table_and_back(tmp_path: Path, study: Path) -> None:
    ours = collect(study).cells
    export.write(collect(study), tmp_path)
    theirs = foreign.table(tmp_path / "cells.csv").cells

    def known(cells: list) -> set:
        return {
            (c.method, c.rank, c.learning_rate, c.seed, c.trainable, name, m.value, m.unit)
            for c in cells
            for name, m in c.metrics.items()
        }

    assert known(ours) == known(theirs)


def test_our_cells_in_pefts_form_are_read_as_theirs(tmp_path: Path, study: Path) -> None:
    export.write(collect(study), tmp_path)
    found = report.collect(tmp_path / "peft")
    assert len(found.cells) == 9 and not found.refused
    ours = {c.metrics["accuracy"].value for c in collect(study).cells}
    assert {c.metrics["accuracy"].value for c in found.cells} == ours


def test_pefts_stored_results_support_no_verdict(data_dir: Path) -> None:
    folder = data_dir / "public_results"
    if not folder.is_dir():
        pytest.skip("no stored results of others here")
    found = report.collect(folder)
    assert len(found.cells) == 63 and not found.refused
    lora = next(c for c in found.cells if c.file.name == "lora--llama-3.2-3B-rank32-lorafa.json")
    assert (lora.rank, lora.learning_rate, lora.seed) == (32, 1e-4, 0)
    assert lora.metrics["accuracy"].value == pytest.approx(0.404094)
    assert lora.metrics["forgetting_nats"].value == pytest.approx(0.0606835)
    assert lora.cost["peak_memory_bytes"] == 22240296960 and lora.trainable == 3670016
    said = foreign.supports(found)
    assert said.startswith("No verdict can be had from these 63 experiments: each has one seed")
    assert "37 run at the rate 0.0001" in said


def test_records_are_no_foreign_results(study: Path, make: Callable[..., records.Record]) -> None:
    assert foreign.supports(collect(study)) == ""


def test_settings_and_arms_stay_apart_in_our_table(tmp_path: Path, make) -> None:
    """Two numbers of pairs, and two ways to group one operator, are not one arm of more seeds."""
    for i, (pairs, groups) in enumerate([(32, "strided"), (32, "contiguous"), (64, "strided")]):
        settings = {"operator": "sharing", "input_groups": groups}
        for seed in (1, 2):
            cell = f"{10 * i + seed:016x}"
            known = make(seed=seed, pairs=pairs, settings=settings, cell=cell)
            records.write(known, tmp_path / "runs")
    export.write(collect(tmp_path / "runs"), tmp_path)
    sections = group(foreign.table(tmp_path / "cells.csv").cells)
    assert sorted(len(s.rows) for s in sections) == [1, 2]
    assert all([cell.seed for cell in row.cells] == [1, 2] for s in sections for row in s.rows)
