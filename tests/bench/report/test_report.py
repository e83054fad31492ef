"""The command as a whole: files, messages, exit status, same bytes for the same records."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import records, report
from bench.judge.rows import group
from bench.report import figures, looks
from bench.report.__main__ import main

FIGURES = [f"{name}.{end}" for name in ("accuracy", "cost", "loss") for end in ("png", "svg")]
FILES = [*FIGURES, "table.csv", "table.md", "table.tex"]


def test_command_prints_the_table_and_the_files(study: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.report", study], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "UUID pairs on SmolLM2-135M-Instruct, laptop scale" in done.stdout
    wrote = [line.removeprefix("wrote ") for line in done.stdout.splitlines() if "wrote" in line]
    assert sorted(wrote) == [str(study / "report" / name) for name in FILES]
    assert sorted(p.name for p in (study / "report").iterdir()) == FILES


def test_same_records_same_bytes_that_say_what_made_them(study: Path, tmp_path: Path) -> None:
    ids = [path.stem for path in records.find(study)]
    for out in ("a", "b"):
        assert main([str(study), "--out", str(tmp_path / out)]) == 0
        for file in records.find(study):  # the order in which files lie on the disk is no matter
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    for name in FILES:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes(), name
        words = content.decode("utf-8", "ignore")
        assert f"python -m bench.report {study}" in words, name
        assert all(cell in words for cell in ids), name
    assert not re.search(rb"<dc:date>|tIME", (tmp_path / "a" / "loss.svg").read_bytes())
    markdown = (tmp_path / "a" / "table.md").read_text()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert sorted(shown) == [name for name in FILES if name.endswith(".svg")]


def test_several_settings_have_files_of_their_own(study: Path, make, capsys) -> None:
    records.write(make(pairs=64), study)
    assert main([str(study)]) == 0
    names = {p.name for p in (study / "report").iterdir()}
    first = "uuid-smollm2_135m_wheel-laptop-"
    assert {f"{first}pairs_32-loss.svg", f"{first}pairs_64-accuracy.png"} <= names
    assert "32 pairs" in (out := capsys.readouterr().out) and "64 pairs" in out


def test_a_torn_file_is_named_and_the_rest_reported(study: Path, capsys, no_figures) -> None:
    (study / "0000000000000000.json").write_text('{"cell": "0')
    (study / "1111111111111111.json").write_text('{"hello": 1}')
    assert main([str(study)]) == 1
    out = capsys.readouterr().out
    assert out.count("WARNING: refused, and not part of any number") == 2
    assert "0000000000000000.json" in out and "records: 9 (9 ok)" in out
    assert "1111111111111111.json" in (study / "report" / "table.md").read_text()


def test_torn_curves_are_refused_too(study: Path) -> None:
    file = records.find(study)[0]
    record = json.loads(file.read_text())
    record["curves"]["train"][3]["loss"] = "2.5"
    file.write_text(json.dumps(record))
    (refused,) = report.collect(study).refused
    assert str(file) in refused and "curves.train[3].loss is '2.5'" in refused


def test_nothing_to_report(tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path}: no records here" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "0000000000000000.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "no readable record" in capsys.readouterr().err


def test_an_unwritable_folder_is_named(study: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(study), "--out", str(tmp_path / "file")]) == 2
    assert f"cannot write in {tmp_path / 'file'}" in capsys.readouterr().err


def test_one_record_is_enough(tmp_path: Path, make, capsys, no_figures) -> None:
    file = records.write(make(seed=1), tmp_path)
    assert main([str(file)]) == 0
    assert "seeds: 1 (1); no spread known" in capsys.readouterr().out
    assert (tmp_path / "report" / "table.md").exists()


def test_a_method_looks_the_same_everywhere(study: Path, make) -> None:
    rows = group(report.collect(study).cells)[0].rows
    alone = looks.looks(rows[2:])
    assert looks.looks(rows)[2] == alone[0]
    assert len({(look.colour, look.marker) for look in looks.looks(rows)}) == 3
    assert looks.method_look("unheard_of") == looks.method_look("unheard_of")


def test_rows_of_one_method_can_be_told_apart(tmp_path: Path, make) -> None:
    for i in range(12):
        records.write(make(rate=1e-4 * (i + 1)), tmp_path)
    made = looks.looks(group(report.collect(tmp_path).cells)[0].rows)
    assert len({look.marker for look in made}) == 1
    assert len({(look.colour, look.filling) for look in made}) == 12


def test_only_so_many_rows_are_drawn(tmp_path: Path, make) -> None:
    for i in range(30):
        records.write(make(rate=1e-4 * (i + 1), middle=20 + 3 * i), tmp_path)
        records.write(make("fft", rate=1e-5 * (i + 1), middle=20 + 3 * i), tmp_path)
    section = group(report.collect(tmp_path).cells)[0]
    rows, note = figures.drawable(section, "accuracy")
    assert [(row.method, row.learning_rate) for row in rows] == [("fft", 1e-5), ("mora", 1e-4)]
    assert note.startswith("2 of 60 rows drawn")


def test_a_diverged_row_is_drawn_to_where_it_broke(tmp_path: Path, make) -> None:
    train = [{"step": s, "loss": 3.0 + s if s < 5 else None} for s in range(1, 6)]
    record = make(
        status="diverged", reason="not finite", metrics={}, curves={"train": train, "scores": []}
    )
    records.write(record, tmp_path)
    (row,) = group(report.collect(tmp_path).cells)[0].rows
    found = figures.curve(row, "train", "step", "loss")
    assert found is not None and found.broke_off
    assert found.x.tolist() == [1, 2, 3, 4]
    assert main([str(tmp_path)]) == 0


def test_a_curve_is_the_mean_as_far_as_all_seeds_go(tmp_path: Path, make) -> None:
    for seed, scored in ((1, (15, 30, 60)), (2, (30, 45, 60))):
        records.write(make(seed=seed, scored=scored, final=0.5 * seed), tmp_path)
    (row,) = group(report.collect(tmp_path).cells)[0].rows
    found = figures.curve(row, "scores", "step", "metrics.accuracy")
    assert found is not None
    assert found.x.tolist() == [30, 45, 60]  # between its scores a seed's line is straight
    assert (found.low[-1], found.mean[-1], found.high[-1]) == (0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("loss", "score_loss"), ("cost", "score_cost"), ("mmlu/acc", "mmlu_acc"),
        ("rouge-l", "rouge_l"), ("../../escaped", "______escaped"), ("bits_one", "bits_one"),
    ],
)  # fmt: skip
def test_a_metric_is_a_file_of_its_own_in_the_folder(
    tmp_path: Path, make, name: str, file: str
) -> None:
    """Whatever it is called: no other figure is overwritten, and the links lead there."""
    made = make()
    made["metrics"] = {name: made["metrics"]["accuracy"]}
    for point in made["curves"]["scores"]:
        point["metrics"] = {name: point["metrics"]["accuracy"]}
    records.write(made, tmp_path / "deep" / "records")
    assert main([str(tmp_path / "deep" / "records"), "--out", str(tmp_path / "deep" / "out")]) == 0
    drawn = sorted(path.name for path in (tmp_path / "deep" / "out").rglob("*.svg"))
    assert drawn == sorted(["cost.svg", "loss.svg", f"{file}.svg"])
    assert sorted(tmp_path.rglob("*.svg")) == sorted((tmp_path / "deep" / "out").glob("*.svg"))
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (tmp_path / "deep" / "out" / "table.md").read_text())
    assert sorted(shown) == drawn


@pytest.mark.parametrize("module", ["report", "status"])
def test_a_reader_that_goes_is_no_error(study: Path, root: Path, module: str) -> None:
    """`| head`: no traceback, and the files are there."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{module}", study],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(), said) == (141, "")
    if module == "report":
        assert sorted(p.name for p in (study / "report").iterdir()) == FILES


@pytest.mark.slow
def test_ten_thousand_records(tmp_path: Path, make, root: Path) -> None:
    """Some 10 s of the first process on two slow cores, and under 1 GiB, figures included."""
    rng = random.Random(0)
    for method in ("fft", "lora", "mora", "dora"):
        for i in range(10):
            text = json.dumps(make(method, rate=1e-4 * (i + 1), cell="0" * 16, seed=123456))
            for seed in range(250):
                cell = f"{rng.getrandbits(64):016x}"
                made = text.replace("0" * 16, cell).replace("123456", str(seed))
                (tmp_path / f"{cell}.json").write_text(made)
    program = (
        "import resource, sys, time; from bench.report.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(memory, time.process_time()); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "records: 10,000 (10,000 ok)" in done.stdout
    memory, seconds = map(float, done.stdout.splitlines()[-1].split())
    assert memory < 1024 * 1024  # KiB
    assert seconds < 15  # of this process alone: the machine may be busy with others
