"""Free memory: what is left of a job's or a container's limit, not only of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64 GiB available and no cgroups."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {64 * 2**20} kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN", tmp_path / "own")
    monkeypatch.setattr(memory, "ROOT", tmp_path / "cgroup")
    return tmp_path


def group(folder: Path, version: int, most: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit, use, name = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit).write_text(most + "\n")
    (folder / use).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{name} {cached}\nother 7\n")


def test_without_a_limit_it_is_what_the_machine_has(host: Path) -> None:
    assert memory.free(CPU) == 64 * GIB
    (host / "own").write_text("0::/job\n")
    group(host / "cgroup" / "job", 2, "max", 3 * GIB, 0)
    assert memory.free(CPU) == 64 * GIB


def test_a_job_of_version_two_has_its_own_and_those_above(host: Path) -> None:
    """Files that are cached are given back when memory is wanted."""
    (host / "own").write_text("0::/slurm/job_7/step_0\n")
    group(host / "cgroup" / "slurm" / "job_7", 2, str(8 * GIB), 5 * GIB, 2 * GIB)
    group(host / "cgroup" / "slurm" / "job_7" / "step_0", 2, "max", 5 * GIB, 2 * GIB)
    assert memory.free(CPU) == 5 * GIB and memory.limit() == 8 * GIB
    group(host / "cgroup" / "slurm", 2, str(4 * GIB), 6 * GIB, 0)
    assert memory.free(CPU) == 0 and memory.limit() == 4 * GIB


def test_a_job_of_version_one(host: Path) -> None:
    (host / "own").write_text("5:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/\n0::/\n")
    group(host / "cgroup" / "memory" / "a", 1, str(2 * GIB), GIB, 0)
    group(host / "cgroup" / "memory", 1, str(2**63 - 4096), GIB, 0)
    assert memory.free(CPU) == GIB and memory.limit() == 2 * GIB


def test_a_container_may_be_told_the_path_that_the_host_gives_it(host: Path) -> None:
    (host / "own").write_text("0::/docker/abc\n")
    group(host / "cgroup", 2, str(3 * GIB), GIB, 0)
    assert memory.free(CPU) == 2 * GIB


def test_memory_that_cannot_be_told_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.free(torch.device("meta")) == 0
    assert memory.free(CPU) > 2**20
    monkeypatch.setattr(memory, "MEMINFO", Path("/nowhere"))
    assert memory.free(CPU) == 0
