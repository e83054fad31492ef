"""The analysis notebook runs from top to bottom on what is committed, and on less than that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "results" / "analysis.ipynb"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the committed results, without what runs and reports leave beside them."""
    ignored = shutil.ignore_patterns("runs", "*.svg", "*.png", "*.tex", "*.html", ".*")
    return Path(shutil.copytree(ROOT / "results", tmp_path / "results", ignore=ignored))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_it_is_committed_without_outputs() -> None:
    notebook = read(NOTEBOOK)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize(
    "kept", [("demo", "lr_fairness"), pytest.param((), id="all", marks=pytest.mark.slow)]
)
def test_it_runs_from_top_to_bottom(results: Path, kept: tuple[str, ...]) -> None:
    """In a kernel of its own, as a reader would run it; on two folders of records, or on all."""
    for records in results.rglob("records"):
        if kept and records.parent.name not in kept:
            shutil.rmtree(records)
    notebook = read(results / "analysis.ipynb")
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(results)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) >= 1
    assert any("MoRA better by" in data.get("text/plain", "") for data in shown)
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_missing_experiments_are_simply_absent(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record alone; then none, which is said."""
    (first, *others) = sorted((results / "demo" / "records").iterdir())
    for folder in results.iterdir():
        if folder.is_dir() and folder.name != "demo":
            shutil.rmtree(folder)
    for file in others:
        file.unlink()
    monkeypatch.chdir(results)
    code = "\n".join(c.source for c in read(NOTEBOOK).cells if c.cell_type == "code")
    code = code.replace("%matplotlib inline\n", "")  # for a kernel alone
    program = compile(code, str(NOTEBOOK), "exec")
    exec(program, {"__name__": "notebook"})
    assert "1 cells in demo" in capsys.readouterr().out
    first.unlink()
    with pytest.raises(AssertionError, match="no records below"):
        exec(program, {"__name__": "notebook"})
