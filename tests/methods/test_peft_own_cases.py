"""MoRA passes the test cases that peft has for its own tuners.

They come with peft's source distribution, which is fetched from the package index; without a
network the test is skipped.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

# A LoRA of rank 8 made of a MoRA, which has a higher rank, cannot be near it. The case of
# rank 9 (config_kwargs1) is run.
NOT_OURS = "tests/test_mora.py::TestDecoderModels::test_lora_conversion[MoraConfig-config_kwargs0"


@pytest.fixture
def peft_tests(tmp_path: Path, root: Path) -> Path:
    """The folder that holds ``tests`` of the installed peft's source, peft_cases.py among them."""
    peft = f"peft=={version('peft')}"
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*fetch, "--no-binary", "peft", "--dest", str(tmp_path), peft],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"the source of {peft} cannot be fetched: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(tmp_path.glob("peft-*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(tmp_path.glob("peft-*/"))
    if not (folder / "tests" / "testing_common.py").is_file():
        pytest.skip(f"the source of {peft} comes without its tests")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "tests" / "__init__.py").touch()
    shutil.copy(root / "tests" / "methods" / "peft_cases.py", folder / "tests" / "test_mora.py")
    return folder


@pytest.mark.slow
def test_mora_passes_pefts_own_cases(peft_tests: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "pytest.ini", "tests/test_mora.py", "-q",
         "-p", "no:cacheprovider", "-k", "MoraConfig", "--deselect", NOT_OURS],
        cwd=peft_tests, env=os.environ | {"PYTHONPATH": str(root), "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 600
    print(done.stdout.splitlines()[-1])
