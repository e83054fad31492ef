"""Data sets over the network, as far as loopback: what a look sees, and what it says in trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks.sets import SETS
from tests.hub.conftest import Probe
from tests.hub.repositories import SCRIPT, lines, parquet, readme, repositories
from tests.hub.server import Fault, Hub, Repository, commit_of

pytestmark = pytest.mark.slow  # each process serves and reads all sets: half a minute

ROWS = [{"question": f"q{i}", "answer": f"{i}" * 40} for i in range(60)]
GOOD = {"README.md": readme({}, "mit"), "train.parquet": parquet(ROWS)}
ZST = {"README.md": readme({}), "train.jsonl.zst": zstandard.compress(lines(ROWS))}
# More than a chunk of huggingface_hub's, of 10 MiB, in its first half: what is kept of a chunk that
# breaks off is nothing.
LONG = [{"question": f"{i}", "answer": "x" * 2**20} for i in range(24)]
BIG = {"README.md": readme({}), "train.jsonl": lines(LONG)}


def source(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "licence": "none", "columns": ["question", "answer"], "texts": [],
        "files": {"train": "train.jsonl"}, "hub_id": f"toy/{name}", **more,
    }  # fmt: skip


# name -> repository (None: none), fault, job, words that must be said; the second is the remedy.
PLAIN: dict[str, tuple[Any, Fault | None, dict[str, Any], tuple[str, ...]]] = {
    "gated": (GOOD, Fault("gated"), {}, ("is gated", "HF_TOKEN")),
    "forbidden": (GOOD, Fault("forbidden"), {}, ("is gated", "accept its terms")),
    "missing": (None, None, {}, ("is not on the hub", "look at its id")),
    "script": ({"README.md": readme({}), "script.py": SCRIPT}, None, {},
               ("is a loading script", "task.revisions")),
    "config": (GOOD, None, {"config": "main"}, ("has no config main", "it has default")),
    "split": (GOOD, None, {"splits": {"train": "dev"}}, ("has no split dev", "it has train")),
    "column": (GOOD, None, {"columns": ["question", "reply"]},
               ("lacks the column reply", "it has question, answer")),
    "revision": (GOOD, None, {"revision": "v9"}, ("has no revision 'v9'", "a commit")),
    "page": (GOOD, Fault("page"), {}, ("is no hub", "HTTPS_PROXY")),
    "busy": (GOOD, Fault("busy"), {}, ("too busy (status", "later")),
    "half": (BIG, Fault("cut"), {"job": {"do": "fetch"}}, ("broke off", "run the same command")),
    "full": (BIG, None, {"job": {"do": "fetch", "disk": 100_000}},
             ("the disk is full", "HF_HOME")),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, probe: Probe) -> dict[str, dict[str, Any]]:
    """What one process says of a good set, and of each that is not."""
    folder = tmp_path_factory.mktemp("hub")
    served = {
        f"toy/{name}": Repository(f"toy/{name}", revisions={"main": files}, licence="mit")
        for name, (files, *_) in PLAIN.items()
        if files is not None
    }
    served["toy/good"] = Repository(
        "toy/good", revisions={"main": GOOD, "old": GOOD | {"train.parquet": parquet(ROWS[:5])}},
        licence="mit",
    )  # fmt: skip
    served["toy/again"] = Repository("toy/again", revisions={"main": GOOD})
    served["toy/resumed"] = Repository("toy/resumed", revisions={"main": BIG})
    jobs = {"good": {"do": "lacks", "source": source("good")},
            "whole": {"do": "fetch", "source": source("good")},
            "old": {"do": "fetch", "source": source("good", revision="old")},
            "head": {"do": "head", "source": source("good")},
            "again": {"do": "fetch", "source": source("again")},
            "resumed": {"do": "fetch", "source": source("resumed")}}  # fmt: skip
    for name, (_, _, more, _) in PLAIN.items():
        more = dict(more)
        job = {"do": "lacks", **more.pop("job", {})}
        jobs[name] = {**job, "source": source(name, **more)}
    with Hub(served) as hub:
        hub.faults = {f"toy/{name}": fault for name, (_, fault, *_) in PLAIN.items() if fault}
        hub.faults["toy/again"] = Fault("busy", times=2)
        hub.faults["toy/resumed"] = Fault("cut", times=1)
        found = dict(zip(jobs, probe(hub, folder, list(jobs.values())), strict=True))
        found["requests"] = {"all": list(hub.requests)}
    return found


def test_a_sound_set_is_seen_at_its_commit(said: dict[str, dict[str, Any]]) -> None:
    good = said["good"]
    assert good["error"] is None
    assert good["revision"] == said["whole"]["commit"] == commit_of("toy/good", GOOD)
    assert (good["columns"], good["licence"]) == (["question", "answer"], "mit")
    assert said["whole"]["rows"] == len(ROWS) and said["head"]["rows"] == 3
    assert said["head"]["first"] == said["whole"]["first"] == ROWS[0]


def test_a_pinned_revision_is_the_one_that_is_read(said: dict[str, dict[str, Any]]) -> None:
    assert said["old"]["rows"] == 5
    assert said["old"]["commit"] not in (None, said["whole"]["commit"])


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_wrong_is_one_sentence_with_a_remedy(
    said: dict[str, dict[str, Any]], name: str
) -> None:
    message = said[name]["error"]
    assert message is not None and "\n" not in message
    for words in (f"'{name}'", f"toy/{name}", *PLAIN[name][-1]):
        assert words in message
    assert said[name]["seconds"] < 40


def test_a_busy_hub_is_asked_again(said: dict[str, dict[str, Any]]) -> None:
    assert said["again"]["rows"] == len(ROWS)


def test_a_broken_download_goes_on_where_it_broke_off(said: dict[str, dict[str, Any]]) -> None:
    assert said["resumed"]["rows"] == len(LONG)
    asked = [r for r in said["requests"]["all"] if r.startswith("GET /datasets/toy/resumed/")]
    assert any(r.endswith(f"train.jsonl bytes={10 * 2**20}-") for r in asked), asked


def test_no_network_is_told_within_seconds(probe: Probe, tmp_path: Path) -> None:
    with Hub({}) as hub:
        pass  # gone: nobody answers at its address any more
    (away,) = probe(hub, tmp_path, [{"do": "lacks", "source": source("any")}])
    assert (
        "MORA_BENCH_DATA" in away["error"] and "run where the hub can be reached" in away["error"]
    )
    assert away["seconds"] < 20


def test_without_zstandard_the_package_is_named(
    probe: Probe, tmp_path: Path, without_zstandard: str
) -> None:
    with Hub({"toy/zst": Repository("toy/zst", revisions={"main": ZST})}) as hub:
        jobs = [{"do": "lacks", "source": source("zst")}]
        (sound,) = probe(hub, tmp_path / "with", jobs)
        (said,) = probe(hub, tmp_path / "without", jobs, PYTHONPATH=without_zstandard)
    assert sound["error"] is None
    assert "is compressed" in said["error"] and "pip install zstandard" in said["error"]


KNOWN = [s for s in SETS.values() if s.hub_id is not None]
A_FEW = ("pubmed_abstracts", "financial_phrasebank", "convfinqa", "open_orca", "arc_challenge")


def test_every_hub_set_has_its_repository() -> None:
    assert {source.hub_id for source in KNOWN} == set(repositories())


@pytest.mark.parametrize(
    "names", [A_FEW, pytest.param([s.name for s in KNOWN], marks=pytest.mark.slow)]
)
def test_sets_are_sound_in_the_public_layouts(
    hub: Hub, probe: Probe, tmp_path: Path, names: Sequence[str]
) -> None:
    """Ids, configs, splits and columns fit the layouts, as far as these were written down well."""
    jobs = [
        {"do": "lacks", "source": asdict(s), "split": split}
        for s in KNOWN
        if s.name in names
        for split in s.files
    ]
    assert [said["error"] for said in probe(hub, tmp_path, jobs)] == [None] * len(jobs)
