"""Scores of a base model: one record for all that share it, none for two that do not."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench import records
from bench.run import base_scores, models
from bench.run.device import Placement, resolve
from tasks.base import Metric, Scorer
from tasks.data import Source
from tasks.harness import HarnessScorer
from tasks.likelihood import TextScorer
from tasks.own_scores import AnswerScorer
from tasks.uuid import UuidScorer, UuidTask

CPU = resolve("cpu", "fp32")
TINY = Path(__file__).resolve().parents[3] / "conf" / "model" / "tiny.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MORA_BENCH_BASE_SCORES", str(tmp_path / "kept"))
    return tmp_path / "kept"


def loaded(seed: int = 0, perturb: float = 0.0, perturb_seed: int = 0, **model: Any) -> Any:
    """What tells a tiny random model from others."""
    settings = yaml.safe_load(TINY.read_text()) | model
    return models.load(
        settings,
        dtype=torch.float32,
        device=torch.device("cpu"),
        seed=seed,
        perturb=perturb,
        perturb_seed=perturb_seed,
    ).identity


def wider(**architecture: Any) -> dict[str, Any]:
    return {"architecture": yaml.safe_load(TINY.read_text())["architecture"] | architecture}


BASES: dict[str, Callable[[], Any]] = {
    "plain": loaded,
    "another seed": lambda: loaded(seed=1),
    "perturbed": lambda: loaded(perturb=1e-3),
    "perturbed otherwise": lambda: loaded(perturb=1e-3, perturb_seed=1),
    "perturbed more": lambda: loaded(perturb=2e-3),
    "another shape": lambda: loaded(**wider(num_hidden_layers=3)),
    "another attention": lambda: loaded(attention="eager"),
    "a checksum": lambda: loaded() | {"weights": "sha256:1"},
    "another checksum": lambda: loaded() | {"weights": "sha256:2"},
    "another tokenizer": lambda: loaded() | {"tokenizer": "0"},
}
SCORERS: dict[str, Callable[[], Scorer]] = {
    "pairs": lambda: UuidTask(pairs=3).scorers()[0],
    "pairs of another seed": lambda: UuidTask(pairs=3, seed=1).scorers()[0],
    "more pairs": lambda: UuidTask(pairs=4).scorers()[0],
    "pairs after BOS": lambda: UuidTask(pairs=3, add_bos=True).scorers()[0],
    "one pair of two": lambda: UuidScorer([("ab", "c")], None),
    "the same letters": lambda: UuidScorer([("a", "bc")], None),
    "texts": lambda: TextScorer("t", ["one", "two"]),
    "texts under another name": lambda: TextScorer("u", ["one", "two"]),
    "texts in another order": lambda: TextScorer("t", ["two", "one"]),
    "a text": lambda: TextScorer("t", ["onetwo"]),
    "texts in narrow windows": lambda: TextScorer("t", ["one", "two"], window=8),
    "texts in another unit": lambda: TextScorer("t", ["one", "two"], units=("perplexity",)),
    "answers": lambda: AnswerScorer("t", [("one", "1")]),
    "other answers": lambda: AnswerScorer("t", [("one", "2")]),
}
SETTINGS: dict[str, tuple[Placement, torch.dtype, int]] = {
    "fp32": (CPU, torch.float32, 4),
    "bf16": (resolve("cpu", "bf16"), torch.bfloat16, 4),
    "bf16 over fp32 weights": (resolve("cpu", "bf16"), torch.float32, 4),
    "other batches": (CPU, torch.float32, 8),
    "another device": (Placement(torch.device("mps"), "fp32"), torch.float32, 4),
}


def test_no_two_identities_are_one() -> None:
    """All combinations of base, scorer and setting, each made twice, differ pairwise, and alone."""
    once, again = (
        {
            names: base_scores.identity(base, scorer, *SETTINGS[names[2]])
            for names in itertools.product(bases, scorers, SETTINGS)
            for base, scorer in [(bases[names[0]], scorers[names[1]])]
        }
        for bases, scorers in (
            ({k: make() for k, make in BASES.items()}, {k: make() for k, make in SCORERS.items()})
            for _ in range(2)
        )
    )
    assert once == again
    ids = {names: records.cell_id(what) for names, what in once.items()}
    assert len(set(ids.values())) == len(BASES) * len(SCORERS) * len(SETTINGS)


def test_content_is_hashed_with_its_structure() -> None:
    """Nested values drawn at random: equal hashes exactly where the values are equal."""

    class Holds(Scorer):
        name = "holds"

        def __init__(self, value: Any) -> None:
            self.value = value

        def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
            return {}

    rng = random.Random(0)

    def draw(depth: int) -> Any:
        kind = rng.randrange(7 if depth else 5)
        if kind == 5:
            return [draw(depth - 1) for _ in range(rng.randrange(3))]
        if kind == 6:
            return {rng.choice("ab"): draw(depth - 1) for _ in range(rng.randrange(3))}
        texts = ["", "a", "b", "ab", "1"]
        return (rng.choice(texts), rng.choice([0, 1]), None, 1.0, rng.choice([True, False]))[kind]

    seen: dict[str, str] = {}
    for _ in range(3000):
        value = draw(3)
        content = base_scores._content(Holds(value))
        assert content is not None
        assert seen.setdefault(content, repr(value)) == repr(value)
    assert len(seen) == len(set(seen.values())) > 200


def test_data_count_by_what_they_are_and_not_by_where_they_lie(tmp_path: Path) -> None:
    source = Source("mine", "none", ("text",), (), {"test": "test.jsonl"})
    ids = []
    for place, text in (("a", "one"), ("b", "one"), ("c", "two")):
        file = tmp_path / place / "mine" / "test.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"text": text}) + "\n")
        folder = str(tmp_path / place)
        scorer = HarnessScorer("t", name="t", data_dir=folder, sets=[(source, "test")])
        ids.append(base_scores.identity({}, scorer, CPU, torch.float32, 1))
    assert ids[0] == ids[1] != ids[2]


def test_what_cannot_be_told_is_not_shared() -> None:
    class Closure(Scorer):
        name = "closure"

        def __init__(self) -> None:
            self.rows = lambda: 1

        def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
            return {}

    assert base_scores.identity({}, Closure(), CPU, torch.float32, 1) is None
    assert base_scores.identity(None, SCORERS["texts"](), CPU, torch.float32, 1) is None


def test_a_file_under_a_foreign_name_is_not_believed(folder: Path) -> None:
    one, other = {"of": "one"}, {"of": "another"}
    base_scores.once(one, lambda: {"m": Metric.mean([0.25])})
    (file,) = folder.iterdir()  # no lock is left
    file.rename(folder / f"base-{records.cell_id(other)}.json")
    assert base_scores.once(other, lambda: {"m": Metric.mean([0.5])})["m"].value == 0.5


def test_one_process_of_several_computes(folder: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=compute, args=(tmp_path, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    computed = [f for f in tmp_path.iterdir() if f.suffix == ".computed"]
    found = {file.read_text() for file in tmp_path.glob("*.found")}
    assert len(computed) == 1 and len(found) == 1
    assert [file.suffix for file in folder.iterdir()] == [".json"]


def compute(folder: Path, number: int) -> None:
    def score() -> base_scores.Metrics:
        import time

        (folder / f"{number}.computed").touch()
        time.sleep(0.5)
        return {"m": Metric.mean([float(number)])}

    found = base_scores.once({"of": "one"}, score)
    (folder / f"{number}.found").write_text(str(found["m"].value))


def test_cells_of_a_grid_share_one_base_score(
    run: Any, records_of: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods and two rates: one record of the base, and each cell has its values."""
    scored = []
    score = UuidScorer.score

    def counted(self: Any, model: Any, tokenizer: Any, batch_size: int) -> Any:
        scored.append(len(self.pairs))
        return score(self, model, tokenizer, batch_size)

    monkeypatch.setattr(UuidScorer, "score", counted)
    grid = ["method=lora,mora", "method.learning_rate=1e-3,2e-3", "trainer.max_steps=1"]
    grid += ["analysis.before=true", "analysis.merge_audit=false", "experiment_name=a"]
    ended = run("-m", "hydra/launcher=basic", *grid)
    assert ended.status == 0, ended.err
    found = records_of()
    (file,) = folder.iterdir()
    assert len(found) == 4 and len(scored) == 1 + 4
    assert {tuple(record["base_scores"]) for record in found} == {
        (file.stem.removeprefix("base-"),)
    }
    kept = json.loads(file.read_text())["metrics"]
    for record in found:
        assert record["before"]["accuracy"]["value"] == kept["accuracy"]["value"]
