"""The modules of tasks import one another in one direction, late imports included."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path


def imported(file: Path) -> set[str]:
    """The modules of tasks that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tasks":
            found |= {f"tasks.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tasks."):
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("tasks.")}
    return found


def test_no_module_imports_itself_by_way_of_others(root: Path) -> None:
    files = [file for file in (root / "tasks").rglob("*.py") if file.name != "__init__.py"]
    graph = {
        ".".join(file.relative_to(root).with_suffix("").parts): imported(file) for file in files
    }
    assert graph["tasks.base"] and graph["tasks.harness"]
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names them


def test_importing_the_package_brings_nothing_heavy(root: Path) -> None:
    code = "import sys, tasks; print({'torch', 'datasets', 'lm_eval'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
