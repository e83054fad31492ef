"""Set-up of all tests: no network, no display, no traces in the user's caches; shared data."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_HF_HOME = tempfile.mkdtemp(prefix="mora-bench-tests-")

# Read once, when the libraries are imported, and inherited by the programs that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _HF_HOME
os.environ["MORA_BENCH_METHOD_CARDS"] = os.path.join(_HF_HOME, "methods")
os.environ["MORA_BENCH_BASE_SCORES"] = os.path.join(_HF_HOME, "base_scores")
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("WANDB_MODE", "offline")


def pytest_unconfigure() -> None:
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of local data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("MORA_BENCH_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no local data: MORA_BENCH_DATA is not set and {folder} does not exist")
    return folder
