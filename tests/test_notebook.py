"""The analysis notebook runs from top to bottom on what is committed, and on less than that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from bench import records
from tests.bench.studies import make_record

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "results" / "analysis.ipynb"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the committed results, without what runs and reports leave beside them."""
    ignored = shutil.ignore_patterns("runs", "*.svg", "*.png", "*.tex", "*.html", ".*")
    return Path(shutil.copytree(ROOT / "results", tmp_path / "results", ignore=ignored))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run() -> dict[str, Any]:
    """The code in this process, where the working folder is; what it named."""
    code = "\n".join(c.source for c in read(NOTEBOOK).cells if c.cell_type == "code")
    code = code.replace("%matplotlib inline\n", "")  # for a kernel alone
    program = {"__name__": "notebook"}
    exec(compile(code, str(NOTEBOOK), "exec"), program)
    return program


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
    for folder in results.rglob("records"):
        if kept and folder.parent.name not in kept:
            shutil.rmtree(folder)
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
    run()
    assert "1 cells in demo" in capsys.readouterr().out
    first.unlink()
    with pytest.raises(AssertionError, match="no records below"):
        run()


def test_cells_that_differ_are_never_averaged(tmp_path: Path, monkeypatch: Any) -> None:
    """Numbers of pairs, operators, precisions; and a perturbed repeat is no seed."""
    records_of_two = []
    for seed in (1, 2):
        for pairs in (32, 64):
            for operator in ("rotation", "sharing"):
                known: dict[str, Any] = {"pairs": pairs, "settings": {"operator": operator}}
                records_of_two.append(make_record(seed=seed, **known))
    again = make_record(seed=1, settings={"operator": "rotation"}, cell="f" * 16)
    again["config"]["perturb"] = 1e-6
    other = make_record(seed=3, settings={"operator": "rotation"}, cell="e" * 16)
    other["environment"] = other["environment"] | {"precision": "bf16"}
    for record in (*records_of_two, again, other):
        records.write(record, tmp_path / "results" / "mine" / "records")
    monkeypatch.chdir(tmp_path)
    by_arm = run()["by_arm"]
    assert sorted(by_arm["seeds"]) == [1, 2, 2, 2, 2]
    assert sorted({words.split(", ", 2)[2] for words in by_arm["setting"]}) == [
        "pairs 32, precision bf16", "pairs 32, precision fp32", "pairs 64, precision fp32",
    ]  # fmt: skip
