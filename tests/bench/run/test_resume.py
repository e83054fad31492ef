"""A cell that was killed, or asked to leave, and goes on gives the record of an undisturbed one."""

import copy
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.utils.data import Dataset

from bench import records
from bench.run import checkpoints, interrupts, models, training, watch
from bench.run.device import Placement
from bench.run.history import History
from bench.run.progress import Shown
from bench.sweep import leases
from methods import Method
from methods.fft import FFT
from methods.lora import LoRA
from methods.mora import MoRA
from methods.relora import ReLoRA
from methods.remora import ReMoRA

CPU = Placement("cpu", "fp32")
ROOT = Path(__file__).resolve().parents[3]
MOVES = {"environment.git_commit", "environment.git_dirty"}  # the checkout may move on meanwhile
RESTARTS: dict[str, Any] = {"rank": 4, "learning_rate": 1e-2, "restart_every": 3}
METHODS: list[Method] = [
    FFT(learning_rate=1e-3),
    LoRA(rank=4, learning_rate=1e-2, dropout=0.1),  # random numbers at each step
    MoRA(rank=4, learning_rate=1e-2),
    ReLoRA(seed=3, restart_warmup=1, reset_optimizer="prune", **RESTARTS),
    ReMoRA(layouts=4, restart_warmup=1, **RESTARTS),
]


class Killed(BaseException):
    """As abrupt as a test within one process can be."""


class Rows(Dataset[dict[str, list[int]]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = [
            torch.randint(3, 259, (4 + i,), generator=generator).tolist() for i in range(7)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids = self.rows[index]
        mask = [0] * (len(ids) - 2) + [1] * 2
        return {"input_ids": ids, "labels": ids, "value_mask": mask}


def settings(**changes: Any) -> dict[str, Any]:
    with initialize_config_module("conf", version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", ["seed=0"]).trainer, resolve=False)
    changes = {"data_seed": 0, "max_steps": 11, "batch_size": 2, "checkpoint_minutes": 0} | changes
    return plain | changes


def train(
    method: Method, folder: Path, guard: Callable[[], None] = lambda: None, **changes: Any
) -> tuple[History, dict[str, torch.Tensor]]:
    """In a model loaded anew, as in a new process."""
    model = ROOT / "conf" / "model" / "tiny.yaml"
    loaded = models.load(OmegaConf.load(model), dtype=torch.float32, device=CPU.device, seed=0)
    torch.manual_seed(0)
    method = copy.deepcopy(method)
    method.attach(loaded.model)
    history = training.train(
        loaded.model, loaded.tokenizer, method, Rows(), settings(**changes), CPU, seed=0,
        score=lambda: {"norm": sum(float(p.detach().norm()) for p in loaded.model.parameters())},
        checkpoint_folder=folder, guard=guard,
    )  # fmt: skip
    state = {name: tensor.clone() for name, tensor in method.state(loaded.model).items()}
    return history, state | method.delta_weights(loaded.model)


def after(calls: int, error: type[BaseException]) -> Callable[[], None]:
    """A guard that raises when it is called for this time. It is called once more a checkpoint."""
    count = iter(range(1, 1000))

    def guard() -> None:
        if next(count) == calls:
            raise error

    return guard


def assert_same(
    one: tuple[History, dict[str, torch.Tensor]],
    other: tuple[History, dict[str, torch.Tensor]],
) -> None:
    """To the bit, times apart."""
    for curve in ("train", "scores"):
        points = [[{**p, "seconds": 0} for p in getattr(h, curve)] for h, _ in (one, other)]
        assert points[0] == points[1]
    assert one[0].tokens == other[0].tokens
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        assert torch.equal(tensor, other[1][name]), name


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m.name in ("fft", "lora", "remora") else pytest.mark.slow)
     for m in METHODS],
    ids=lambda m: m.name,
)  # fmt: skip
def test_killed_and_resumed_is_uninterrupted(method: Method, tmp_path: Path) -> None:
    """Killed three times: before any checkpoint, between two, and in an epoch's middle."""
    plan: dict[str, Any] = {"checkpoint_every": 2, "score_steps": [1, 4, 8], "log_every": 3}
    plan |= {"accumulation": 2, "schedule": "jagged_cosine", "warmup_steps": 2}
    plan |= {"score_at_learned": [0.002, 0.01, 0.02, 0.1, 1]}
    undisturbed = train(method, tmp_path / "a", **plan)
    for steps in (1, 4, 6):
        with pytest.raises(Killed):
            train(method, tmp_path / "b", after(steps, Killed), **plan)
    newest = checkpoints.newest(tmp_path / "b")
    assert newest is not None and 2 < checkpoints.step(newest) < 11
    assert_same(train(method, tmp_path / "b", **plan), undisturbed)


@pytest.mark.parametrize("broken", [1, 2], ids=["newest", "both"])
def test_broken_checkpoints_cost_only_time(broken: int, tmp_path: Path) -> None:
    undisturbed = train(METHODS[2], tmp_path / "a", checkpoint_every=2)
    with pytest.raises(Killed):
        train(METHODS[2], tmp_path / "b", after(11, Killed), checkpoint_every=2)
    found = sorted((tmp_path / "b").iterdir(), key=checkpoints.step, reverse=True)
    for folder, name in zip(found[:broken], ("optimizer.pt", "state.safetensors"), strict=False):
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    assert checkpoints.newest(tmp_path / "b") == (found[1] if broken == 1 else None)
    assert_same(train(METHODS[2], tmp_path / "b", checkpoint_every=2), undisturbed)


class Trap:
    """Unpickled, it touches a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_nothing_is_executed_on_going_on(name: str, tmp_path: Path) -> None:
    """A checkpoint from a stranger, its checksums in order, runs no code."""
    with pytest.raises(Killed):
        train(METHODS[2], tmp_path / "runs", after(6, Killed), checkpoint_every=2)
    newest = checkpoints.newest(tmp_path / "runs")
    assert newest is not None
    with checkpoints.writing(tmp_path / "runs", checkpoints.step(newest) + 1) as folder:
        for file in newest.iterdir():
            if file.name != checkpoints.MANIFEST:
                shutil.copy(file, folder)
        assert (folder / name).is_file()
        torch.save(Trap(tmp_path / "sprung"), folder / name)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        train(METHODS[2], tmp_path / "runs", checkpoint_every=2)
    assert not (tmp_path / "sprung").exists()


def test_a_run_that_had_ended_is_not_trained_further(tmp_path: Path) -> None:
    """Killed in its final scoring: all that is left is to load the last checkpoint."""
    undisturbed = train(METHODS[0], tmp_path, checkpoint_every=2)
    newest = checkpoints.newest(tmp_path)
    assert newest is not None and checkpoints.step(newest) == 11  # the last step's, though odd
    assert_same(train(METHODS[0], tmp_path, checkpoint_every=2), undisturbed)


def test_checkpoints_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RARE", 0)
    train(METHODS[1], tmp_path, checkpoint_minutes=1e-9)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


def test_no_checkpoints_unless_it_takes_long(tmp_path: Path) -> None:
    train(METHODS[1], tmp_path, checkpoint_minutes=5)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_that_take_long_are_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes a second and a checkpoint two: 40 go by to the next."""
    now, written, save = 0.0, list[int](), checkpoints.save_state

    def tick() -> None:  # at each step, and as each checkpoint begins
        nonlocal now
        now += 1

    def slowly(folder: Path, weights: Any, history: History) -> None:
        tick()
        written.append(history.train[-1]["step"])
        save(folder, weights, history)

    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(checkpoints, "save_state", slowly)
    train(METHODS[1], tmp_path, tick, checkpoint_minutes=5 / 60, max_steps=50)
    assert written == [5, 45, 50]  # and after the last step


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(name: str, tmp_path: Path) -> None:
    undisturbed = train(METHODS[2], tmp_path / "a")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    calls = iter(range(1, 100))

    def guard() -> None:
        if next(calls) == 4:
            os.kill(os.getpid(), number)

    with interrupts.handled():
        with pytest.raises(interrupts.Stopped, match=f"received {name}"):
            train(METHODS[2], tmp_path / "b", guard)
        assert interrupts.received() == number
    assert signal.getsignal(number) is before
    newest = checkpoints.newest(tmp_path / "b")
    assert newest is not None and checkpoints.step(newest) == 4
    with interrupts.handled():  # a new process
        assert_same(train(METHODS[2], tmp_path / "b"), undisturbed)


def test_outside_training_a_signal_is_heard_at_once() -> None:
    with interrupts.handled():
        with pytest.raises(interrupts.Stopped, match="received SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)  # it is on its way out: once is enough
    with interrupts.handled(), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # Ctrl-C, twice: now
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert interrupts.requested() is None and interrupts.received() is None  # of the next cell


@pytest.fixture
def signal_at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """The process is sent SIGTERM when this step is shown."""
    shown = Shown.step

    def at(wanted: int) -> None:
        def step(self: Shown, number: int, loss: float) -> None:
            shown(self, number, loss)
            if number == wanted:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Shown, "step", step)

    yield at
    monkeypatch.setattr(Shown, "step", shown)


def assert_undisturbed(run: Any, records_of: Any, folder: Path, *arguments: str) -> None:
    """Nothing but the record is left, and it is that of a run anew."""
    (record,) = records_of()
    assert [file.name for file in folder.iterdir()] == [f"{record['cell']}.json"]
    assert run("force=true", *arguments).status == 0
    (undisturbed,) = records_of()
    differences = set(records.differences(record, undisturbed))
    assert differences - MOVES == {"command", "config.force"}


def test_the_command_that_left_goes_on(
    run: Any, records_of: Any, signal_at_step: Callable[[int], None], tmp_path: Path
) -> None:
    arguments = ["method=remora", "method.restart_every=2", "method.restart_warmup=0"]
    signal_at_step(3)
    left = run(*arguments)
    assert left.status == 75 and left.out == ""
    assert "stopped: received SIGTERM; it can be resumed" in left.err
    assert "again: python -m bench" in left.err and "Traceback" not in left.err
    (folder,) = (tmp_path / "runs").iterdir()  # neither lease nor record
    assert folder.suffix == ".checkpoints"
    signal_at_step(0)
    went_on = run(*arguments)
    assert went_on.status == 0 and "goes on from step 4" in went_on.err
    assert_undisturbed(run, records_of, tmp_path / "runs", *arguments)


def test_a_clock_set_back_costs_nothing(
    run: Any, records_of: Any, signal_at_step: Callable[[int], None], tmp_path: Path
) -> None:
    """What a dead attempt left lies in the future, the older checkpoint furthest."""
    arguments = ["method=lora", "trainer.checkpoint_every=2"]
    signal_at_step(4)
    assert run(*arguments).status == 75
    (folder,) = (tmp_path / "runs").iterdir()
    who = leases._who() | {"process_start": 0, "token": "dead"}
    folder.with_suffix(".lease").write_bytes(leases._encode(who))
    older, newer = sorted(folder.iterdir(), key=checkpoints.step)
    assert newer.name == "checkpoint-5"
    for path in (*folder.rglob("*"), folder, folder.with_suffix(".lease"), older, *older.iterdir()):
        ahead = time.time() + 3600 * (2 if older in (path, path.parent) else 1)
        os.utime(path, (ahead, ahead))
    signal_at_step(0)
    ended = run(*arguments)
    assert ended.status == 0 and "goes on from step 5" in ended.err
    assert_undisturbed(run, records_of, tmp_path / "runs", *arguments)


@contextmanager
def files_up_to(folder: Path) -> Iterator[None]:
    """No file can grow beyond 3000 bytes, which any user may ask for."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """A disk with room for the lease, and little else."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        (folder / "other").write_bytes(bytes(56 * 1024))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("disk", [files_up_to, no_room], ids=lambda disk: disk.__name__)
def test_a_full_disk_is_one_message_and_no_half_record(
    run: Any, records_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, disk: Any
) -> None:
    folder, arguments = tmp_path / "runs", ["method=fft", "trainer.checkpoint_every=3"]
    with disk(folder):
        ended = run(*arguments)
        assert ended.status == 2 and "Make room" in ended.err and "Traceback" not in ended.err
        assert "checkpoint at step 3 not written" in caplog.text
        assert records_of() == [] and list(folder.glob(".*")) + list(folder.glob("*.lease")) == []
        (folder / "other").unlink(missing_ok=True)
        if disk is no_room:  # room for the record, not for a checkpoint
            assert run(*arguments).status == 0 and len(records_of()) == 1
    if disk is files_up_to:
        assert run(*arguments).status == 0 and len(records_of()) == 1


@pytest.mark.slow
def test_killed_as_a_process(run: Any, tiny: list[str], tmp_path: Path) -> None:
    """SIGKILL to a real process in its training; the same command goes on from the checkpoint."""
    cell = ["method=lora", "trainer.max_steps=60", "trainer.checkpoint_every=1"]
    command = [sys.executable, "-m", "bench", *tiny, *cell]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 100
    while not list(tmp_path.glob("runs/*.checkpoints/checkpoint-*")) and time.monotonic() < end:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    left = sorted(file.suffix for file in (tmp_path / "runs").iterdir())
    assert left == [".checkpoints", ".lease"]  # nobody had the time to tidy up
    done = run(*cell)
    assert done.status == 0 and "goes on from step" in done.err
    (file,) = (tmp_path / "runs").iterdir()
    assert records.read(file)["status"] == "ok"
