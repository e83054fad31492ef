"""Running cells of the tiny model as a user does: through Hydra, from the configuration on."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra

from bench import records

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "slurm"

TINY = (
    "model=tiny", "tracker=none", "task.pairs=8", "trainer.batch_size=4", "trainer.max_steps=6",
    "threads=1", "device=cpu", "precision=fp32",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments for cells of the tiny model whose records go to tmp_path / "runs"."""
    return [*TINY, f"results_dir={tmp_path / 'runs'}"]


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny: list[str],
) -> Run:
    """Runs ``python -m bench`` with `tiny` and these arguments in this process; -m makes a grid."""
    import transformers.integrations.integration_utils  # noqa: F401  (prints WANDB_MODE on import)

    from bench.__main__ import main

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Hydra composes a configuration twice, the first time to look for a hydra.mode, which no test
    # sets; programs that tests start look for it all the same.
    monkeypatch.setattr(Hydra, "get_mode", lambda self, **_: None)
    torch.set_num_threads(1)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["bench"])
        first = [a for a in arguments if a == "-m"]
        rest = [a for a in arguments if a != "-m"]
        capfd.readouterr()
        other = any(a.startswith("task=") for a in rest)  # tiny's own task and its settings go
        own = [a for a in tiny if not (other and a.startswith("task"))]
        status = main([*first, *own, *rest])
        captured = capfd.readouterr()
        return Ended(status, captured.out, captured.err)

    return run


@pytest.fixture
def records_of(tmp_path: Path) -> Callable[[], list[records.Record]]:
    """All records in tmp_path / "runs"."""

    def read() -> list[records.Record]:
        folder = tmp_path / "runs"
        return [records.read(file) for file in records.find(folder)] if folder.exists() else []

    return read


@pytest.fixture(scope="module")
def slurm_lab() -> Iterator[Path]:
    """slurmctld, slurmd and munged, up for a module; a folder that jobs may write to."""
    if (
        shutil.which("sbatch") is None
        or shutil.which("slurmctld", path="/usr/sbin:/usr/bin") is None
    ):
        pytest.skip("SLURM is not installed (slurm-wlm slurmctld slurmd munge)")
    if os.getuid():
        pytest.skip("SLURM's daemons need root here")
    # Neither in pytest's folder, which is closed to others, nor with a long path: munge.
    lab = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    lab.chmod(0o755)
    environment = {"LAB": str(lab), "PORT": str(20000 + os.getpid() % 10000)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(lab / "etc" / "slurm.conf"))
        try:
            subprocess.run([SCRIPTS / "up.sh"], env=os.environ | environment, check=True)
            yield lab
        finally:
            subprocess.run([SCRIPTS / "down.sh"], env=os.environ | environment, check=True)
            shutil.rmtree(lab)
