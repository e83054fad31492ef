"""One cell in two real processes (torchrun, gloo): the numbers of one process, and one writer."""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import BatchSampler

from bench import records
from bench.run import distributed

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts" / "slurm"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TORCHRUN += ["-m", "bench"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
ACCELERATE += ["--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
ACCELERATE += ["--dynamo_backend=no", "--main_process_port=0", "-m", "bench"]
# What torchrun does, but its two processes are forks of one that has imported everything.
FORKED = """
import sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import bench.sweep.single
from bench.__main__ import main

def work():
    status = main()
    if status:
        sys.exit(status)

rendezvous = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", **rendezvous), work)()
"""
FORK = [sys.executable, "-c", FORKED]
STRATEGIES = ["ddp", "fsdp2"]
# Nine examples, four at a time: an epoch's third step has one, so that a process gets none of it.
UNEVEN = ["task.pairs=9", "trainer.max_steps=8", "trainer.score_steps=[4]"]
UNEVEN += ["analysis.spectrum=true", "save_adapter=true"]
METHODS = {
    "fft": ["method=fft"],
    "lora": ["method=lora", "trainer.accumulation=2"],
    "mora": ["method=mora"],
    "remora": ["method=remora", "method.restart_every=3", "method.restart_warmup=1"],
    "relora": ["method=relora", "method.restart_every=3", "method.restart_warmup=1"],
}
METHODS["remora"] += ["trainer.schedule=jagged_cosine"]
METHODS["relora"] += ["trainer.schedule=jagged_cosine", "method.reset_optimizer=prune"]
METHODS["fft_tied"] = ["method=fft", "model.architecture.tie_word_embeddings=true"]
METHODS["mora_tied"] = ["method=mora", "model.architecture.tie_word_embeddings=true"]
LONG = ["trainer.max_steps=300", "trainer.checkpoint_every=20", "trainer.batch_size=2"]
MOVES = {"environment.git_commit", "environment.git_dirty"}  # the checkout may move on meanwhile


def two(*arguments: str, launcher: Sequence[str] = TORCHRUN) -> subprocess.Popen[str]:
    command = [*launcher, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def in_two(*arguments: str, ok: bool = True, launcher: Sequence[str] = TORCHRUN) -> str:
    """What two processes print that train this cell together."""
    process = two(*arguments, launcher=launcher)
    out, err = process.communicate(timeout=280)
    assert (process.returncode == 0) == ok, err
    return out + err


def only_record(folder: Path) -> records.Record:
    (file,) = folder.glob("*.json")
    return records.read(file)


def curve(record: records.Record, key: str) -> list[float]:
    return [point[key] for point in record["curves"]["train"]]


def assert_alike(one: records.Record, both: records.Record) -> None:
    """The same training but for the order in which numbers are added."""
    for key in ("loss", "grad_norm"):
        assert curve(both, key) == pytest.approx(curve(one, key), rel=1e-5), key
    assert curve(both, "learning_rate") == curve(one, "learning_rate")
    assert curve(both, "tokens") == curve(one, "tokens")
    assert both["parameters"] == one["parameters"]
    assert [p["step"] for p in both["curves"]["scores"]] == [4]
    assert both["metrics"].keys() == one["metrics"].keys()
    for name, metric in one["metrics"].items():
        assert both["metrics"][name]["value"] == pytest.approx(metric["value"], abs=0.02), name
    layers, others = (record["spectrum"]["layers"] for record in (one, both))
    assert layers.keys() == others.keys()
    for name, layer in layers.items():
        assert others[name]["frobenius"] == pytest.approx(layer["frobenius"], rel=1e-4), name


def compare(
    run: Any,
    tiny: list[str],
    strategy: str,
    method: list[str],
    launcher: Sequence[str] = FORK,
) -> None:
    folder = Path(tiny[-1].removeprefix("results_dir="))
    arguments = [*UNEVEN, *method]
    spread = [f"distributed={strategy}", "trainer.batch_size=2"]
    output = in_two(*tiny, *arguments, *spread, "tracker=wandb_offline", launcher=launcher)
    assert output.count("1 cell: 1 ok") == 1
    assert output.count("step 8/8") == 1  # the progress of one process
    both = only_record(folder)
    found = {file.name for file in folder.iterdir()}
    assert found == {both["cell"], f"{both['cell']}.json", "wandb"}  # no claim, no checkpoint
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert run(*arguments, f"results_dir={folder / 'one'}").status == 0
    assert_alike(only_record(folder / "one"), both)


def test_two_processes_train_as_one(run: Any, tiny: list[str]) -> None:
    compare(run, tiny, "ddp", METHODS["mora"])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_every_launcher(launcher: list[str], run: Any, tiny: list[str]) -> None:
    compare(run, tiny, "ddp", METHODS["lora"], launcher)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_and_method(
    strategy: str, method: list[str], run: Any, tiny: list[str]
) -> None:
    compare(run, tiny, strategy, method)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bf16(strategy: str, run: Any, tiny: list[str], tmp_path: Path) -> None:
    """A frozen base in bf16 beside adapters in fp32; rounding is coarse."""
    arguments = ["precision=bf16", "method=mora", "trainer.max_steps=4"]
    in_two(*tiny, *arguments, f"distributed={strategy}", "trainer.batch_size=2")
    both = only_record(tmp_path / "runs")
    assert run(*arguments, f"results_dir={tmp_path / 'one'}").status == 0
    one = only_record(tmp_path / "one")
    assert curve(both, "loss") == pytest.approx(curve(one, "loss"), rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fft_tied", "remora"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_and_resumed_is_uninterrupted(
    strategy: str, method: str, tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    arguments = [*tiny, *METHODS[method], *LONG, f"distributed={strategy}"]
    if method == "remora":
        arguments.append("method.restart_every=50")
    process = two(*arguments)
    wait_for(lambda: list(folder.glob("*.checkpoints/checkpoint-*")))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode != 0 and "it can be resumed" in err, out + err
    assert "again: torchrun --nproc-per-node=2 -m bench" in err
    (left,) = folder.iterdir()  # neither claim nor record
    assert left.suffix == ".checkpoints"
    names = {file.name for file in next(left.iterdir()).iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= names
    assert "goes on from step" in in_two(*arguments)
    resumed = only_record(folder)
    in_two(*arguments, f"results_dir={tmp_path / 'calm'}", launcher=FORK)
    different = set(records.differences(resumed, only_record(tmp_path / "calm")))
    assert different - MOVES == {"command", "config.results_dir"}
    assert "1 cell: 1 done before" in in_two(*arguments, launcher=FORK)


def test_a_wrong_number_of_processes_is_one_message(run: Any) -> None:
    ended = run("distributed=ddp", "distributed.processes=4")
    (line,) = ended.err.splitlines()
    assert ended.status == 2
    assert "distributed.processes=4, but 1 process was started" in line
    assert "torchrun --nproc-per-node=4 -m bench distributed=ddp" in line
    assert "strategy=tpu is unknown" in run("distributed.strategy=tpu").err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "distributed=none trains a cell in one process"),
        (["distributed=ddp", "distributed.processes=3"], "but 2 processes were started"),
        (["-m", "distributed=ddp", "seed=0,1"], "leave -m out"),
    ],
)
def test_a_refusal_in_two_processes_is_one_message(
    arguments: list[str], message: str, tiny: list[str], tmp_path: Path
) -> None:
    output = in_two(*arguments, *tiny, ok=False)
    lines = [text for text in output.splitlines() if " refused: " in text and message in text]
    assert len(lines) == (2 if "-m" in arguments else 1), output  # one a cell
    assert "exitcode  : 2" in output and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_failure_in_two_processes_is_one_record(tiny: list[str], tmp_path: Path) -> None:
    output = in_two(*tiny, "distributed=ddp", "trainer.optimizer=lomo", ok=False)
    record = only_record(tmp_path / "runs")
    assert record["status"] == "failed" and "exitcode  : 1" in output
    assert [file.suffix for file in (tmp_path / "runs").iterdir()] == [".json"]


def test_deepspeed_without_the_package_is_one_message(run: Any) -> None:
    if importlib.util.find_spec("deepspeed"):
        pytest.skip("deepspeed is installed")
    ended = run("distributed=deepspeed", "distributed.processes=1")
    assert ended.status == 2
    assert "needs the package deepspeed: pip install deepspeed" in ended.err


def test_kept_weights_under_fsdp2_are_refused_before_anything_is_loaded(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer would refuse them too, at the first step."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = run("method=mora", "method.compute=cached", "distributed=fsdp2",
                "distributed.processes=2")  # fmt: skip
    assert ended.status == 2 and "method.compute=fused" in ended.err


@pytest.mark.parametrize("examples", [0, 1, 3, 8, 13])
def test_shares_are_the_batches_of_one_process(examples: int) -> None:
    shares = distributed.Shares(range(examples), 2, 2)
    found, whole = list(shares), list(BatchSampler(range(examples), 4, drop_last=False))
    assert len(found) == len(shares) == 2 * len(whole)
    steps = [found[2 * i] + found[2 * i + 1] for i in range(len(whole))]
    assert steps == whole
    assert all(abs(len(found[2 * i]) - len(found[2 * i + 1])) <= 1 for i in range(len(whole)))


def test_committed_records_keep_their_cells(root: Path) -> None:
    """What the configuration composes today is still the cell of a record of version 1.

    Keys of conf/distributed make no new cell out of one that a single process trains.
    """
    from hydra import compose, initialize_config_module

    from bench.records import identity
    from bench.run.plan import plan

    found = [records.read(file) for file in (root / "results/table2_uuid/records").glob("*.json")]
    known = {records.cell_id(identity.of_record(record)) for record in found}
    with initialize_config_module("conf", version_base="1.3"):
        overrides = ["experiment=table2_uuid", "scale=laptop", "precision=bf16"]
        for method in ("fft", "lora", "mora"):
            assert plan(compose("config", [*overrides, f"method={method}"])).cell in known
        spread = compose("config", [*overrides, "method=mora", "distributed=ddp"])
        assert plan(spread).cell not in known  # the batch is another


def wait_for(what: Callable[[], Any], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- SLURM -------------------------------------------------------------------------------------


@pytest.fixture
def cluster(slurm_lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The lab, for jobs of two processes; its queue is emptied afterwards."""
    monkeypatch.setenv("PROCESSES", "2")
    yield slurm_lab
    subprocess.run(["scancel", "--user=root"])
    wait_for(lambda: not slurm("squeue", "-h"))


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_job_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPTS / "multi_node.sbatch"], check=True)


@pytest.mark.slurm
def test_a_job_of_two_processes_signalled_and_requeued(
    cluster: Path, run: Any, tiny: list[str], tmp_path: Path
) -> None:
    """One node here. Near its time limit it is requeued, and goes on; names may be odd."""
    folder = tmp_path / 'it\'s a "run" of 100%, $HOME'
    quoted = str(folder).replace('"', '\\"')
    arguments = [*tiny[:-1], *METHODS["remora"], "method.restart_every=50", *LONG]
    arguments += ["trainer.max_steps=1000", "distributed=fsdp2", f'results_dir="{quoted}"']
    log = cluster / "job.out"
    # With ten minutes, this cluster's default, it would be told at once that its time is up.
    submit = ["sbatch", "--parsable", "--time=30", f"--output={log}", SCRIPTS / "multi_node.sbatch"]
    job = slurm(*map(str, submit), sys.executable, *arguments)
    wait_for(lambda: list(folder.glob("*.checkpoints/checkpoint-*")))
    slurm("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@600 does
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job))
    assert "stopped: received SIGUSR1" in log.read_text()
    wait_for(lambda: not slurm("squeue", "-h"))
    assert "goes on from step" in log.read_text(), log.read_text()
    assert "1 cell: 1 ok" in log.read_text()
    record = only_record(folder)
    assert record["status"] == "ok" and record["config"]["distributed"]["processes"] == 2
    assert [file.suffix for file in folder.iterdir()] == [".json"]
