"""One cell of the grid, from its configuration to its record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from bench import records
from bench.errors import UserError
from bench.records.redact import redact
from bench.run import (
    analysis,
    distributed,
    interrupts,
    kept,
    memory,
    provenance,
    saving,
    scoring,
    sharding,
    tracking,
    training,
)
from bench.run.plan import tidy
from bench.run.prepare import Cell
from bench.run.progress import Progress
from methods import Method
from methods.base import Start


def run_cell(cell: Cell, guard: Callable[[], None], progress: Progress) -> records.Record:
    """Load, attach, train, score, look, record. The record is written once, at the end.

    guard: called at each step and before the record is written; raises where the cell is no longer
    this process's to run. Raises Stopped, a checkpoint later, where the cell is asked to leave.
    """
    with _threads(cell.plan.config["threads"]), cell.placement.products():
        return _run(cell, guard, progress)


def _run(cell: Cell, guard: Callable[[], None], progress: Progress) -> records.Record:
    plan, config, method, task = cell.plan, cell.plan.config, cell.method, cell.task
    started, begin = _now(), time.perf_counter()
    memory.collect_garbage()
    dtype = torch.float32 if method.fp32_base else cell.placement.dtype
    size = config["trainer"]["score_batch_size"]
    sharded = config["distributed"]["strategy"] == "fsdp2"
    start: Start = "as loaded" if sharded else "copy"
    method.keep_start(start if _looks_at_deltas(config) else "no")
    if sharded:
        loaded = sharding.load(config, method, cell.placement, dtype)
    else:
        loaded = kept.base(config, dtype, cell.placement.device)
    model, tokenizer = loaded.model, loaded.tokenizer
    set_seed(config["seed"])
    key = kept.data_key(config)
    dataset = kept.once("data", key, lambda: task.train_dataset(tokenizer))
    scorers = kept.once("scorers", key, lambda: (task.scorers(), task.forgetting_scorers()))
    score = scoring.Scoring(*scorers, tokenizer, cell.placement, size)
    setup_seconds = time.perf_counter() - begin
    with tracking.start(config["tracker"], _about(cell, loaded.card)) as tracker:
        begin = time.perf_counter()
        before = score.before(model, loaded.identity, learned=config["analysis"]["before"])
        before_seconds = time.perf_counter() - begin

        set_seed(config["seed"])  # again: whatever was kept drew nothing this time
        if not sharded:
            method.attach(model)
        history = training.train(
            model,
            tokenizer,
            method,
            dataset,
            config["trainer"],
            cell.placement,
            seed=config["seed"],
            spread=config["distributed"],
            score=lambda: score.along(model),
            checkpoint_folder=plan.checkpoints,
            guard=guard,
            log=tracker.log,
            progress=progress,
        )
        memory.collect_garbage()
        lost: str | None = None  # what was not finite, and when
        if history.diverged_at is not None:
            lost = f"the loss was not finite at step {history.diverged_at}"
        begin = time.perf_counter()
        unchanged = history.scored_at(config["trainer"]["max_steps"])
        final = {} if lost else score.final(model, unchanged=unchanged)
        scoring_seconds = before_seconds + history.scoring_seconds + time.perf_counter() - begin
        lost = lost or _lost_at_the_end({name: metric.value for name, metric in final.items()})

        record = blank(cell) | {
            "status": "ok",
            "reason": None,
            "model": loaded.card,
            "parameters": count(method, model),
            "curves": {"train": history.train, "scores": history.scores},
            "cost": {
                "setup_seconds": setup_seconds,
                "training_seconds": history.training_seconds,
                "scoring_seconds": scoring_seconds,
                "tokens": history.tokens,
                "tokens_per_second": history.tokens / max(history.training_seconds, 1e-9),
                "peak_memory_bytes": history.peak_memory_bytes,
                "kept_bytes": history.kept_bytes,
            },
            "started": started,
            **score.fields(before, final),
        }
        record["task"]["data"] = kept.once("card", key, task.data_card)
        found = {} if lost else _look(cell, model, tokenizer, dataset, score)
        lost = lost or _lost_at_the_end(found)
        if lost:
            record |= {"status": "diverged", "reason": lost, **score.fields(before, {})}
        else:
            record |= found
        record["finished"] = _now()
        if distributed.first():
            with interrupts.deferred():
                guard()
                file = records.write(record, plan.folder)
                tidy(plan)
            tracker.finish(record, file)
        distributed.wait_for_first()
    return record


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Inside, torch has so many CPU threads, None: as many as it had. The next cell has its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _look(
    cell: Cell, model: nn.Module, tokenizer: Any, dataset: Any, score: scoring.Scoring
) -> dict[str, Any]:
    """What else is wanted of the trained model; what merges it comes last."""
    config, method = cell.plan.config, cell.method
    found: dict[str, Any] = {}
    if config["save_adapter"] and distributed.first():
        method.save(model, cell.plan.folder / cell.plan.cell)
    cuts = config["analysis"]["rank_cuts"]
    deltas = method.delta_weights(model) if _looks_at_deltas(config) else {}
    if config["analysis"]["spectrum"]:
        found["spectrum"] = analysis.spectrum(deltas)
    if cuts:
        found["rank_cuts"] = analysis.rank_cuts(model, deltas, cuts, lambda: score.along(model))
    if config["analysis"]["merge_audit"] and not method.trains_base:
        found["merge_audit"] = analysis.merge_audit(method, model, dataset)
    if config["save_model"] and distributed.first():
        folder = cell.plan.folder / cell.plan.cell / "model"
        found["saved_model"] = saving.save(
            method.merge(model), tokenizer, folder, config["save_dtype"]
        )
    return found


def _lost_at_the_end(found: Mapping[str, Any]) -> str | None:
    """Names the first number that is not finite; None: all are.

    The last update is in no loss: what it has lost shows in what is found of the trained model.
    """
    for name, value in found.items():
        if isinstance(value, Mapping) and (below := _lost_at_the_end(value)):
            return f"{name}.{below}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} was not finite after the last step"
    return None


def _looks_at_deltas(config: Mapping[str, Any]) -> bool:
    return bool(config["analysis"]["rank_cuts"] or config["analysis"]["spectrum"])


def failed(cell: Cell, error: BaseException) -> records.Record:
    """The record of a cell that broke down: what it was, and why it ended.

    Where a forced rerun broke down, the earlier record stays, and this one is not written.
    """
    reason, earlier = f"{type(error).__name__}: {error}", False
    with suppress(UserError):  # whatever lies there is no record
        earlier = records.complete(cell.plan.file)
    if earlier:
        reason += f" (the earlier record stays: {cell.plan.file})"
    record = blank(cell) | {
        "status": "failed",
        "reason": reason,
        "started": _now(),
        "finished": _now(),
    }
    if not earlier:
        records.write(record, cell.plan.folder)
    return record


def blank(cell: Cell) -> records.Record:
    """A record with what is known before the run."""
    method, task = cell.method, cell.task
    config = cell.plan.config
    return records.blank(
        cell=cell.plan.cell,
        experiment=config["experiment_name"],
        scale=config["scale_name"],
        command=cell.plan.command,
        config=config,
        method={
            "name": method.name,
            "label": method.label,
            "rank": method.settings().get("rank"),
            "learning_rate": method.learning_rate,
            "settings": method.settings(),
        },
        model={k: config["model"].get(k) for k in ("name", "label", "source", "revision")},
        task={
            "name": task.name,
            "label": task.label,
            "settings": {k: v for k, v in config["task"].items() if k != "data_dir"},
            "data": [],
        },
        seed=config["seed"],
        environment=provenance.environment(cell.placement),
    )


def count(method: Method, model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters of the attached model, and the bytes that saving it takes."""
    state = method.state(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adapters = trainable if not method.trains_base else 0
    return {
        "trainable": trainable,
        "total": sum(p.numel() for p in model.parameters()) - adapters,
        "adapter_bytes": sum(t.numel() * t.element_size() for t in state.values()),
    }


def _about(cell: Cell, card: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent to a tracker about a cell."""
    return {
        "cell": cell.plan.cell,
        "label": cell.plan.title,
        "experiment": cell.plan.config["experiment_name"],
        "method": cell.method.name,
        "model": card["name"],
        "task": cell.task.name,
        "config": redact(cell.plan.config),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
