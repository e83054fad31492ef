"""Weights & Biases: real offline runs, read back from the files that W&B writes."""

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.run import tracking
from bench.run.progress import Shown

ROOT = Path(__file__).resolve().parents[3]
BLOCK = 32768  # bytes; W&B's files are LevelDB logs


@dataclass
class Read:
    """What an offline run's file holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def messages(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, message = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def read(folder: Path) -> Read:
    """What the run holds; W&B's service may write it a moment after finish() has returned."""
    for _ in range(100):
        found = _written(folder)
        if found.exit_code is not None:
            break
        time.sleep(0.1)
    return found


def _written(folder: Path) -> Read:
    (file,) = folder.glob("run-*.wandb")
    found = Read()
    for message in messages(file):
        if message.HasField("run"):
            found.run = message.run
            found.config = {u.key: json.loads(u.value_json) for u in message.run.config.update}
        if message.HasField("history"):
            values = {i.nested_key[0]: json.loads(i.value_json) for i in message.history.item}
            for name, value in values.items():
                found.curves[name].append((values["_step"], value))
        if message.HasField("summary"):
            for update in message.summary.update:
                found.summary[update.key or update.nested_key[0]] = json.loads(update.value_json)
        if message.HasField("artifact"):
            found.artifacts.append(message.artifact)
        if message.HasField("exit"):
            found.exit_code = message.exit.exit_code
    return found


def runs(folder: Path) -> list[Path]:
    """In the order they were made; their names tell it to the second."""
    found = (folder / "runs" / "wandb").glob("offline-run-*")
    return sorted(found, key=lambda run: run.stat().st_mtime_ns)


def test_online_without_a_key_is_offline_without_a_question(
    tiny: list[str], tmp_path: Path
) -> None:
    """In a process of its own: a key once seen stays known to W&B within its process."""
    hidden = {"WANDB_MODE", "WANDB_API_KEY"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *tiny, "tracker=wandb_online", "trainer.max_steps=1"],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "no API key: the run is kept offline" in done.stderr
    assert len(runs(tmp_path)) == 1


def test_a_run_holds_all_of_its_cell_also_after_a_resume(
    run: Any, records_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    arguments = ["tracker=wandb_offline", "method=lora", "trainer.score_steps=[2,6]"]
    shown = Shown.step

    def leave_at_3(self: Shown, step: int, loss: float) -> None:
        shown(self, step, loss)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Shown, "step", leave_at_3)
    arguments.append(f"+model.extra={'0123456789' * 4}")
    assert run(*arguments).status == 75
    monkeypatch.setattr(Shown, "step", shown)
    assert run(*arguments).status == 0
    (record,) = records_of()
    found = [read(folder) for folder in runs(tmp_path)]
    assert len({f.run.run_id for f in found}) == 2  # one run per attempt
    assert [f.summary["status"] for f in found] == ["stopped", "ok"]
    assert [f.exit_code for f in found] == [1, 0]
    for attempt in found:
        assert attempt.run.run_id.startswith(record["cell"])
        assert attempt.run.run_group == "adhoc" and attempt.run.job_type == "lora"
        assert attempt.run.project == "mora-bench"
        assert f"cell:{record['cell']}" in attempt.run.tags
        assert attempt.config["cell"] == record["cell"]
        assert attempt.config["method"] == record["config"]["method"]
    last = found[1]
    points = record["curves"]["train"]
    assert last.curves["train/loss"] == [(p["step"], p["loss"]) for p in points]
    assert last.curves["train/tokens"] == [(p["step"], p["tokens"]) for p in points]
    scores = [(p["step"], p["metrics"]["accuracy"]) for p in record["curves"]["scores"]]
    assert last.curves["score/accuracy"] == scores and len(scores) == 2
    assert [step for step, _ in found[0].curves["train/loss"]] == [1, 2, 3, 4]
    assert last.summary["final/accuracy"] == record["metrics"]["accuracy"]["value"]
    (artifact,) = last.artifacts
    (content,) = artifact.manifest.contents
    assert (artifact.type, artifact.name) == ("record", f"record-{record['cell']}")
    assert content.path == f"{record['cell']}.json"
    assert Path(content.local_path) == tmp_path / "runs" / content.path  # no copy elsewhere
    for folder in runs(tmp_path):
        for file in folder.rglob("*"):
            assert not file.is_file() or b"0123456789" * 4 not in file.read_bytes()


def test_a_failed_cell_closes_its_run(run: Any, tmp_path: Path) -> None:
    assert run("tracker=wandb_offline", "trainer.optimizer=lomo").status == 1
    found = read(runs(tmp_path)[0])
    assert (found.summary["status"], found.exit_code) == ("failed", 1)


def test_a_folder_that_cannot_be_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = {"mode": "offline", "dir": tmp_path / "file" / "x", "project": "p", "entity": None}
    about = {"cell": "0" * 16, "experiment": "e", "method": "m", "label": "l", "model": "m"}
    with pytest.raises(UserError, match="W&B cannot start in"):
        tracking.start(settings | {"init_timeout": 30}, about | {"task": "t", "config": {}})


@pytest.fixture(scope="module")
def sync() -> Any:
    spec = importlib.util.spec_from_file_location("sync", ROOT / "scripts" / "sync_wandb.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_syncing_takes_the_last_attempt_of_each_cell(
    sync: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = "a" * 16, "b" * 16
    names = [
        f"offline-run-20260101_000000-{a}-00000001", f"offline-run-20260102_000000-{a}-00000000",
        f"offline-run-20260101_120000-{b}-00000002", "offline-run-20260101_120000-foreign",
        f"run-20260103_000000-{a}-00000003",
    ]  # fmt: skip
    for name in names:
        (tmp_path / "table2" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "table3" / "wandb" / names[0]).mkdir(parents=True)
    assert sync.main([str(tmp_path), "--dry-run"]) == 0
    told = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    assert told == [
        f"table3/wandb/{names[0]}", f"table2/wandb/{names[2]}", f"table2/wandb/{names[1]}",
    ]  # fmt: skip
    assert sync.main([str(tmp_path), "--dry-run", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert sync.main([str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert sync.main([str(tmp_path / "empty")]) == 2
    assert "no offline runs" in capsys.readouterr().err
