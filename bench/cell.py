"""One cell of the grid, from its configuration to its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import set_seed

from bench import (
    analysis,
    checkpoints,
    device,
    models,
    provenance,
    records,
    scoring,
    tracking,
    training,
)
from bench.build import build
from bench.errors import UserError
from methods import Method
from tasks import Task

# Keys of the configuration that say where, how fast or how talkative, but not what comes out.
INCIDENTAL = (
    "results_dir", "data_dir", "force", "device", "threads", "experiment_name", "scale_name",
    "protocol", "tracker", "save_adapter", "analysis",
)  # fmt: skip
INCIDENTAL_TRAINER = ("score_batch_size", "checkpoint_every", "torch_compile", "log_every")


@dataclass(frozen=True)
class Plan:
    """A cell that has passed every check that needs no weights."""

    cell: str
    config: dict[str, Any]
    method: Method
    task: Task
    placement: device.Placement
    folder: Path
    command: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.cell}.json"

    @property
    def title(self) -> str:
        rank = self.method.settings().get("rank")
        rank = "" if rank is None else f" r={rank}"
        return (
            f"{self.method.label}{rank} lr={self.method.learning_rate:g} seed={self.config['seed']}"
        )


def plan(cfg: DictConfig, command: str = "") -> Plan:
    """Check everything that can be wrong before a model is loaded.

    Raises UserError, MethodError or TaskError; nothing has been written by then.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    training.check(config["trainer"])
    method, task = build(cfg.method), build(cfg.task)
    placement = device.resolve(config["device"], config["precision"])
    folder = records.prepare_folder(config["results_dir"])
    task.prepare()
    models.check(cfg.model)
    skeleton = models.skeleton(cfg.model)
    method.attach(skeleton)
    return Plan(identity(config, method), config, method, task, placement, folder, command)


def identity(config: Mapping[str, Any], method: Method) -> str:
    """The cell's id: a hash of what determines its result."""
    what = {k: v for k, v in config.items() if k not in INCIDENTAL}
    what["trainer"] = {k: v for k, v in what["trainer"].items() if k not in INCIDENTAL_TRAINER}
    what["task"] = {k: v for k, v in what["task"].items() if k != "data_dir"}
    # What a method ignores (FFT: the rank) does not make another cell.
    what["method"] = {"_target_": config["method"]["_target_"]} | method.settings()
    return records.cell_id(what)


def run_cell(plan: Plan) -> records.Record:
    """Load, attach, train, score, look, record. The record is written once, at the end."""
    config, started, begin = plan.config, _now(), time.perf_counter()
    provenance.start_memory_watch(plan.placement)
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    loaded = models.load(
        config["model"],
        dtype=torch.float32 if plan.method.trains_base else plan.placement.dtype,
        device=plan.placement.device,
        seed=config["seed"],
    )
    model, tokenizer = loaded.model, loaded.tokenizer
    set_seed(config["seed"])
    tracker = tracking.start(
        config["tracker"],
        {
            "cell": plan.cell,
            "label": plan.title,
            "experiment": config["experiment_name"],
            "method": plan.method.name,
            "model": loaded.card["name"],
            "task": plan.task.name,
            "config": config,
        },
    )
    dataset = plan.task.train_dataset(tokenizer)
    score = scoring.Scoring(
        plan.task, tokenizer, plan.placement, config["trainer"]["score_batch_size"]
    )
    setup_seconds, scoring_begin = time.perf_counter() - begin, time.perf_counter()
    before = score.before(model, loaded.card, learned=config["analysis"]["before"])
    before_seconds = time.perf_counter() - scoring_begin

    plan.method.attach(model)
    checkpoint_folder = plan.folder / "checkpoints" / plan.cell
    history = training.train(
        model,
        tokenizer,
        plan.method,
        dataset,
        config["trainer"],
        plan.placement,
        seed=config["seed"],
        score=lambda: score.along(model),
        checkpoint_folder=checkpoint_folder if config["trainer"]["checkpoint_every"] else None,
        log=tracker.log,
        title=plan.title,
    )
    scoring_begin = time.perf_counter()
    diverged = history.diverged_at is not None
    final = {} if diverged else score.final(model)
    scoring_seconds = time.perf_counter() - scoring_begin + before_seconds + history.scoring_seconds

    record = records.blank(
        cell=plan.cell,
        status="diverged" if diverged else "ok",
        reason=f"the loss was not finite at step {history.diverged_at}" if diverged else None,
        experiment=config["experiment_name"],
        scale=config["scale_name"],
        command=plan.command,
        config=config,
        method={
            "name": plan.method.name,
            "label": plan.method.label,
            "rank": plan.method.settings().get("rank"),
            "learning_rate": plan.method.learning_rate,
            "settings": plan.method.settings(),
        },
        model=loaded.card,
        task={
            "name": plan.task.name,
            "label": plan.task.label,
            "settings": {k: v for k, v in config["task"].items() if k != "data_dir"},
            "data": plan.task.data_card(),
        },
        seed=config["seed"],
        parameters=count(plan.method, model),
        curves={"train": history.train, "scores": history.scores},
        cost={
            "setup_seconds": setup_seconds,
            "training_seconds": history.training_seconds,
            "scoring_seconds": scoring_seconds,
            "tokens": history.tokens,
            "tokens_per_second": history.tokens / max(history.training_seconds, 1e-9),
            "peak_memory_bytes": provenance.peak_memory_bytes(plan.placement),
        },
        environment=provenance.environment(plan.placement),
        started=started,
        **score.fields(before, final),
    )
    if not diverged:
        if config["save_adapter"]:
            plan.method.save(model, plan.folder / plan.cell)
        if config["analysis"]["spectrum"]:
            record["spectrum"] = analysis.spectrum(plan.method.delta_weights(model))
        if config["analysis"]["merge_audit"] and not plan.method.trains_base:
            record["merge_audit"] = analysis.merge_audit(plan.method, model, dataset)
    record["finished"] = _now()
    file = records.write(record, plan.folder)
    checkpoints.discard(checkpoint_folder)
    tracker.finish(record, file)
    return record


def failed(plan: Plan, error: BaseException) -> records.Record:
    """The record of a cell that broke down: what it was, and why it ended."""
    config = plan.config
    record = records.blank(
        cell=plan.cell,
        status="failed",
        reason=f"{type(error).__name__}: {error}",
        experiment=config["experiment_name"],
        scale=config["scale_name"],
        command=plan.command,
        config=config,
        method={
            "name": plan.method.name,
            "label": plan.method.label,
            "rank": plan.method.settings().get("rank"),
            "learning_rate": plan.method.learning_rate,
            "settings": plan.method.settings(),
        },
        model={k: config["model"].get(k) for k in ("name", "label", "source", "revision")},
        task={"name": plan.task.name, "label": plan.task.label, "settings": {}, "data": []},
        seed=config["seed"],
        environment=provenance.environment(plan.placement),
        started=_now(),
        finished=_now(),
    )
    records.write(record, plan.folder)
    return record


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


def done(plan: Plan) -> records.Record | None:
    """The complete record of this cell, unless force=true or there is none.

    Raises UserError for a torn or foreign file in its place.
    """
    if plan.config["force"] or not plan.file.exists():
        return None
    record = records.read(plan.file)
    if record["cell"] != plan.cell:
        raise UserError(f"{plan.file} holds the record of another cell ({record['cell']}).")
    return record if record["status"] in ("ok", "diverged") else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
