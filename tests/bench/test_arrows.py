"""The rooms of bench/ see each other one way only, and no package sees one above it."""

import ast
from pathlib import Path

import pytest

ROOMS = {  # room -> what it may import of this project, itself apart
    "records": {"errors"},
    "judge": {"errors", "records"},
    "report": {"errors", "records", "judge"},
    "run": {"errors", "records", "methods", "tasks", "conf"},
    "sweep": {"errors", "records", "run", "methods", "tasks", "conf"},
    "selfcheck": {"errors", "records", "run", "sweep"},
}


def imported(file: Path) -> set[str]:
    """Dotted names of all modules that the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_look_one_way(root: Path, room: str) -> None:
    for file in sorted((root / "bench" / room).glob("*.py")):
        for name in imported(file):
            top, _, rest = name.partition(".")
            if top == "bench" and rest:
                seen = rest.split(".")[0]
                assert seen in {room, *ROOMS[room]}, f"{file.name} imports {name}"
            elif top in ("methods", "tasks", "conf"):
                assert top in ROOMS[room], f"{file.name} imports {name}"


@pytest.mark.parametrize("package", ["methods", "tasks"])
def test_packages_know_nothing_of_bench_or_of_each_other(root: Path, package: str) -> None:
    others = {"bench", "methods", "tasks", "conf"} - {package}
    for file in sorted((root / package).rglob("*.py")):
        tops = {name.partition(".")[0] for name in imported(file)}
        assert not tops & others, file


def test_the_judge_needs_no_torch(root: Path) -> None:
    for room in ("records", "judge", "report"):
        for file in sorted((root / "bench" / room).glob("*.py")):
            tops = {name.partition(".")[0] for name in imported(file)}
            assert not tops & {"torch", "transformers", "datasets"}, file
