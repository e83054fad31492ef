"""Cells whose model and data come from a hub: trained, scored, and recorded with their commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hub.repositories import model, repositories
from tests.hub.server import Hub, commit_of

QUICK = (
    "method=lora", "trainer.max_steps=2", "trainer.batch_size=1", "trainer.accumulation=1",
    "task.forgetting_limit=1", "threads=1", "precision=fp32", "analysis.merge_audit=false",
)  # fmt: skip
LONG = "model.architecture.max_position_embeddings=4096"  # answers may take 2,048 tokens
# By task: what makes it short; its own benchmarks and those that the paper's tasks leave out.
TASKS = {
    "instruction": ["task.limit=1", "task.max_tokens=256"],
    "math": ["task.limit=1", LONG],
    "math_gsm8k": ["task.limit=1", LONG, "task.scores=[gsm8k_metamath]"],
    "biomedicine": ["task.limit=1", "task.max_blocks=4", "task.block=256",
                    "task.beside=[rct20k,lm_eval_pubmedqa,lm_eval_usmle]"],
    "finance": ["task.limit=1", "task.max_blocks=4", "task.block=256",
                "task.beside=[phrasebank,fiqa_scores,fin_ner]"],
    "c4": ["task.shards=2", "task.max_blocks=4", "task.block=128", "task.validation_texts=4"],
}  # fmt: skip


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


@pytest.mark.slow
def test_a_revision_is_a_cell_and_the_record_keeps_commits(command: Any, tmp_path: Path) -> None:
    """One model at two revisions, one set pinned or not: four cells, each with what it read."""
    name, set_name = "toy/llama", "openai/gsm8k"
    toy = model(tmp_path / "toy", name, seeds=(0, 1))
    gsm8k = repositories()[set_name]
    pin = commit_of(set_name, gsm8k.revisions["main"])
    with Hub(repositories() | {name: toy}) as hub:
        done = command(
            hub, tmp_path, "bench", "-m", "model=hub", f"model.source={name}",
            "model.revision=main,v1", "task=math_gsm8k", f"task.revisions=null,{{gsm8k: {pin}}}",
            "task.scores=[gsm8k_metamath]", "task.limit=1", "task.forgetting=[arc_challenge]",
            f"results_dir={tmp_path}/runs", *QUICK,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert not [r for r in hub.requests if r.endswith((".bin", "modeling_llama.py"))]
        # What is scored at the end has been asked for before the weights are.
        before = hub.requests[: hub.requests.index(hub.weights_asked_for()[0])]
        for known in (set_name, "allenai/ai2_arc"):
            assert any("bytes=" in r for r in before if f"/{known}/" in r), known
    found = records_in(tmp_path / "runs")
    assert len(found) == 4 and {r["status"] for r in found} == {"ok"}
    commits = {rev: commit_of(name, files) for rev, files in toy.revisions.items()}
    for record in found:
        assert record["model"]["revision"] == commits[record["config"]["model"]["revision"]]
        read = {card["name"]: card["revision"] for card in record["task"]["data"]}
        assert read["gsm8k/train"] == read["gsm8k/test"] == pin
        assert len(read["arc_challenge/test"]) == 40


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", TASKS)
def test_every_hub_task_trains_and_is_scored_without_local_data(
    task: str, command: Any, tmp_path: Path
) -> None:
    with Hub(repositories()) as hub:
        done = command(
            hub, tmp_path, "bench", f"task={task}", "model=tiny", *QUICK, *TASKS[task],
            f"results_dir={tmp_path}/runs",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    (record,) = records_in(tmp_path / "runs")
    assert record["status"] == "ok"
    for score in (record["config"]["task"].get("scores") or []) + (
        record["config"]["task"].get("beside") or []
    ):
        assert any(name.startswith(score) for name in record["metrics"]), score
    served = repositories()
    for card in record["task"]["data"]:
        assert card["path"] is None, card["name"]  # nothing local
        if card["hub_id"] is None:  # embedded: it comes with the packages
            assert card["name"] == "pydoc_topics"
            continue
        commits = [commit_of(card["hub_id"], f) for f in served[card["hub_id"]].revisions.values()]
        assert card["revision"] in commits, card["name"]
