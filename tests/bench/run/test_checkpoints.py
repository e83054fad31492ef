"""Checkpoints: whole or not there, and a broken one is passed over."""

import json
import logging
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.run import checkpoints


@dataclass
class History:
    steps: int = 0


def save(parent: Path, step: int, size: int = 10) -> Path:
    with checkpoints.writing(parent, step) as folder:
        checkpoints.save_state(folder, {"w": torch.full((size,), float(step))}, History(step))
        torch.save({"step": step, "moments": torch.ones(size)}, folder / "optimizer.pt")
    return parent / f"checkpoint-{step}"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Inside, a file cannot grow beyond so many bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(parent: Path) -> list[str]:
    return sorted(file.name for file in parent.iterdir())


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "none") is None
    for step in (2, 9, 10):  # as numbers, not as text
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"]
    newest = checkpoints.newest(tmp_path)
    assert newest == tmp_path / "checkpoint-10" and checkpoints.step(newest) == 10
    assert checkpoints.load_weights(newest)["w"].tolist() == [10.0] * 10
    assert checkpoints.load_history(newest, History) == History(10)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["state.safetensors", "history.json", "optimizer.pt"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=lambda d: d.__name__)
def test_a_broken_newest_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / name)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-1"
    assert "checkpoint-2 is broken" in caplog.text and name in caplog.text


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"history.json": "0"}'])
def test_a_checkpoint_without_its_checksums_is_broken(tmp_path: Path, content: str | None) -> None:
    manifest = save(tmp_path, 1) / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    assert checkpoints.newest(tmp_path) is None


def test_an_interrupted_write_leaves_nothing_that_counts(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(tmp_path, 2) as folder:
        (folder / "history.json").write_text("{}")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["checkpoint-1"]
    (tmp_path / ".writing-killed").mkdir()  # SIGKILL leaves no time to tidy up
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-1"
    save(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("limit", [10, 3000, 50_000])
def test_a_file_that_cannot_grow_keeps_the_older_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    save(tmp_path, 1, size=100_000)
    with files_up_to(limit), caplog.at_level(logging.WARNING):
        save(tmp_path, 2, size=100_000)
    assert "checkpoint at step 2 not written" in caplog.text
    assert names(tmp_path) == ["checkpoint-1"]
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size", [50_000, 200_000], ids=["optimiser", "weights"])
def test_a_full_disk_keeps_the_older_ones(
    small_disk: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    save(small_disk, 1, size=60_000)
    with caplog.at_level(logging.WARNING):
        save(small_disk, 2, size=size * 2)
    assert "checkpoint at step 2 not written" in caplog.text
    assert names(small_disk) == ["checkpoint-1"]
    save(small_disk, 3, size=10)  # there is room again
    assert checkpoints.newest(small_disk) == small_disk / "checkpoint-3"


def test_a_mistake_of_ours_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), checkpoints.writing(tmp_path, 1):
        raise RuntimeError("size mismatch")


def test_a_history_of_another_version_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "history.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(UserError, match=r"history\.json is from another version"):
        checkpoints.load_history(folder, History)
