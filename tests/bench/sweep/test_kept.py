"""Cells that share a process share base, data and scorers, and nothing else: no record shows it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from bench import records
from bench.run import kept, models

ROOT = Path(__file__).resolve().parents[3]
MOVES = {"command", "environment.git_commit", "environment.git_dirty"}
Records = Callable[[], list[records.Record]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base in a folder; scores of the base are kept in no one's cache."""
    monkeypatch.setenv("MORA_BENCH_BASE_SCORES", str(tmp_path / "cache"))
    settings = OmegaConf.load(ROOT / "conf/model/tiny.yaml")
    loaded = models.load(settings, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    loaded.model.save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


METHODS = ["method=fft,lora,mora", "method.rank=4", "analysis.spectrum=true"]
SEEDS = ["method=mora", "seed=0,1", "perturb=0,0.001"]
GRIDS = {
    "methods": ("tiny", METHODS),
    "methods on a folder": ("hub", METHODS),
    "seeds": ("tiny", SEEDS),
    "seeds on a folder": ("hub", SEEDS),
    "dropout and restarts": ("tiny", ["method=lora,remora", "method.dropout=0.1,0"]),
    "facts": (
        "tiny",
        ["task=facts", "task.facts=16", "method=lora,sparse", "analysis.rank_cuts=[1]"],
    ),
    "texts": (
        "tiny",
        [
            "experiment=study/distance",
            "task=text_docs,text_python",
            "task.max_blocks=16",
            "task.held_out_texts=4",
            "method=lora",
            "trial=0",
            "seed=0",
        ],
    ),
    "data": ("tiny", ["method=lora", "task.pairs=6,8"]),
    "two of each on a folder": ("hub", ["method=fft,mora", "method.rank=4", "perturb=0,0.001"]),
}
FAST = ("two of each on a folder",)  # the others with the slow tests


@pytest.mark.parametrize(
    ("model", "grid"),
    [pytest.param(*grid, id=name, marks=() if name in FAST else pytest.mark.slow)
     for name, grid in GRIDS.items()],
)  # fmt: skip
def test_each_cell_is_as_it_is_alone(
    run: Any, records_of: Records, folder: Path, tmp_path: Path, model: str, grid: list[str]
) -> None:
    common = ["trainer.max_steps=3", "trainer.score_steps=[2]", "task.forgetting=[pydoc_topics]"]
    common += ["task.forgetting_limit=1", "analysis.before=true", f"model={model}"]
    common += [f"model.source={folder}"] if model == "hub" else []
    ended = run("-m", *common, *grid)
    assert ended.status == 0, ended.err
    together = {record["cell"]: record for record in records_of()}
    assert len(together) >= 2
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    for record in together.values():
        assert run(*shlex.split(record["command"])[3:]).status == 0
    alone = {record["cell"]: record for record in records_of()}
    assert alone.keys() == together.keys()
    for cell, record in together.items():
        assert set(records.differences(record, alone[cell])) <= MOVES


def config(**model: Any) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/model/hub.yaml"))
    return {
        "model": settings | {"label": "x"} | model,
        "seed": 0,
        "perturb": 0.0,
        "perturb_seed": 0,
    }


def base(settings: dict[str, Any]) -> models.LoadedModel:
    return kept.base(settings, torch.float32, torch.device("cpu"))


def test_a_cell_may_do_as_it_likes_with_its_base(folder: Path) -> None:
    settings = config(source=str(folder))
    with kept.between_cells():
        first = base(settings)
        exact = first.model.lm_head.weight.detach().clone()
        with torch.no_grad():
            first.model.lm_head.weight.zero_()
        first.card["checksum"] = "another"
        second = base(settings)
        assert torch.equal(second.model.lm_head.weight, exact)
        assert second.card["checksum"] != "another"


def test_a_base_that_is_replaced_is_read_again(folder: Path) -> None:
    settings = config(source=str(folder))
    with kept.between_cells():
        before = base(settings)
        other = base(settings)
        with torch.no_grad():
            other.model.lm_head.weight.add_(1)
        other.model.save_pretrained(folder)
        after = base(settings)
    assert not torch.equal(before.model.lm_head.weight, after.model.lm_head.weight)
    assert torch.equal(other.model.lm_head.weight, after.model.lm_head.weight)


def test_a_card_is_that_of_the_cells_own_tokenizer(
    run: Any, records_of: Records, folder: Path
) -> None:
    """The facts are drawn from a vocabulary."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({f"w{i}": i for i in range(380)}, unk_token="w0")),
        pad_token="w1", eos_token="w2",
    )  # fmt: skip
    tokenizer.save_pretrained(folder.with_name("words"))
    grid = ["model=hub", f"model.source={folder}", "task=facts", "task.facts=16"]
    grid += ["task.values=4", "task.attributes=4", "task.key_tokens=2", "method=lora"]
    ended = run("-m", *grid, f"model.tokenizer=null,{folder.with_name('words')}")
    assert ended.status == 0, ended.err
    first, second = (record["task"]["data"][0]["fingerprint"] for record in records_of())
    assert first != second


def test_things_are_made_once_inside_and_each_time_outside() -> None:
    made = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [kept.once("kind", 1, make) for _ in range(2)] == [0, 1]
    with kept.between_cells():
        assert [kept.once("kind", key, make) for key in (1, 1, 2, 1)] == [2, 2, 3, 2]
        assert kept.once("other", 1, make) == 4
        for key in range(10, 10 + kept.LATEST):
            kept.once("kind", key, make)
        assert kept.once("kind", 1, make) == made[-1] > 8  # not for ever
    assert kept.once("kind", 1, make) == made[-1]
