"""Tables: right numbers, nothing averaged that differs, everything said that must be."""

import csv
import io
import json
import math
import re
import statistics
from pathlib import Path

import pytest

from bench import records, report
from bench.errors import UserError
from bench.judge import judging, paper
from bench.judge.cells import Score, collect
from bench.judge.claims import load as load_claims
from bench.judge.rows import group
from bench.records.words import format_rate
from bench.report import curves, export, numbers, plots, render, tables
from tests.bench.report.sheets import fields, sheets


def test_table_has_the_papers_form(study: Path) -> None:
    (sheet,) = sheets(study)
    rows = fields(sheet)
    assert [row["method"] for row in rows] == ["FFT", "LoRA", "MoRA"]
    assert [row["r"] for row in rows] == ["–", "8", "8"]
    assert [row["learning rate"] for row in rows] == ["1e-4", "2e-3", "1e-3"]
    assert [row["seeds"] for row in rows] == ["3"] * 3
    assert rows[1]["trainable parameters"] == "2,442,240"
    assert [name for name in rows[0] if name.startswith("accuracy")] == [
        "accuracy (%) at step 15",
        "accuracy (%) at step 30",
        "accuracy (%) at step 45",
    ]
    for name in ("final accuracy (%)", "exact match (%)", "tokens/s", "peak memory (GiB)"):
        assert name in rows[0]
    assert sheet.table.sheet == [
        "model: SmolLM2-135M-Instruct (smollm2_135m_wheel)",
        "task: UUID pairs, 32 pairs, loss_on all",
        "training: 60 steps, 32 examples a step, linear schedule",
        "seeds: 3 (1, 2, 3); ± is the standard deviation over seeds",
        "device: cpu, precision fp32, 2 threads",
        "records: 9 (9 ok)",
        "experiment: table2_uuid",
        "code: 0123456789",
    ]


@pytest.mark.parametrize(
    ("name", "unit", "label"),
    [
        ("exact_match", "fraction", "exact match (%)"),
        ("nll", "nats", "nll (nats)"),
        ("bits_tempered", "bits", "bits tempered"),
        ("held_out_bits_per_byte", "bits per byte", "held out bits per byte"),
        ("held_out_perplexity", "perplexity", "held out perplexity"),
    ],
)
def test_a_unit_is_said_once(name: str, unit: str, label: str) -> None:
    assert numbers.unit_label(name, Score(1.0, 1, True, unit, None)) == label


def test_means_and_spreads(study: Path) -> None:
    at_30, tokens = [], []
    for file in records.find(study):
        record = records.read(file)
        if record["method"]["name"] == "mora":
            at_30.append(100 * record["curves"]["scores"][1]["metrics"]["accuracy"])
            tokens.append(record["cost"]["tokens_per_second"])
    row = fields(sheets(study)[0])[2]
    expected = f"{statistics.mean(at_30):.1f} ± {statistics.stdev(at_30):.1f}"
    assert row["accuracy (%) at step 30"] == expected
    assert row["tokens/s"] == f"{statistics.mean(tokens):,.0f}"
    assert row["peak memory (GiB)"] == "1.60"


def test_the_papers_row_stands_beside_and_says_what_it_is(study: Path) -> None:
    (sheet,) = sheets(study)
    group = f"paper, accuracy (%) at step: {paper.UUID_SETTING}"
    for row, key in zip(fields(sheet), [("fft", None), ("lora", 8), ("mora", 8)], strict=True):
        for step, number in paper.TABLE2[key].items():
            assert row[f"{group} {step}"] == f"{number:.1f}"
    assert "LLaMA-2 7B, 10,000 pairs" in render.text(sheet.table)
    assert any("not on SmolLM2-135M-Instruct" in note for note in sheet.table.notes)


def test_the_papers_rank_is_the_nearest(tmp_path: Path, make) -> None:
    records.write(make("lora", 64), tmp_path)
    records.write(make("relora", 64), tmp_path)
    (sheet,) = sheets(tmp_path)
    quoted = [j for j, column in enumerate(sheet.table.columns) if column.quoted]
    paper_columns = [[row[j].text for j in quoted] for row in sheet.table.rows]
    assert paper_columns == [["256", "9.9", "70.6", "100.0", "100.0"], ["–"] * 5]


def test_several_benchmarks_are_averaged_as_the_paper_does(tmp_path: Path, make) -> None:
    part = {"n": 100, "higher_is_better": True, "unit": "fraction", "chance": None}
    names = ("biomed_acc", "rct_acc", "rct_f1", "rct_long_acc", "rct_extracted_strict")
    record = make(
        task={"name": "biomedicine", "label": "Biomedicine", "settings": {}, "data": []},
        metrics={name: {"value": 0.1 * i} | part for i, name in enumerate(names, 1)},
        curves={"train": [], "scores": []},
        examples={},
    )
    record["config"]["task"] = {"scores": ["biomed", "rct", "rct_long"]}
    records.write(record, tmp_path)
    (sheet,) = sheets(tmp_path)
    assert sheet.metric == "average"
    assert fields(sheet)[0]["final average (%)"] == "23.3"  # 10, 20 and 40
    assert "average: of biomed_acc, rct_acc, rct_long_acc" in sheet.table.notes
    assert "1 more metric in table.csv" in sheet.table.notes


def test_settings_are_never_averaged_together(tmp_path: Path, make) -> None:
    records.write(make(seed=1), tmp_path)
    records.write(make(seed=2, pairs=64), tmp_path)
    records.write(make(seed=3, scale="paper"), tmp_path)
    model = {"name": "tiny", "label": "Tiny LLaMA", "source": None, "revision": None}
    records.write(make(seed=4, model=model), tmp_path)
    made = make(seed=5)
    made["environment"] = made["environment"] | {"precision": "bf16"}
    made["cell"] = "f" * 16
    records.write(made, tmp_path)
    assert [len(sheet.section.rows) for sheet in sheets(tmp_path)] == [1] * 5
    slugs = [sheet.slug for sheet in sheets(tmp_path)]
    assert len(set(slugs)) == 5


def test_titles_say_what_sets_settings_apart(tmp_path: Path, make) -> None:
    records.write(make(seed=1), tmp_path)
    assert [sheet.section.detail for sheet in sheets(tmp_path)] == [""]
    records.write(make(seed=2, pairs=64), tmp_path)
    made = make(seed=3)
    made["environment"] = made["environment"] | {"precision": "bf16"}
    records.write(made | {"cell": "f" * 16}, tmp_path)
    assert sorted(sheet.section.detail for sheet in sheets(tmp_path)) == [
        "pairs 32, precision bf16", "pairs 32, precision fp32", "pairs 64, precision fp32",
    ]  # fmt: skip


def test_trials_are_rows_and_variants_are_named(tmp_path: Path, make) -> None:
    for seed in (1, 2):
        for rate in (1e-3, 2e-3):
            records.write(make(rate=rate, seed=seed, settings={"operator": "rotation"}), tmp_path)
        records.write(make(seed=seed, settings={"operator": "sharing"}), tmp_path)
        records.write(make("lora", seed=seed), tmp_path)
    (sheet,) = sheets(tmp_path)
    assert [(row.name, row.learning_rate) for row in sheet.section.rows] == [
        ("LoRA", 1e-3),
        ("MoRA (rotation)", 1e-3),
        ("MoRA (rotation)", 2e-3),
        ("MoRA (sharing)", 1e-3),
    ]


def test_what_one_variant_alone_has_is_not_named(tmp_path: Path, make) -> None:
    groups = {"input_groups": "strided", "output_groups": "strided"}
    records.write(make(settings={"operator": "rotation"}), tmp_path)
    records.write(make(settings={"operator": "sharing"} | groups), tmp_path)
    (sheet,) = sheets(tmp_path)
    assert [row.name for row in sheet.section.rows] == ["MoRA (rotation)", "MoRA (sharing)"]
    groups["input_groups"] = "contiguous"
    records.write(make(settings={"operator": "sharing"} | groups), tmp_path)
    (sheet,) = sheets(tmp_path)
    assert [row.name for row in sheet.section.rows] == [
        "MoRA (contiguous, sharing)", "MoRA (rotation)", "MoRA (strided, sharing)",
    ]  # fmt: skip


def test_what_goes_with_the_rank_is_no_variant(tmp_path: Path, make) -> None:
    for rank, operator in ((8, "rotation"), (64, "sharing")):
        records.write(make("lora", rank, settings={"alpha": 2 * rank}), tmp_path)
        records.write(make("mora", rank, settings={"operator": operator}), tmp_path)
    records.write(make("lora", 64, settings={"alpha": 16}), tmp_path)
    (sheet,) = sheets(tmp_path)
    assert [(row.name, row.rank) for row in sheet.section.rows] == [
        ("LoRA (alpha=16)", 8),
        ("MoRA (rotation)", 8),
        ("LoRA (alpha=128)", 64),
        ("LoRA (alpha=16)", 64),
        ("MoRA (sharing)", 64),
    ]
    for file in records.find(tmp_path):
        if records.read(file)["method"]["settings"].get("alpha") == 16 and '"rank": 64' in (
            file.read_text()
        ):
            file.unlink()
    assert [row.name for row in sheets(tmp_path)[0].section.rows][::2] == ["LoRA", "LoRA"]


def test_processes_are_a_setting(tmp_path: Path, make) -> None:
    for count in (1, 2):
        record = make(seed=count)
        record["config"]["distributed"] = {"processes": count}
        records.write(record, tmp_path)
    (sheet,) = sheets(tmp_path)
    assert [row.examples_a_step for row in sheet.section.rows] == [32, 64]
    assert "training: 60 steps, linear schedule" in sheet.table.sheet


@pytest.mark.parametrize("older", [False, True])
def test_validation_seeds_are_kept_apart(study: Path, make, older: bool) -> None:
    """The configuration names them; older records say it of themselves."""
    record = make(seed=9, split="validation" if older else None)
    if not older:
        record["config"]["validation_seeds"] = [9, 10]
    records.write(record, study)
    reported, validation = sheets(study)
    assert len(reported.section.cells) == 9
    assert len(validation.section.cells) == 1
    assert "they choose learning rates and are not results" in validation.table.title


def test_seconds_that_do_not_count_are_left_out_everywhere(study: Path) -> None:
    def panels() -> list[int]:
        section = group(collect(study).cells)[0]
        drawn = curves.score_figure(section, "accuracy"), plots.cost_figure(section, "accuracy")
        return [len(figure.axes) for figure in drawn if figure is not None]

    claims = [claim for claim in load_claims() if claim.id == "time_mora_like_lora"]
    assert "tokens/s" in fields(sheets(study)[0])[0]
    assert panels() == [3, 3]
    assert any(made.effect is not None for made in judging.judge(claims, collect(study)))
    (study / "notes.yaml").write_text("times: >-\n  halted for minutes\n  at a time\n")
    (sheet,) = sheets(study)
    assert "tokens/s" not in fields(sheet)[0]
    assert "seconds are left out: halted for minutes at a time" in sheet.table.notes
    assert panels() == [2, 2]
    (made,) = judging.judge(claims, collect(study))
    assert made.effect is None
    assert made.reason.startswith("no comparable cells")


@pytest.mark.parametrize("said", ["times: 3", "time: why", "- times", "times: [", ""])
def test_a_note_that_says_nothing_known_is_refused(study: Path, said: str) -> None:
    (study / "notes.yaml").write_text(said)
    with pytest.raises(UserError, match=r"notes\.yaml"):
        collect(study)


def test_unequal_budgets_are_said(study: Path, make) -> None:
    def notes() -> str:
        return "\n".join(sheets(study)[0].table.notes)

    assert "it has no form at an adapter's budget" in notes()
    records.write(make("dora", seed=1, trainable=2_466_000), study)
    assert "WARNING: unequal budgets" not in notes()  # 0.97 %
    records.write(make("lora_plus", seed=1, trainable=2_467_000), study)
    assert "WARNING: unequal budgets at r=8" in notes()  # 1.01 %
    assert "LoRA 2,442,240 (-1.0 %), LoRA+ 2,467,000" in notes()


def test_cells_without_a_result_are_listed_and_counted(study: Path, make) -> None:
    empty = {"metrics": {}, "examples": {}}
    for status, reason in (
        ("failed", "OutOfMemoryError: a\nb"),
        ("diverged", "the loss was not finite at step 7"),
        ("skipped", "no data"),
    ):
        rate = {"failed": 1e-3, "diverged": 3e-3, "skipped": 5e-3}[status]
        records.write(make(rate=rate, seed=4, status=status, reason=reason, **empty), study)
    (sheet,) = sheets(study)
    notes = "\n".join(sheet.table.notes)
    assert re.search(
        r"failed: MoRA r=8, lr 1e-3, seed 4 \([0-9a-f]{16}\): OutOfMemoryError: a b\n", notes
    )
    assert "diverged: MoRA r=8, lr 3e-3, seed 4" in notes
    assert "skipped: MoRA r=8, lr 5e-3, seed 4" in notes
    assert [row["seeds"] for row in fields(sheet)[2:]] == ["3 of 4", "0 of 1", "0 of 1"]
    assert "records: 12 (9 ok, 1 diverged, 1 failed, 1 skipped)" in sheet.table.sheet
    full = fields(sheet)[2]["final accuracy (%)"]
    assert full == fields(sheets(study)[0])[2]["final accuracy (%)"]


def test_rows_of_unequal_length_are_said(study: Path, make) -> None:
    records.write(make("dora", seed=1, steps=30, scored=(15, 30)), study)
    notes = "\n".join(sheets(study)[0].table.notes)
    assert "WARNING: rows differ in training steps" in notes
    assert "DoRA r=8, lr 1e-3: 30" in notes
    assert "WARNING: rows differ in the seeds" in notes


def pretraining(make, method: str, seed: int, perplexity: float, before: float | None):
    metric = {"n": 100, "higher_is_better": False, "unit": "perplexity", "chance": None}
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 50, "unit": "fraction"}
    record = make(
        method,
        128,
        seed=seed,
        task={"name": "docs", "label": "Documentation", "settings": {}, "data": [
            {"name": "docstrings", "revision": "numpy 2.4"}]},
        metrics={"perplexity": {"value": perplexity} | metric},
        before={} if before is None else {"perplexity": {"value": before} | metric},
        forgetting={"mean_drop": 0.1, "parts": {"pydoc": part}},
        curves={"train": [{"step": 1, "loss": 3.0}], "scores": []},
        examples={},
    )  # fmt: skip
    record["config"]["task"] = {"split": "docs"}
    return record


def test_other_tasks_with_before_and_forgetting(tmp_path: Path, make) -> None:
    for seed in (1, 2):
        records.write(pretraining(make, "lora", seed, 30.0 + seed, 100.0 * seed), tmp_path)
        records.write(pretraining(make, "mora", seed, 25.0 + seed, 100.0 * seed), tmp_path)
    (sheet,) = sheets(tmp_path)
    rows = fields(sheet)
    assert [row["method"] for row in rows] == ["untouched model", "LoRA", "MoRA"]
    assert [row["final perplexity"] for row in rows] == [
        "150.00 ± 70.71",
        "31.50 ± 0.71",
        "26.50 ± 0.71",
    ]
    assert rows[1]["forgotten (% of before)"] == "10.0 ± 0.0"
    at = [column.title for column in sheet.table.columns].index("final perplexity")
    marks = [row[at].mark for row in sheet.table.rows]
    assert marks == ["", "second", "best"]  # lower is better
    assert "task: Documentation, split docs, docstrings numpy 2.4" in sheet.table.sheet


def test_metric_chooses_and_is_checked(study: Path) -> None:
    names = list(fields(sheets(study, "exact_match")[0])[0])
    assert "exact match (%) at step 30" in names and "final exact match (%)" in names
    with pytest.raises(UserError, match=r"--metric bleu: .* there are: accuracy, exact_match"):
        report.make(collect(study), "bleu")


def test_many_scored_steps_are_thinned(tmp_path: Path, make) -> None:
    records.write(make(steps=60, scored=tuple(range(2, 62, 2))), tmp_path)
    (sheet,) = sheets(tmp_path)
    shown = [int(c.title) for c in sheet.table.columns if c.group.startswith("accuracy")]
    assert shown == [2, 14, 24, 36, 46, 58]
    header = tables.as_csv([sheet.section], "").splitlines()[0]
    assert header.count("accuracy_at_") == 2 * 30


def test_csv_has_raw_numbers(study: Path) -> None:
    made = report.make(collect(study))
    text = tables.as_csv([sheet.section for sheet in made.sheets], made.command)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["method"] for line in lines] == ["fft", "lora", "mora"]
    finals = [
        record["metrics"]["accuracy"]["value"]
        for file in records.find(study)
        if (record := records.read(file))["method"]["name"] == "lora"
    ]
    assert float(lines[1]["accuracy_mean"]) == pytest.approx(statistics.mean(finals))
    assert float(lines[1]["accuracy_sd"]) == pytest.approx(statistics.stdev(finals))
    assert lines[1]["paper accuracy (%) at step 900"] == "54.2"
    assert len(lines[1]["cells"].split()) == 3
    assert lines[1]["command"] == made.command


@pytest.mark.parametrize(
    ("rate", "text"), [(3e-4, "3e-4"), (1.5e-3, "1.5e-3"), (1.0, "1e0"), (2e-5, "2e-5")]
)
def test_learning_rates_are_short(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_a_cell_that_lies_there_twice_counts_once(study: Path) -> None:
    file = records.find(study)[0]
    again = study / "again" / file.name
    again.parent.mkdir()
    record = json.loads(file.read_text())
    again.write_text(json.dumps(record))
    made = report.make(collect(study))
    assert sum(len(sheet.section.cells) for sheet in made.sheets) == 9
    assert made.warnings == [f"cells that lie there twice, each counted once: {again}"]


def test_a_seed_twice_in_a_row_is_an_error_that_names_both_files(study: Path, make) -> None:
    """Other numbers in a copy; and, of version 1, other score steps under another id."""
    file = records.find(study)[0]
    record = json.loads(file.read_text())
    record["metrics"]["accuracy"]["value"] = 0.125
    again = study / "again" / file.name
    records.write(record, again.parent)
    with pytest.raises(UserError, match="lies there twice") as error:
        collect(study)
    assert str(file) in str(error.value) and str(again) in str(error.value)
    again.unlink()
    other = json.loads(file.read_text()) | {"cell": "e" * 16, "schema_version": 1}
    other["config"]["trainer"]["score_steps"] = [60]
    records.write(other, study)
    with pytest.raises(UserError, match="lies there twice") as error:
        group(collect(study).cells)
    assert "e" * 16 in str(error.value) and str(file) in str(error.value)


def test_a_cell_of_another_kind_of_processor_is_a_repeat_and_the_earlier_one_counts(
    study: Path,
) -> None:
    file = records.find(study)[0]
    for when, counts in (("1999-01-01T00:00:00+00:00", True), ("2999-01-01T00:00:00+00:00", False)):
        record = json.loads(file.read_text())
        record["metrics"]["accuracy"]["value"] = 0.125
        record["environment"]["cpu"] = "another"
        again = records.write(record | {"started": when}, study / "again")
        found = collect(study)
        assert len(found.cells) == 9
        assert (again in {cell.file for cell in found.cells}) is counts
        assert [other.file for _, other in found.repeats] == [file if counts else again]


def test_a_best_rate_at_the_edge_of_those_tried_is_said(tmp_path: Path, make) -> None:
    finals = {1e-3: 0.3, 2e-3: 0.6, 4e-3: 0.5}
    for rate, final in finals.items():
        records.write(make("mora", rate=rate, final=final), tmp_path)
        records.write(make("lora", rate=rate, final=1 - final), tmp_path)
    records.write(make("fft", final=0.9), tmp_path)  # a single rate has no edge
    (section,) = group(collect(tmp_path).cells)
    notes = tables.build(section).notes
    assert [note for note in notes if "rate" in note] == [
        "WARNING: LoRA r=8: the best rate, 1e-3, lies at the lower edge of its grid"
    ]


def test_validation_seeds_name_the_best_rate(tmp_path: Path, make) -> None:
    for rate, final, middle in ((1e-3, 0.6, 50), (2e-3, 0.9, 50), (4e-3, 0.8, 10), (8e-3, 0.1, 50)):
        known = {"final": final, "middle": middle, "split": "validation"}
        records.write(make("lora", rate=rate, **known), tmp_path)
    (section,) = group(collect(tmp_path).cells)
    said = "best learning rate of LoRA r=8: 2e-3 at the end, 4e-3 by the mean over the scored steps"
    assert said in tables.build(section).notes


def test_csv_says_what_sets_sections_apart(tmp_path: Path, make) -> None:
    for pairs in (32, 64):
        records.write(make(pairs=pairs), tmp_path)
    text = tables.as_csv(group(collect(tmp_path).cells), "")
    settings = [line["setting"] for line in csv.DictReader(io.StringIO(text))]
    assert sorted(settings) == ["pairs 32", "pairs 64"]


def test_a_mean_along_the_run_is_of_all_seeds_or_not_there(tmp_path: Path, make) -> None:
    """Seeds that are scored where so much was learned share few steps."""
    records.write(make(seed=1, scored=(10, 30, 60)), tmp_path)
    records.write(make(seed=2, scored=(20, 30, 60)), tmp_path)
    records.write(make("lora", seed=1, scored=(10, 30, 60)), tmp_path)
    records.write(make("lora", seed=2, scored=(10, 30, 60)), tmp_path)
    (sheet,) = sheets(tmp_path)
    rows = fields(sheet)
    assert [name for name in rows[0] if name.startswith("accuracy")] == ["accuracy (%) at step 30"]
    lines = list(csv.DictReader(io.StringIO(tables.as_csv([sheet.section], ""))))
    assert "accuracy_at_20_mean" not in lines[0]
    assert lines[0]["method"] == "lora" and float(lines[0]["accuracy_at_10_mean"]) > 0
    assert lines[1]["accuracy_at_10_mean"] == ""
    for seed in (3, 4):  # a row in which it is empty, of three of which two have it
        records.write(make("fft", seed=seed, scored=(10, 30, 60)), tmp_path)
    rows = fields(sheets(tmp_path)[0])
    assert [row["accuracy (%) at step 10"] == "–" for row in rows] == [False, False, True]


def test_a_metric_that_some_seeds_lack_says_so_and_has_no_rank(tmp_path: Path, make) -> None:
    for seed in (1, 2):
        for method, final in (("lora", 0.5), ("mora", 0.9), ("dora", 0.4)):
            made = make(method, seed=seed, final=final)
            if (method, seed) == ("mora", 2):
                del made["metrics"]["exact_match"]
            records.write(made, tmp_path)
    (sheet,) = sheets(tmp_path)
    at = [column.title for column in sheet.table.columns].index("exact match\n(%)")
    column = [(row[0].text, row[at].text, row[at].mark) for row in sheet.table.rows]
    assert column == [
        ("LoRA", "0.4 ± 0.0", "best"),
        ("DoRA", "0.1 ± 0.0", "second"),
        ("MoRA", "43.0 (1 of 2)", ""),
    ]


STEPS = """method,rank,learning_rate,seed,metric,value,steps
lora,8,1e-3,1,steps_to_target,100,200
lora,8,1e-3,2,steps_to_target,120,200
lora,8,1e-3,3,steps_to_target,,200
mora,8,1e-3,1,steps_to_target,90,200
mora,8,1e-3,2,steps_to_target,110,200
dora,8,1e-3,1,steps_to_target,,200
"""


def test_a_target_that_was_not_reached_is_a_bound(tmp_path: Path) -> None:
    """In tables of others, too: the steps that did not reach it, and no rank."""
    (tmp_path / "steps.csv").write_text(STEPS)
    found = report.collect(tmp_path / "steps.csv")
    (sheet,) = report.make(found).sheets
    at = [column.title for column in sheet.table.columns].index("final steps to target")
    column = {row[0].text: (row[at].text, row[at].mark) for row in sheet.table.rows}
    assert column["LoRA"] == ("≥ 140 ± 53", "")
    assert column["DoRA"] == ("> 200", "")
    assert column["MoRA"] == ("100 ± 14", "")
    text = tables.as_csv([sheet.section], "")
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(text))}
    assert lines["lora"]["steps_to_target_mean"] == "140.0"
    assert lines["lora"]["steps_to_target_not_reached"] == "1"
    assert "inf" not in text


def test_what_was_exported_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text(STEPS)
    found = report.collect(tmp_path / "steps.csv")
    written = export.write(found, tmp_path / "out")
    assert not any(re.search(r"\b(inf|Infinity|NaN)\b", file.read_text()) for file in written)
    again = report.collect(tmp_path / "out" / "cells.csv")
    first, second = (
        {(cell.method, cell.seed): cell.metrics["steps_to_target"].value for cell in of.cells}
        for of in (found, again)
    )
    assert first == second and [*first.values()].count(math.inf) == 2


@pytest.mark.parametrize(
    ("values", "unit", "shown"),
    [
        ([0.512, 0.534], "fraction", "52.3 ± 1.6"),
        ([0.00012, 0.00018], "fraction", "0.0 ± 0.0"),
        ([1.2345, 1.2445], "bits per byte", "1.240 ± 0.007"),
        ([31.5, 32.5], "perplexity", "32.00 ± 0.71"),
        ([0.0001, 0.0002], "", "0.000150 ± 0.000071"),
        ([0.0003], "", "0.000300"),
        ([0.512, 0.534], "", "0.523 ± 0.016"),
        ([-7203.7, -7440.6], "bits", "-7322 ± 168"),
        ([7322.1, 7322.1], "bits", "7322 ± 0"),
        ([12.5, 13.0], "bits", "12.750 ± 0.354"),
        ([0.0, 0.0], "", "0.000 ± 0.000"),
    ],
)
def test_numbers_can_be_read_whatever_their_size(
    values: list[float], unit: str, shown: str
) -> None:
    """Those of usual size as ever."""
    assert numbers.with_spread(values, Score(0.0, 1, True, unit, None)) == shown
