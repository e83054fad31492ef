"""Records: the schema names what is wrong, files are whole or absent, loading is quick."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.errors import UserError
from tests.bench.studies import make_record

CELL = "0123456789abcdef"


def make(cell: str = CELL, **known: Any) -> records.Record:
    examples = {
        "examples": {"accuracy": [0.25, 0.75]},
        "example_ids": {"accuracy": ["a", "b"]},
    }
    return make_record(seed=3, steps=2, scored=(2,), trainable=64, cell=cell) | examples | known


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    record = make(reason="Zeichen: ü – 漢\udc80\n")
    path = records.write(record, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / f"{CELL}.json"
    assert records.read(path) == record
    assert os.listdir(path.parent) == [path.name]
    assert records.complete(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "field schema_version is 3; expected 1 or 2"),
        ({"cell": "xyz"}, "field cell is 'xyz'; expected 16 hexadecimal digits"),
        ({"status": "fine"}, "field status is 'fine'; expected 'ok' or 'diverged'"),
        ({"status": "failed", "reason": None}, "field reason is empty"),
        ({"seed": True}, "field seed is True; expected a whole number"),
        ({"config": None}, "field config is None; expected an object"),
        ({"parameters": {"trainable": 1}}, "field parameters.total is missing"),
        ({"metrics": {"loss": {"value": "1"}}}, "field metrics.loss.value is '1'; expected a"),
        ({"examples": {"accuracy": [1.0, None]}}, "field examples.accuracy[1] is None"),
        ({"example_ids": {"accuracy": ["a"]}}, "field example_ids.accuracy does not fit"),
        ({"curves": {"train": [{"loss": 1.0}], "scores": []}}, "curves.train[0].step is None"),
        (
            {"curves": {"train": [{"step": 1, "loss": float("nan")}], "scores": []}},
            "field curves.train[0].loss is nan; expected a finite number",
        ),
        (
            {"curves": {"train": [], "scores": [{"step": 1, "metrics": {"a": "b"}}]}},
            "field curves.scores[0].metrics.a is 'b'",
        ),
        ({"config": {"lr": float("inf")}}, "field config.lr is inf"),
        ({"config": {"path": [Path()]}}, "field config.path[0] is a PosixPath"),
        ({"config": {"a": {1: 2}}}, "key 1 of config.a is not text"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        records.write(make(**change), tmp_path)
    assert message in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    record = make()
    del record["curves"]
    path = tmp_path / f"{CELL}.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"{CELL}\.json: field curves is missing"):
        records.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete JSON file"),
        (b'{"cell": "0123', "not a complete JSON file"),
        (b"\xff\xfe\x00", "not a complete JSON file"),
        (b"[" * 100_000, "not a complete JSON file"),
        (b"[]", r"the record is \[\]; expected an object"),
        (b'{"hello": 1}', "field schema_version is missing"),
        (b'{"loss": NaN}', "holds NaN"),
    ],
)
def test_torn_and_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / f"{CELL}.json"
    path.write_bytes(content)
    for reader in (records.read, records.complete, records.load):
        with pytest.raises(UserError, match=message) as error:
            reader(path)
        assert str(path) in str(error.value)


def test_every_cut_of_a_record_is_refused(tmp_path: Path) -> None:
    path = records.write(make(), tmp_path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            records.read(path)


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    path = records.write(make(), tmp_path)
    other = path.rename(tmp_path / "ffffffffffffffff.json")
    with pytest.raises(UserError, match=f"holds the record of cell {CELL}"):
        records.read(other)
    copy = other.rename(tmp_path / f"{CELL} (copy).json")
    with pytest.raises(UserError, match="looks like a record") as error:
        records.find(tmp_path)
    assert str(copy) in str(error.value)


def test_find_takes_records_alone(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "summary.json").write_text("{}")
    (tmp_path / f".{CELL}.json.1.tmp").write_text("half")
    a = records.write(make("a" * 16), tmp_path / "x")
    b = records.write(make("b" * 16), tmp_path)
    assert records.find(tmp_path) == [b, a]
    assert records.find(a) == [a]
    with pytest.raises(UserError, match="no such file or folder"):
        records.find(tmp_path / "nowhere")


def test_find_passes_over_folders_that_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep at work makes and removes them, and their files are no records."""
    a = records.write(make("a" * 16), tmp_path)
    for folder in (f"{'b' * 16}.checkpoints", "wandb"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{'b' * 16}-copy.json").write_text("{}")
    (tmp_path / "gone").mkdir()
    walk = os.walk

    def vanishing(path: Path, **given: Any) -> Any:
        for folder, folders, names in walk(path, **given):
            yield folder, folders, names
            (tmp_path / "gone").rmdir()

    monkeypatch.setattr(os, "walk", vanishing)
    assert records.find(tmp_path) == [a]


@pytest.mark.parametrize(
    ("status", "complete"),
    [("ok", True), ("diverged", True), ("failed", False), ("skipped", False)],
)
def test_complete_is_what_need_not_run_again(tmp_path: Path, status: str, complete: bool) -> None:
    assert not records.complete(tmp_path / f"{CELL}.json")
    path = records.write(make(status=status, reason="why"), tmp_path)
    assert records.complete(path) == complete


def test_cell_id_depends_on_values_alone() -> None:
    a = records.cell_id({"a": 1, "b": {"c": [1.0, 2], "d": None}})
    assert a == records.cell_id({"b": {"d": None, "c": (1, 2.0)}, "a": 1.0})
    assert len(a) == 16
    others = [{"a": True}, {"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, {}]
    assert len({records.cell_id(other) for other in others}) == len(others)
    with pytest.raises(UserError, match=r"field a\.b is nan"):
        records.cell_id({"a": {"b": float("nan")}})


def test_same_ignores_times_alone() -> None:
    a = make()
    b = json.loads(json.dumps(a))
    b["started"] = b["finished"] = "later"
    b["cost"] |= {"training_seconds": 9.0, "tokens_per_second": 1.0, "peak_memory_bytes": 5}
    b["curves"]["train"][0]["seconds"] = 7.0
    assert records.same(a, b)
    b["curves"]["train"][0]["loss"] = 2.5
    b["config"]["wait_seconds"] = 1
    assert records.differences(a, b) == ["config.wait_seconds", "curves.train[0].loss"]


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(experiment="old")
    path = records.write(old, tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device") as error:
        records.write(make(), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert os.listdir(tmp_path) == [path.name]
    assert records.read(path) == old


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file-size limit of 4 KiB in a process of its own cuts a record of 40 KiB in the middle."""
    record = make(reason="x" * 40_000)
    (tmp_path / "in.json").write_text(json.dumps(record))
    program = (
        "import json, resource, signal, sys\n"
        "from bench import records\nfrom bench.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "record = json.load(open(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: records.write(record, sys.argv[2])\n"
        "except UserError as error: print(error)\n"
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "in.json", out], capture_output=True, text=True
    )
    assert f"cannot write {CELL}.json in {out}: File too large" in done.stdout, done.stderr
    assert os.listdir(out) == []


def test_unwritable_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for attempt in (records.prepare_folder, lambda f: records.write(make(), f)):
            with pytest.raises(UserError, match="cannot write") as error:
                attempt(folder)
            assert str(folder) in str(error.value)
    assert records.prepare_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []


def test_secrets_go_whole_and_so_do_logins_in_addresses(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hf_abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefTAIL")  # begins with the other
    monkeypatch.setenv("PGPASSWORD", "letmein42")
    reason = "401 with hf_abcdefTAIL and letmein42 at http://me:hidden@proxy.example:3128/x"
    file = records.write(make(status="failed", reason=reason, metrics={}), tmp_path)
    assert records.read(file)["reason"] == "401 with *** and *** at http://***@proxy.example:3128/x"


def test_load_has_a_row_a_cell(tmp_path: Path) -> None:
    records.write(make("b" * 16, seed=2), tmp_path / "first")
    records.write(make("b" * 16, seed=2, experiment="again"), tmp_path / "second")
    fft = {"name": "fft", "label": "FFT", "rank": None, "learning_rate": 1e-4, "settings": {}}
    records.write(make("a" * 16, status="failed", reason="why", method=fft, metrics={}), tmp_path)
    frame = records.load(tmp_path)
    assert list(frame["cell"]) == ["a" * 16, "b" * 16]
    assert list(frame["method"]) == ["fft", "mora"]
    assert list(frame["experiment"]) == ["table2_uuid"] * 2
    assert frame["rank"].isna().tolist() == [True, False]
    assert frame["accuracy"].isna().tolist() == [True, False]
    assert frame.loc[1, "trainable_parameters"] == 64
    assert frame.loc[0, "reason"] == "why"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no records here"):
        records.load(tmp_path / "empty")


def test_load_takes_of_a_cell_that_was_run_again_the_first_to_have_started(
    tmp_path: Path,
) -> None:
    """As the tables do, wherever the files lie."""
    first = make(seed=2, started="2026-01-01T00:00:00+00:00", experiment="first")
    records.write(first, tmp_path / "z")
    records.write(make(seed=2, started="2026-01-02T00:00:00+00:00"), tmp_path / "again")
    assert records.load(tmp_path)["experiment"].tolist() == ["first"]


def test_load_tells_bits_a_parameter_and_steps_to_the_target(tmp_path: Path) -> None:
    """The mean of 8 steps is below 2 nats at step 12: (4 * 3 + 4 * 0.9) / 8 = 1.95."""
    train = [{"step": s, "loss": 9.0, "value_loss": 3.0 if s < 9 else 0.9} for s in range(1, 21)]
    metric = {
        "value": 32.0, "n": 4, "higher_is_better": True, "unit": "bits", "chance": 0.0,
    }  # fmt: skip
    known = make(curves={"train": train, "scores": []}, metrics={"bits_tempered": metric})
    known["config"] = {**known["config"], "analysis": {"target_loss": 2.0}}
    records.write(known, tmp_path)
    records.write(make("a" * 16, seed=9), tmp_path)
    frame = records.load(tmp_path).set_index("cell")
    assert frame.loc[known["cell"], "bits_per_parameter"] == 32 / 64
    assert frame.loc[known["cell"], "steps_to_target"] == 12
    assert frame.loc["a" * 16, ["bits_per_parameter", "steps_to_target"]].isna().all()


def test_ten_thousand_records_load_quickly(tmp_path: Path) -> None:
    """10,000 records of 12 KB in under 10 s (twice that allowed here: machines differ)."""
    point = {"loss": 1.2345678, "learning_rate": 1e-3, "grad_norm": 0.987654, "seconds": 12.5}
    train = [{"step": i, **point} for i in range(60)]
    record = make(curves={"train": train, "scores": []})
    text = json.dumps(record)
    for i in range(1000):
        (tmp_path / f"{i:016x}.json").write_text(text.replace(CELL, f"{i:016x}"))
    start = time.process_time()
    frame = records.load(tmp_path)
    assert len(frame) == 1000
    assert (time.process_time() - start) * 10 < 20  # of this process, whatever runs beside it
