"""How long a report of ten thousand records takes, page included."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.judge import cells
from tests.bench.studies import make_many

CPU_SECONDS = 60  # of all processes together; 18 to 29 on two cores


@pytest.mark.slow
def test_ten_thousand_records(tmp_path: Path) -> None:
    folder = make_many(tmp_path / "records", 42)
    assert len(os.listdir(folder)) == 10_080
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "bench.report", str(folder), "--claims", "--html", str(page)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{took:.1f} core-seconds")
    assert page.stat().st_size < 6_000_000
    assert took < CPU_SECONDS


def test_several_processes_read_what_one_reads(study: Path, monkeypatch) -> None:
    (study / ("0" * 16 + ".json")).write_text("{}")
    alone = report.collect(study)
    monkeypatch.setattr(cells, "MANY", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    together = report.collect(study)
    assert together.refused == alone.refused != []
    assert [cell.file for cell in together.cells] == [cell.file for cell in alone.cells]
    assert [c.metrics for c in together.cells] == [c.metrics for c in alone.cells]
    for a, b in zip(alone.cells, together.cells, strict=True):
        assert (a.train["loss"] == b.train["loss"]).all() and a.row_key == b.row_key
