"""The dry run of the paper's Table 1 against a hub: its table, and what it says of ten faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hub.repositories import SCRIPT, array, made, model, readme, repositories
from tests.hub.server import Fault, Hub, Repository

LLAMA = "meta-llama/Llama-2-7b-hf"
GRID = ("bench.dryrun", "experiment=table1_main", "scale=paper")
# One cell a task: the same sets and the same model.
ONE_EACH = (*GRID, "method=lora", "method.rank=8", "trial=0", "variant=0")


def served(folder: Path) -> dict[str, Repository]:
    return repositories() | {LLAMA: model(folder / "llama", LLAMA)}


def with_files(hub: Hub, name: str, **files: bytes | None) -> None:
    """Change files of a repository's main; None removes one."""
    old = hub.repositories[name]
    changed: dict[str, Any] = {**old.revisions["main"], **files}
    main = {path: data for path, data in changed.items() if data is not None}
    hub.repositories[name] = replace(old, revisions={**old.revisions, "main": main})


def fault(name: str, kind: str) -> Callable[[Hub], None]:
    return lambda hub: hub.faults.update({name: Fault(kind)})


def _script(hub: Hub) -> None:
    name = "openai/gsm8k"
    files = {"README.md": readme({}), "gsm8k.py": SCRIPT}
    hub.repositories[name] = Repository(name, revisions={"main": files})


def _config(hub: Hub) -> None:
    card = {"FiQA_SA": {"test": "fiqa_sa/test.json"}}
    with_files(hub, "AdaptLLM/finance-tasks", **{"README.md": readme(card)})


def _column(hub: Hub) -> None:
    rows = made(lambda i: {"question": f"{i}?", "response": f"The answer is: {i}"})
    with_files(hub, "meta-math/MetaMathQA", **{"MetaMathQA-395K.json": array(rows)})


def _bad_row(hub: Hub) -> None:
    """All columns are there, and no benchmark can be made of what they hold."""
    from tests.hub.repositories import parquet
    from tests.tasks.rows import ROWS

    rows = made(lambda i: ROWS["arc_challenge"](i) | {"answerKey": "E"})
    with_files(hub, "allenai/ai2_arc", **{
        "ARC-Challenge/test-00000-of-00001.parquet": parquet(rows)})  # fmt: skip


# What is planted, and the words that must be said of it.
FAULTS: dict[str, tuple[Callable[[Hub], None], tuple[str, ...]]] = {
    "gated set": (fault("allenai/tulu-v2-sft-mixture", "gated"), ("'tulu_v2'", "is gated")),
    "gated model": (fault(LLAMA, "forbidden"), (LLAMA, "is gated: accept its licence")),
    "missing set": (fault("cais/mmlu", "missing"), ("'mmlu'", "is not on the hub")),
    "loading script": (_script, ("'gsm8k'", "is a loading script")),
    "wrong config": (_config, ("'adaptllm_fpb'", "has no config FPB; it has FiQA_SA")),
    "wrong column": (_column, ("'metamathqa'", "lacks the column query")),
    "unfit rows": (_bad_row, ("arc_challenge fails on the first rows",)),
    "no decompressor": (lambda hub: None, ("'pubmed_abstracts'", "pip install zstandard")),
    "busy hub": (fault("Salesforce/wikitext", "busy"), ("'wikitext2'", "too busy")),
    "a proxy's page": (fault("Rowan/hellaswag", "page"), ("'hellaswag'", "is no hub")),
    "no network": (lambda hub: hub.__exit__(), ("can't reach meta-llama", "Connect to the net")),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_table_names_each_set_and_the_second_time_asks_less(
    command: Any, tmp_path: Path
) -> None:
    with Hub(served(tmp_path)) as hub:
        first = command(hub, tmp_path, *GRID)
        asked = len(hub.requests)
        second = command(hub, tmp_path, *ONE_EACH)
    if shown := os.environ.get("MORA_BENCH_SHOW"):
        Path(shown, "table.txt").write_text(first.stdout)
    assert first.returncode == 0, first.stderr[-3000:]
    tables = [
        said.stdout.partition("\nset ")[2].partition("Time is")[0] for said in (first, second)
    ]
    assert tables[0] == tables[1] != ""
    # The sets are known by their commits; the benchmarks read their first rows again.
    assert len(hub.requests) - asked < 0.6 * asked
    assert not hub.weights_asked_for()
    assert "No data set and no model is missing." in first.stdout
    lines = [line.split() for line in first.stdout.splitlines()]
    wanted = ("tulu_v2", "mmlu", "metamathqa", "gsm8k", "pubmed_abstracts", "headline",
              "convfinqa", "wikitext2", "hellaswag")  # fmt: skip
    for name in wanted:
        (line, *_) = [line for line in lines if line[:1] == [name]]
        assert line[-1] == "ok"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_and_no_model_is_loaded(
    name: str, command: Any, tmp_path: Path, without_zstandard: str
) -> None:
    plant, words = FAULTS[name]
    more = {"PYTHONPATH": without_zstandard} if name == "no decompressor" else {}
    with Hub(served(tmp_path)) as hub:
        plant(hub)
        begin = time.monotonic()
        done = command(hub, tmp_path, *ONE_EACH, **more)
        seconds = time.monotonic() - begin
        weights = hub.weights_asked_for()
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout.partition("Missing here:")[2].splitlines()
    found = [line for line in told if all(word in line for word in words)]
    assert found, done.stdout
    if shown := os.environ.get("MORA_BENCH_SHOW"):
        with Path(shown, "faults.txt").open("a") as file:
            file.write(f"{name} | {seconds:.0f} s | {len(weights)} weights | {found[0].strip()}\n")
    assert not weights
