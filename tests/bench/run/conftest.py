"""Folders that models are loaded from."""

from pathlib import Path

import pytest

from tests.bench.run.small_models import conf, load


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of our own, and no wheel from the environment."""
    monkeypatch.setenv("MORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MORA_BENCH_WHEEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model in a local folder, as save_pretrained leaves it."""
    tiny = load(conf("tiny"))
    tiny.model.save_pretrained(tmp_path / "saved")
    tiny.tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
