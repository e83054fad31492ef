"""What lies under results/ is what `make results` draws from the committed records."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_make_results_draws_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """Every table, figure and verdict, in under two minutes of one core."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shutil.copytree(
        root / "results", tmp_path / "results", ignore=shutil.ignore_patterns("runs", ".*")
    )
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    shutil.copy(root / "Makefile", tmp_path)
    before = contents(tmp_path / "results")
    # The environment is the one that runs the tests: nothing is installed, whatever its stamp says.
    command = ["make", "results", f"PY={sys.executable}", "STAMP=stamp", "--old-file=stamp"]
    (tmp_path / "stamp").touch()
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    after = contents(tmp_path / "results")
    assert sorted(after.keys() ^ before.keys()) == []
    assert [str(path) for path in before if after[path] != before[path]] == []
    assert ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime < 120


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
