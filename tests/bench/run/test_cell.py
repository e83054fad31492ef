"""One cell, from the command line to its record, and every way in which it may not come about."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import records
from bench.run.scoring import Scoring
from bench.run.trainer import CellTrainer

Records = Callable[[], list[records.Record]]


def only(found: list[records.Record]) -> records.Record:
    assert len(found) == 1
    return found[0]


def test_a_cell_leaves_its_record_and_nothing_else(
    run: Any, records_of: Records, tmp_path: Path
) -> None:
    ended = run("trainer.score_steps=[3,6]", "method.rank=4")
    assert ended.status == 0 and ended.out.endswith("1 cell: 1 ok\n")
    record = only(records_of())
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [f"{record['cell']}.json"]
    assert (record["status"], record["reason"]) == ("ok", None)
    assert record["method"]["name"] == "mora" and record["method"]["rank"] == 4
    assert [point["step"] for point in record["curves"]["train"]] == [1, 2, 3, 4, 5, 6]
    assert [point["step"] for point in record["curves"]["scores"]] == [3, 6]
    assert record["metrics"]["accuracy"]["n"] == 8 and len(record["examples"]["accuracy"]) == 8
    assert record["merge_audit"]["max_abs"] < 1e-4
    assert 0 < record["parameters"]["trainable"] < record["parameters"]["total"]
    assert record["cost"]["tokens"] == record["curves"]["train"][-1]["tokens"] > 0
    assert record["command"].startswith("python -m bench model=tiny tracker=none")
    assert "'trainer.score_steps=[3,6]'" in record["command"]  # as a shell takes it


def test_a_record_names_the_commit_of_its_code(run: Any, records_of: Records, root: Path) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    if head.returncode:
        pytest.skip("not a checkout")
    assert run().status == 0
    environment = only(records_of())["environment"]
    assert environment["git_commit"] == head.stdout.strip()
    assert environment["git_dirty"] in (True, False)


def test_a_rerun_does_nothing_and_force_repeats_to_the_bit(
    run: Any, records_of: Records, tmp_path: Path
) -> None:
    assert run().status == 0
    first = only(records_of())
    file = tmp_path / "runs" / f"{first['cell']}.json"
    before = file.stat().st_mtime_ns
    ended = run()
    assert (ended.status, ended.out) == (0, "1 cell: 1 done before\n")
    assert file.stat().st_mtime_ns == before
    assert run("force=true").out == "1 cell: 1 ok\n"
    assert file.stat().st_mtime_ns != before
    assert records.differences(first, records.read(file)) == ["command", "config.force"]


def test_what_does_not_change_the_result_is_the_same_cell(run: Any, records_of: Records) -> None:
    assert run("method=fft").status == 0
    for same in ("method.rank=2", "trainer.log_every=2", "trainer.checkpoint_every=3"):
        assert run("method=fft", same).out == "1 cell: 1 done before\n"
    assert len(records_of()) == 1
    assert run("method=fft", "seed=1").out == "1 cell: 1 ok\n"
    assert run("method=fft", "trainer.max_steps=5").out == "1 cell: 1 ok\n"
    assert len({record["cell"] for record in records_of()}) == 3


def test_how_often_it_was_scored_changes_no_final_score(run: Any, records_of: Records) -> None:
    """Scores of the last step are taken over, those of an earlier one are not."""
    parts = ["task.forgetting=[pydoc_topics]", "task.forgetting_limit=2", "force=true"]
    found = []
    for steps in ([3], [3, 6]):
        assert run("method=fft", f"trainer.score_steps={steps}", *parts).status == 0
        found.append(only(records_of()))
    early, late = found
    for field in ("metrics", "examples", "forgetting"):
        assert early[field] == late[field]
    then = [point["metrics"]["pydoc_topics_bits_per_byte"] for point in late["curves"]["scores"]]
    assert then[0] != then[1] == early["metrics"]["pydoc_topics_bits_per_byte"]["value"]


def test_the_trained_model_has_the_memory_to_itself_when_it_is_scored(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of full fine-tuning the optimiser's moments are twice the weights."""
    made, alive = list[weakref.ref[Any]](), list[bool]()
    create, final = CellTrainer.create_optimizer, Scoring.final

    def noted(self: CellTrainer, *arguments: Any) -> Any:
        optimizer = create(self, *arguments)
        made.append(weakref.ref(optimizer))
        return optimizer

    def looked(self: Scoring, *arguments: Any, **options: Any) -> Any:
        alive.extend(optimizer() is not None for optimizer in made)
        return final(self, *arguments, **options)

    monkeypatch.setattr(CellTrainer, "create_optimizer", noted)
    monkeypatch.setattr(Scoring, "final", looked)
    assert run("method=fft").status == 0
    assert alive and not any(alive)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=nothing"], "Could not find 'method/nothing'"),
        (["task=nothing"], "Could not find 'task/nothing'"),
        (["model=nothing"], "Could not find 'model/nothing'"),
        (["method.rankk=3"], "Could not override 'method.rankk'"),
        (["+method.foo=3"], "unexpected keyword argument 'foo'"),
        (["method.rank=0"], "rank=0 must be a whole number of at least 1"),
        (["method.rank=65"], "layers.0.self_attn.q_proj: rank=65 is above the rank"),
        (["method.operator=foo"], "choose truncation | sharing | decoupling | rotation"),
        (["task.pairs=0"], "task.pairs is 0"),
        (["seed=one"], "seed=one must be a whole number from 0 to 4294967295"),
        (["seed=-1"], "seed=-1 must be a whole number from 0 to 4294967295"),
        (["seed=99999999999999999999"], "must be a whole number from 0 to 4294967295"),
        (["trainer.data_seed=-2"], "trainer.data_seed=-2 must be a whole number from 0"),
        (["threads=-4"], "threads=-4 must be a whole number from 1 to 1024"),
        (["threads=0"], "threads=0 must be a whole number from 1 to 1024"),
        (["threads=1.5"], "threads=1.5 must be a whole number"),
        (["trainer.score_at_learned=[0]"], "trainer.score_at_learned holds 0; shares"),
        (["trainer.score_at_learned=[1.5]"], "trainer.score_at_learned holds 1.5; shares"),
        (["analysis.rank_cuts=[2,0]"], "analysis.rank_cuts holds 0; ranks"),
        (["save_model=true", "save_dtype=int8"], "save_dtype=int8 is unknown"),
        (["trainer.max_steps=0"], "trainer.max_steps=0"),
        (["trainer.score_steps=3"], "trainer.score_steps=3 must be a list of whole numbers"),
        (["trainer.score_steps=[a]"], "trainer.score_steps holds a"),
        (["trainer.score_at_learned=0.5"], "trainer.score_at_learned=0.5 must be a list"),
        (["trainer.score_at_learned=[a]"], "trainer.score_at_learned holds a"),
        (["trainer.checkpoint_minutes=5m"], "trainer.checkpoint_minutes=5m must be a number of"),
        (["trainer.checkpoint_minutes=-1"], "trainer.checkpoint_minutes=-1 must be a number of"),
        (["trainer.pad_to_multiple_of=0"], "trainer.pad_to_multiple_of=0 must be a whole number"),
        (["trainer.batch_size=true"], "trainer.batch_size=True must be a whole number"),
        (["trainer.warmup_steps=-3"], "trainer.warmup_steps=-3 must be a number of at least 0"),
        (["trainer.max_grad_norm=x"], "trainer.max_grad_norm=x must be a number of at least 0"),
        (["trainer.weight_decay=null"], "trainer.weight_decay=None must be a number of at least"),
        (["analysis=3"], "analysis=3 must be a table of settings: analysis.KEY=VALUE"),
        (["method=lora", "method.alpha=zz"], "alpha='zz' must be a number"),
        (["trainer.adam_beta2=1"], "trainer.adam_beta2=1 must be a number of at least 0 and below"),
        (["analysis.rank_cuts=2"], "analysis.rank_cuts=2 must be a list of whole numbers"),
        (["distributed.processes=x"], "distributed.processes=x must be a whole number"),
        (["trainer.optimizer=foo"], "trainer.optimizer=foo is unknown"),
        (["trainer.schedule=foo"], "trainer.schedule=foo is unknown"),
        (["trainer.score_steps=[7]"], "trainer.score_steps holds 7"),
        (["trainer.checkpoint_every=-1"], "trainer.checkpoint_every=-1"),
        (["precision=fp8"], "precision=fp8 is unknown"),
        (["experiment_name=2024"], "experiment_name=2024 must be text; digits are"),
        (["experiment_name=null"], "experiment_name=None must be text"),
        (["scale_name=3"], "scale_name=3 must be text"),
        (["model.name=7"], "model.name=7 must be text"),
        (["model.label=7"], "model.label=7 must be text"),
        (["task.name=7"], "task.name=7 must be text"),
        (["model.revision=1234567"], "model.revision=1234567 must be text"),
        (["+model.note=nan"], "field model.note is nan; numbers in a record are finite or null"),
        (["analysis.target_loss=nan"], "field analysis.target_loss is nan; numbers in a record"),
        (["analysis.target_loss=abc"], "analysis.target_loss=abc must be a number of at least 0"),
        (["force=no"], "force=no must be true or false"),
        (["check_memory=foo"], "check_memory=foo must be true or false"),
        (["save_adapter=abc"], "save_adapter=abc must be true or false"),
        (["save_model=1"], "save_model=1 must be true or false"),
        (["analysis.spectrum=abc"], "analysis.spectrum=abc must be true or false"),
        (["analysis.merge_audit=null"], "analysis.merge_audit=None must be true or false"),
        (["analysis.before=no"], "analysis.before=no must be true or false"),
        (["trainer.gradient_checkpointing=1"], "trainer.gradient_checkpointing=1 must be true or"),
        (["trainer.torch_compile=no"], "trainer.torch_compile=no must be true or false"),
        (["device=tpu"], "device=tpu is not on this machine"),
        (["tracker.mode=foo"], "tracker.mode=foo is unknown"),
        (["-m", "experiment=none,table2_uuid"], "name one experiment a command"),
        (["method=5"], "method=5: there is no method '5'; choose asylora | dora"),
        (["-m", "method=fft,null"], "there is no method 'null'"),
        (["method._target_=os.system"], "_target_: os.system is refused"),
        (["method._target_=tasks.data.os.system"], "_target_: tasks.data.os.system cannot be"),
        (["method._target_=tasks.data.load_dataset"], "tasks.data.load_dataset"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_mistakes_are_refused_in_one_message(
    run: Any, records_of: Records, arguments: list[str], message: str
) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert message in ended.err and "Traceback" not in ended.err
    assert ended.out == "" and records_of() == []


def test_a_folder_that_cannot_be_is_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run(f"results_dir={tmp_path}/file/runs")
    assert ended.status == 2 and f"cannot write in {tmp_path}/file/runs" in ended.err
    assert "Traceback" not in ended.err


def test_what_else_lies_in_the_records_place_is_named_and_kept(
    run: Any, records_of: Records, tmp_path: Path
) -> None:
    run()
    record = only(records_of())
    file = tmp_path / "runs" / f"{record['cell']}.json"
    another = json.dumps(record | {"cell": "0" * 16})
    for content in ('{"torn', "", "[]", '{"schema_version": 99}', another):
        file.write_text(content)
        ended = run()
        assert ended.status == 2 and str(file) in ended.err and "Traceback" not in ended.err
        assert file.read_text() == content
    assert f"holds the record of cell {'0' * 16}" in ended.err


def test_a_failure_is_a_record_and_tried_again(run: Any, records_of: Records) -> None:
    arguments = ["trainer.optimizer=lomo"]  # a package that is not installed
    ended = run(*arguments)
    record = only(records_of())
    assert ended.status == 1 and record["status"] == "failed"
    assert f"failed: {record['reason']}" in ended.err and "Traceback" not in ended.err
    assert run(*arguments).status == 1
    assert only(records_of())["started"] >= record["started"]


def test_a_forced_rerun_that_breaks_down_costs_no_record(
    run: Any, records_of: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run().status == 0
    first = only(records_of())

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr("bench.run.cell.training.train", broken)
        ended = run("force=true")
    assert ended.status == 1 and "out of luck" in ended.err
    assert "the earlier record stays" in ended.err
    assert only(records_of()) == first


def test_divergence_is_a_record_and_stops_no_sweep(run: Any, records_of: Records) -> None:
    ended = run("-m", "method=fft", "method.learning_rate=1e20,1e-3")
    assert ended.status == 1
    by_rate = {record["method"]["learning_rate"]: record for record in records_of()}
    assert by_rate[1e20]["status"] == "diverged" and by_rate[1e-3]["status"] == "ok"
    assert by_rate[1e20]["reason"].startswith("the loss was not finite at step ")
    assert by_rate[1e20]["metrics"] == {} and by_rate[1e20]["curves"]["train"][-1]["loss"] is None
    assert "2 cells: 1 diverged, 1 ok" in ended.out
    again = next(line for line in ended.err.splitlines() if line.startswith("  again: "))
    assert again.endswith("method=fft method.learning_rate=1e+20")
    assert "2 done before" in run("-m", "method=fft", "method.learning_rate=1e20,1e-3").out


PYDOC = ["task.forgetting=[pydoc_topics]", "task.forgetting_limit=2"]


def test_scores_of_lost_weights_are_null(run: Any, records_of: Records) -> None:
    """Scored after the update that lost them, and before a loss shows it."""
    lost = ["method=fft", "method.learning_rate=1e20", "trainer.score_steps=[1]"]
    ended = run(*lost, *PYDOC)
    record = only(records_of())
    assert ended.status == 1 and record["status"] == "diverged", ended.err
    assert record["reason"].startswith("the loss was not finite at step ")
    (point,) = record["curves"]["scores"]
    assert point["metrics"]["pydoc_topics_bits_per_byte"] is None
    assert point["metrics"]["accuracy"] is not None
    assert run(*lost, *PYDOC).status == 1 and only(records_of()) == record  # not tried again


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["method=fft", *PYDOC], "pydoc_topics_bits_per_byte"),
        (["method=lora", "task.forgetting=[]"], "merge_audit.max_abs"),
    ],
)
def test_what_the_last_step_loses_is_a_divergence(
    run: Any, records_of: Records, arguments: list[str], what: str
) -> None:
    ended = run("method.learning_rate=1e20", "trainer.max_steps=1", *arguments)
    record = only(records_of())
    assert ended.status == 1 and record["status"] == "diverged", ended.err
    assert record["reason"] == f"{what} was not finite after the last step"
    assert (record["metrics"], record["merge_audit"], record["forgetting"]) == ({}, None, None)
    assert len(record["curves"]["train"]) == 1


def test_threads_are_the_cells_own(run: Any, records_of: Records) -> None:
    """The next cell of the process has those that it asks for, or the process's."""
    before = torch.get_num_threads()
    assert run("threads=2").status == 0
    assert only(records_of())["environment"]["threads"] == 2
    assert torch.get_num_threads() == before


def test_secrets_of_the_environment_reach_no_record(
    run: Any, records_of: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    run("+model.extra=${oc.env:WANDB_API_KEY}", "save_adapter=true", "data_dir=/hf_verysecret/x")
    record = only(records_of())
    assert record["config"]["data_dir"] == "/***/x"
    for file in (tmp_path / "runs").rglob("*"):
        if file.is_file():
            assert b"0123456789abcdef" * 2 not in file.read_bytes()
            assert b"hf_verysecret" not in file.read_bytes()


def test_as_a_program(tmp_path: Path) -> None:
    """The same through the shell: exit status, and nothing but the message on stderr."""
    command = [sys.executable, "-m", "bench", "model=tiny", "method.rank=0", "tracker=none"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == "the cell refused: rank=0 must be a whole number of at least 1.\n"
