"""A hub on loopback, and processes that take it for the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.hub.repositories import repositories
from tests.hub.server import Hub

Probe = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """All repositories of the tasks."""
    with Hub(repositories()) as served:
        yield served


@pytest.fixture(scope="session")
def probe(root: Path) -> Probe:
    """probe(hub, folder, jobs) -> what tests/hub/probe.py says of each."""

    def run(
        hub: Hub, folder: Path, jobs: Sequence[dict[str, Any]], **more: str
    ) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.hub.probe"],
            input=json.dumps(list(jobs)),
            env=hub.environment(folder, **more),
            cwd=root,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return said

    return run


@pytest.fixture
def without_zstandard(tmp_path: Path) -> str:
    """A PYTHONPATH on which importing zstandard fails, as where it is not installed."""
    folder = tmp_path / "hides"
    folder.mkdir()
    # So that looking for it finds nothing as well, as torch.distributed does.
    words = 'import sys\nsys.modules["zstandard"] = None\n'
    (folder / "sitecustomize.py").write_text(words)
    return str(folder)


@pytest.fixture(scope="session")
def command(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """command(hub, folder, *arguments) -> python -m ARGUMENTS with that hub."""

    def run(
        hub: Hub, folder: Path, *arguments: str, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            env=hub.environment(folder, **more),
            cwd=root,
            capture_output=True,
            text=True,
            timeout=580,
        )

    return run
