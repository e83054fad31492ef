"""Sweeps: composed as Hydra composes, in one process or in several, and finished whatever dies."""

import errno
import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import initialize_config_module
from hydra.types import RunMode
from omegaconf import OmegaConf

from bench import records, sweep
from bench.run import device
from bench.sweep import array, attempt, footprint, grid, local, outcomes, pending, pool, slurm, task
from bench.sweep.overview import duration

PARALLEL = ["hydra/launcher=parallel", "hydra.launcher.workers=2"]


@pytest.fixture
def composer() -> Iterator[grid.Composer]:
    sweep.register()
    with initialize_config_module("conf", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader: Any = hydra.config_loader
        yield grid.Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.fixture(autouse=True)
def no_outcomes() -> Iterator[None]:
    outcomes._outcomes.clear()
    yield
    outcomes._outcomes.clear()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=lora", "method.rank=4", "seed=3"],
        ["experiment=table2_uuid", "method=fft", "trainer.max_steps=7"],
        ["experiment=table2_uuid", "scale=paper", "method.rank=256", "trial=0"],
        ["method.target_modules=[q_proj]", "~task.pairs", "+trainer.extra={a: 1}", "++seed=5"],
        ["results_dir='with, comma and \"quotes\"'", "model=tiny", "model.label='a b'"],
    ],
    ids=lambda overrides: " ".join(overrides) or "defaults",
)
def test_a_cell_is_composed_as_hydra_composes_it(
    composer: grid.Composer, overrides: list[str]
) -> None:
    expected = composer.loader.load_sweep_config(composer.master, overrides)
    plain: Any = OmegaConf.to_container(expected, resolve=False)
    del plain["hydra"]
    for _ in range(2):  # from a base composed now, and from one kept
        assert OmegaConf.to_container(composer.compose(overrides), resolve=False) == plain


def test_what_cannot_be_composed_is_hydras_own_error(composer: grid.Composer) -> None:
    for wrong in ("method.rankk=3", "nothing=3", "method=nothing", "seed@a=1"):
        with pytest.raises(HydraException) as ours:
            composer.compose([wrong])
        with pytest.raises(HydraException) as theirs:
            composer.loader.load_sweep_config(composer.master, [wrong])
        assert str(ours.value) == str(theirs.value)


def test_a_grid_names_each_cell_once(composer: grid.Composer) -> None:
    loader, master = composer.loader, composer.master
    grids = itertools.product(("fft", "lora"), (0, 2, 4))
    cells = [["model=tiny", f"method={m}", f"method.rank={r}"] for m, r in grids]
    jobs = grid.compose_grid(loader, master, cells)
    assert [job.title for job in jobs] == [
        "FFT lr=0.0001 seed=0", "LoRA r=2 lr=0.002 seed=0", "LoRA r=4 lr=0.002 seed=0",
    ]  # fmt: skip
    (refused,) = outcomes._outcomes
    assert refused.status == "refused" and "rank=0 must" in (refused.reason or "")
    assert refused.command == "python -m bench model=tiny method=lora method.rank=0"
    assert jobs[1].plan().cell == jobs[1].cell
    assert json.loads(jobs[1].config)["method"]["rank"] == 2


def test_a_value_that_cannot_be_is_refused_where_the_grid_is_composed(
    composer: grid.Composer,
) -> None:
    """So that a dry run tells it, and no job of a cluster does."""
    cells = [["model=tiny", f"trainer.schedule={name}"] for name in ("liner", "linear")]
    (job,) = grid.compose_grid(composer.loader, composer.master, cells)
    assert "trainer.schedule=linear" in job.overrides
    (refused,) = outcomes._outcomes
    assert refused.status == "refused"
    assert (refused.reason or "").startswith("trainer.schedule=liner is unknown; choose")


def test_what_hydra_writes_down_is_nobody_elses_and_goes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the command, perhaps with a secret; and of a common folder another is the owner."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []

    def look(*_: Any, **__: Any) -> None:
        modes.extend(file.parent.stat().st_mode & 0o777 for file in tmp_path.rglob("multirun.yaml"))

    monkeypatch.setattr(local, "run", look)
    assert run("-m", "seed=0,1").status == 0
    assert modes == [0o700]
    assert run("seed=-1").status == 2
    assert not list(tmp_path.iterdir())


def test_where_hydra_can_write_nothing_down_it_is_told(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp")

    monkeypatch.setattr(OmegaConf, "save", full)
    ended = run("-m", "seed=0,1")
    assert ended.status == 2 and "/tmp: No space left on device. Make room" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("what", ["prepare", "_refuse_what_cannot_fit"])
def test_a_cell_that_breaks_down_before_it_begins_stops_no_sweep(
    run: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    whole = getattr(attempt, what)

    def broken(given: Any) -> Any:
        plan = given if what == "prepare" else given.plan
        if plan.config["seed"] == 0:
            raise TypeError("out of luck")
        return whole(given)

    monkeypatch.setattr(attempt, what, broken)
    ended = run("-m", "method=lora", "seed=0,1")
    assert ended.status == 1 and ended.out == "2 cells: 1 failed, 1 ok\n", ended.err
    assert "failed: TypeError: out of luck" in ended.err and "Traceback" not in ended.err


@pytest.mark.slow
def test_composing_does_not_slow_with_the_square(composer: grid.Composer) -> None:
    def seconds(count: int) -> float:
        cells = [["model=tiny", f"seed={seed}"] for seed in range(count)]
        begin = time.process_time()
        assert len(grid.compose_grid(composer.loader, composer.master, cells)) == count
        return time.process_time() - begin

    seconds(1)
    few, many = seconds(25), seconds(200)
    assert many < 8 * few * 2


def start(*arguments: str) -> psutil.Popen:
    command = [sys.executable, "-m", "bench", "-m", *arguments]
    return psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: psutil.Popen, status: int) -> str:
    output: str = process.communicate(timeout=250)[0]
    assert process.returncode == status and "Traceback" not in output, output
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.json")}


def wait_for(what: Callable[[], Any], process: psutil.Popen) -> None:
    end = time.monotonic() + 200
    while not what():
        assert time.monotonic() < end
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


def assert_undisturbed(folder: Path, run: Any, *grid: str) -> None:
    """The folder holds complete records of the grid alone, as one calm process makes them."""
    assert {file.suffix for file in folder.iterdir()} == {".json"}
    disturbed = folder.rename(folder.with_name("disturbed"))
    ended = run("-m", *grid)
    assert ended.status == 0, ended.err
    assert contents(folder).keys() == contents(disturbed).keys()
    for file in folder.glob("*.json"):
        pair = records.read(file), records.read(disturbed / file.name)
        # The checkout may move on while this runs.
        moved = {"environment.git_commit", "environment.git_dirty"}
        assert set(records.differences(*pair)) <= moved


@pytest.mark.slow
def test_workers_make_the_records_of_one_process_though_one_is_killed(
    run: Any, tiny: list[str], tmp_path: Path
) -> None:
    """And tell which cells failed, why, and how to run them again."""
    folder, cells = tmp_path / "runs", ["method=lora,mora", "trainer.max_steps=100"]
    cells += ["trainer.checkpoint_every=1"]
    process = start(*tiny, "trainer.optimizer=adamw_torch,lomo", *cells, *PARALLEL)
    wait_for(lambda: list(folder.glob("*.checkpoints/checkpoint-*")), process)
    lease = next(folder.glob("*.checkpoints")).with_suffix(".lease")
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
    output = finish(process, 1)
    assert "its process was killed (SIGKILL; out of memory?)" in output
    lines = output.splitlines()
    assert lines[0] == "4 cells, 0 running, 4 left"
    assert sum(bool(re.match(r"\[\d/4\] .*: ok, accuracy ", line)) for line in lines) == 1
    assert {"4 cells: 1 ok, 3 failed", "4 cells: 3 failed, 1 ok"} & set(lines)
    again = [line for line in lines if line.startswith("  again: python -m bench model=tiny")]
    assert len(again) == 3 and sum("trainer.optimizer=lomo" in line for line in again) == 2
    assert lease.exists()
    grid = ["trainer.optimizer=adamw_torch", *cells]
    assert run("-m", *grid).out.endswith("2 cells: 1 done before, 1 ok\n")
    for file in folder.glob("*.json"):
        if records.read(file)["status"] == "failed":
            file.unlink()
    assert_undisturbed(folder, run, *grid)


@pytest.mark.slow
def test_a_sweep_asked_to_leave_leaves_and_goes_on(
    run: Any, tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    grid = ["method=lora", "trainer.max_steps=100", "seed=0,1,2", "trainer.checkpoint_every=1"]
    process = start(*tiny, *grid, *PARALLEL)
    wait_for(lambda: list(folder.glob("*.checkpoints/checkpoint-*")), process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 75)
    assert "received SIGTERM: cells write their checkpoints and leave" in output
    assert "again: python -m bench -m model=tiny" in output
    assert list(folder.glob("*.lease")) == []
    assert "goes on" not in output
    run("-m", *grid)
    assert_undisturbed(folder, run, *grid)


@pytest.mark.slow
def test_workers_leave_when_their_sweep_is_killed(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    process = start(*tiny, "method=lora", "trainer.max_steps=5000", "seed=0,1", *PARALLEL)
    wait_for(lambda: len(list(folder.glob("*.lease"))) == 2, process)
    workers = process.children()
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=100)
    assert alive == []
    assert list(folder.glob("*.lease")) == [] and len(list(folder.glob("*.checkpoints"))) == 2


def assert_each_ran_once(outputs: list[str], folder: Path, cells: int) -> None:
    found = [re.search(rf"^{cells} cells: (.*)$", output, re.MULTILINE) for output in outputs]
    fresh = [int(n) for line in found if line for n in re.findall(r"(\d+) ok", line[1])]
    assert all(found) and sum(fresh) == cells, outputs
    assert [file.suffix for file in folder.iterdir()] == [".json"] * cells


def test_two_sweeps_at_once_run_each_cell_once(
    run: Any, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And both end when all cells are complete, whoever ran them."""
    monkeypatch.setattr(pending, "LOOK_AGAIN", 0.2)
    folder, grid = tmp_path / "runs", ["method=lora", "seed=0,1,2", "trainer.max_steps=12"]
    other = start(*tiny, *grid)
    wait_for(lambda: list(folder.glob("*.lease")), other)
    ended = run("-m", *grid)
    assert ended.status == 0, ended.err
    assert_each_ran_once([ended.out, finish(other, 0)], folder, 3)


@pytest.mark.slow
def test_three_sweeps_at_once_run_each_cell_once(tiny: list[str], tmp_path: Path) -> None:
    grid = ["method=lora,mora", "seed=0,1,2,3", "trainer.max_steps=30"]
    crowd = [start(*tiny, *grid, *more) for more in ([], [], PARALLEL)]
    assert_each_ran_once([finish(p, 0) for p in crowd], tmp_path / "runs", 8)


def test_a_corrupted_record_is_named_and_stops_no_sweep(run: Any, tmp_path: Path) -> None:
    grid, folder = ["-m", "method=lora", "seed=0,1"], tmp_path / "runs"
    assert run(*grid).status == 0
    undisturbed = contents(folder)
    torn, missing = (folder / name for name in undisturbed)
    torn.write_bytes(undisturbed[torn.name][:-100])
    missing.unlink()
    ended = run(*grid)
    assert ended.status == 2 and ended.out == "2 cells: 1 refused, 1 ok\n"
    assert str(torn) in ended.err and "Traceback" not in ended.err
    assert torn.read_bytes() == undisturbed[torn.name][:-100] and missing.exists()
    torn.unlink()
    assert run(*grid).out == "2 cells: 1 done before, 1 ok\n"


ARRAY = ["-m", "hydra/launcher=sbatch", "hydra.launcher.submit=false"]


def test_a_list_for_slurm_is_written_and_a_task_runs_its_part(
    run: Any, records_of: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = run(*ARRAY, "method=lora", "seed=0,1,2", "hydra.launcher.cells_per_task=2")
    assert written.status == 0 and written.out.startswith("sbatch --parsable --array=1-2 ")
    (cells,) = tmp_path.glob("runs/slurm/*/cells-1.jsonl")
    assert task.main([str(cells), "2", "2"]) == 0
    assert [record["seed"] for record in records_of()] == [2]
    assert task.main([str(cells), "3", "2"]) == 2
    assert "no cells for task 3" in capfd.readouterr().err
    assert run(*ARRAY, "method=lora", "seed=0,1,2").out.startswith("sbatch --parsable --array=1-2 ")


@pytest.mark.parametrize("spread", [(), ("distributed=ddp", "distributed.processes=2")])
def test_a_job_of_several_processes_is_told_earlier_that_its_time_is_up(
    run: Any, spread: tuple[str, ...]
) -> None:
    """Its checkpoint may be large; what the command says counts for more."""
    grid = [*ARRAY, "method=lora", "seed=0,1", *spread]
    assert ("--signal=B:USR1@600" in run(*grid).out) == bool(spread)
    said = run(*grid, "+hydra.launcher.options.signal=B:USR1@60").out
    assert "--signal=B:USR1@60 " in said and "@600" not in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["hydra.launcher.submit=no"], "submit=no must be true or false"),
        (["hydra.launcher.options=null"], "options=None must be a table"),
        (["hydra.launcher.options=5"], "options=5 must be a table"),
        (["hydra.launcher.array_parallelism=abc"], "array_parallelism=abc must be a whole number"),
        (["hydra.launcher.cells_per_task=true"], "cells_per_task=True must be a whole number"),
        (["--config-name=table"], "--config-name=table does not reach the jobs of a cluster"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_a_launcher_cannot_do_is_refused(
    run: Any, tmp_path: Path, given: list[str], words: str
) -> None:
    if "table" in given[0]:
        (tmp_path / "table.yaml").write_text("defaults: [config, _self_]\nseed: 5\n")
        given = [*given, f"--config-dir={tmp_path}"]
    ended = run(*ARRAY, "method=lora", *given)
    assert ended.status == 2 and words in ended.err and "Traceback" not in ended.err
    assert ended.out == "" and not (tmp_path / "runs").exists()


def test_cells_of_several_arrays_are_not_limited_array_by_array(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "LARGEST", 2)
    grid = [*ARRAY, "method=lora", "seed=0,1,2,3,4", "hydra.launcher.array_parallelism=1"]
    refused = run(*grid)
    assert refused.status == 2 and "hydra.launcher.cells_per_task=3 or more" in refused.err
    assert "--array=1-2%1" in run(*grid, "hydra.launcher.cells_per_task=3").out
    assert run(*grid, "hydra.launcher.array_parallelism=null").out.count("sbatch --parsable") == 3


@pytest.mark.parametrize("grid", [["-m"], ARRAY], ids=["here", "sbatch"])
def test_a_folder_that_cannot_be_is_a_message_of_the_sweep(
    run: Any, tmp_path: Path, grid: list[str]
) -> None:
    ended = run(*grid, "method=lora", f"results_dir={tmp_path / ('x' * 300)}")
    assert ended.status == 2 and ": File name too long. " in ended.err, ended.err
    assert "Traceback" not in ended.err


def test_a_task_that_is_asked_to_leave_counts_its_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = grid.Job(("seed=0",), "{}", "0" * 16, "cell")
    monkeypatch.setattr(local, "split", lambda jobs: [])
    monkeypatch.setattr(local.interrupts, "requested", lambda: "received SIGUSR1")
    outcomes.add(outcomes.Outcome("cell", "stopped", "received SIGUSR1", job.command))
    local.run([job], workers=0, again="the same job")
    assert outcomes.conclude() == 75
    said = capsys.readouterr()
    assert "1 cell: 1 stopped\n" in said.out and "  again: the same job\n" in said.err


def test_an_outcome_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    made = outcomes.Outcome("a=hf_verysecret", "failed", "no hf_verysecret", "-m hf_verysecret")
    assert (made.title, made.reason, made.command) == ("a=***", "no ***", "-m ***")
    assert outcomes.Outcome("a", "ok", None, "b").reason is None


@pytest.mark.parametrize(
    ("named", "seen"),
    [("-1", []), ("0,-1,1", ["0"]), ("2,3", ["2", "3"]), ("GPU-8a", ["GPU-8a"])],
)
def test_gpus_end_at_the_first_negative_number(
    named: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert pool.visible_gpus() == seen


@pytest.mark.parametrize(("processes", "seconds"), [(1, 120), (2, 600)])
def test_submitit_is_told_so_too(
    processes: int, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    executor = SimpleNamespace(update_parameters=given.update, map_array=lambda *_: [])
    monkeypatch.setattr("submitit.AutoExecutor", lambda **_: executor)
    config = json.dumps({"distributed": {"processes": processes}})
    settings = {"max_num_timeout": 100, "signal_delay_s": 120}
    slurm.submit([grid.Job(("seed=0",), config, "", "")], tmp_path, settings)
    assert given["slurm_signal_delay_s"] == seconds


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "may_have_gpu", lambda: False)


def test_a_login_node_needs_no_gpu(run: Any, tmp_path: Path, no_gpu: None) -> None:
    written = run(*ARRAY, "method=lora", "device=cuda", "precision=bf16", "seed=0,1")
    assert written.status == 0 and "--array=1-2 " in written.out, written.err
    refused = run(*ARRAY, "method=lora", "device=cuda", "precision=auto")
    assert refused.status == 2 and "choose precision=bf16 or precision=fp32" in refused.err
    warned = run(*ARRAY, "method=lora", "precision=auto", "seed=0,1")
    assert warned.status == 0 and "--array=1-2 " in warned.out
    assert warned.err.count("precision=auto is ") == 1


@pytest.mark.parametrize("option", ["--config-dir", "hydra.searchpath"])
def test_a_task_finds_the_configuration_that_the_command_was_given(
    run: Any, records_of: Any, tmp_path: Path, option: str
) -> None:
    folder = tmp_path / "it's mine, too"
    (folder / "model").mkdir(parents=True)
    tiny = (Path(__file__).resolve().parents[3] / "conf/model/tiny.yaml").read_text()
    (folder / "model" / "own.yaml").write_text(tiny)
    given = ["--config-dir", str(folder)]
    if option == "hydra.searchpath":
        given = [f'hydra.searchpath=["file://{folder}"]']
    written = run(*ARRAY, "model=own", "method=lora", "seed=0,1", *given)
    assert written.status == 0, written.err
    (cells,) = tmp_path.glob("runs/slurm/*/cells-1.jsonl")
    assert task.main([str(cells), "2"]) == 0
    assert [record["seed"] for record in records_of()] == [1]


@pytest.mark.parametrize("grid", [[], ["-m"], ["-m", *PARALLEL]], ids=["one", "grid", "workers"])
def test_the_command_of_a_record_finds_the_configuration_again(
    run: Any, records_of: Any, tmp_path: Path, grid: list[str]
) -> None:
    folder = tmp_path / "it's mine, too"
    (folder / "model").mkdir(parents=True)
    tiny = (Path(__file__).resolve().parents[3] / "conf/model/tiny.yaml").read_text()
    (folder / "model" / "own.yaml").write_text(tiny)
    made = run(*grid, "model=own", "method=lora", "seed=1", "--config-dir", str(folder))
    assert made.status == 0, made.err
    (record,) = records_of()
    again = run(*shlex.split(record["command"])[3:])
    assert again.status == 0 and "1 done before" in again.out, again.err


def test_a_forced_task_that_is_requeued_goes_on(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it has done is newer than the list of cells; what lay there before is not."""
    assert run("-m", "method=lora", "seed=0,1").status == 0
    assert run(*ARRAY, "method=lora", "seed=0,1", "force=true").status == 0
    (cells,) = tmp_path.glob("runs/slurm/*/cells-1.jsonl")
    said = []
    for _ in range(2):
        capfd.readouterr()
        assert task.main([str(cells), "1", "2"]) == 0
        said.append(capfd.readouterr().out)
    assert said == ["2 cells: 2 ok\n", "2 cells: 2 done before\n"]


def test_workers_have_one_gpu_each(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_present", lambda name: name)
    ended = run("-m", *PARALLEL, "device=cuda:1", "seed=0,1")
    assert ended.status == 2 and "CUDA_VISIBLE_DEVICES=1" in ended.err
    assert "Traceback" not in ended.err


def test_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint.memory, "limit", lambda: 1200)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(total_memory=600)
    )
    assert [footprint.room(name) for name in ("cpu", "cuda", "mps")] == [1200, 600, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    for name, value in pool.environment(slot=2, workers=5, size=3).items():
        monkeypatch.setenv(name, value)
    assert [footprint.room(name) for name in ("cpu", "cuda:0", "mps")] == [400, 300, None]


def test_a_list_for_slurm_holds_no_secret(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    refused = run(*ARRAY, "+model.extra=0123456789abcdef")
    assert refused.status == 2 and "Give it as ${oc.env:NAME}" in refused.err
    assert "Traceback" not in refused.err and "0123456789abcdef" not in refused.err
    assert run(*ARRAY, "+model.extra=${oc.env:WANDB_API_KEY}").status == 0
    for file in tmp_path.glob("runs/slurm/*/*"):
        assert "0123456789abcdef" not in file.read_text()


def kill(process: psutil.Popen, rng: random.Random) -> None:
    """SIGKILL to the sweep and its workers, in any order."""
    family = [process, *process.children(recursive=True)]
    rng.shuffle(family)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()
    psutil.wait_procs(family)


def survive(
    run: Any, tiny: list[str], folder: Path, grid: list[str], kills: int, launcher: list[str]
) -> None:
    """Kill a sweep so many times at random moments; its records are those of a calm one.

    The grid must be work for as many seconds as there are kills.
    """
    rng = random.Random(kills)
    complete: dict[str, bytes] = {}
    for _ in range(kills):
        process = start(*tiny, *grid, *launcher)
        before = len(complete)
        wait_for(
            lambda b=before: list(folder.glob("*.lease")) or len(contents(folder)) > b, process
        )
        time.sleep(rng.random())
        assert process.poll() is None, process.stdout.read()
        kill(process, rng)
        assert complete.items() <= contents(folder).items()  # none was written a second time
        complete = contents(folder)
        assert all(json.loads(text)["status"] == "ok" for text in complete.values())
    assert run("-m", *grid, *launcher).status == 0
    assert complete.items() <= contents(folder).items()
    assert_undisturbed(folder, run, *grid)


@pytest.mark.slow
def test_three_kills_cost_only_time(run: Any, tiny: list[str], tmp_path: Path) -> None:
    grid = ["method=lora,remora", "trainer.max_steps=120"]
    survive(run, tiny, tmp_path / "runs", [*grid, "trainer.checkpoint_every=5"], 3, [])


@pytest.mark.slow
def test_twenty_kills_cost_only_time(run: Any, tiny: list[str], tmp_path: Path) -> None:
    """24 cells, in two workers."""
    grid = ["method=fft,lora,mora,relora", "seed=0,1,2", "method.learning_rate=1e-3,2e-3"]
    grid += ["trainer.max_steps=150", "trainer.checkpoint_every=5"]
    survive(run, tiny, tmp_path / "runs", grid, 20, PARALLEL)


def test_workers_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert pool.environment(3, 5, 4) == {
        "CUDA_VISIBLE_DEVICES": "6", **dict.fromkeys(pool.THREADS, "3"),
        "MORA_BENCH_WORKERS": "4", "MORA_BENCH_WORKERS_A_GPU": "2",
    }  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the user's limit is one for all
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    alone = {"MORA_BENCH_WORKERS": "1"}
    assert pool.environment(0, 5, 1) == dict.fromkeys(pool.THREADS, "1") | alone


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (700, "12 min"), (12600, "3.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
