"""Training one cell on transformers' Trainer, so that what accelerate can distribute stays open.

The Trainer itself is in trainer.py, what happens around its steps in watch.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from bench.run import checkpoints, checks, distributed, interrupts
from bench.run.batches import Collator
from bench.run.device import Placement
from bench.run.history import History
from bench.run.progress import Progress
from bench.run.schedule import SCHEDULES
from bench.run.trainer import CellTrainer
from bench.run.watch import Log, Watch, replay
from methods import Method


def train(
    model: nn.Module,
    tokenizer: Any,
    method: Method,
    dataset: Any,
    settings: Mapping[str, Any],
    placement: Placement,
    *,
    seed: int,
    spread: Mapping[str, Any] = distributed.ALONE,
    score: Callable[[], dict[str, float]] | None = None,
    checkpoint_folder: Path | None = None,
    guard: Callable[[], None] = lambda: None,
    log: Log = lambda step, values: None,
    progress: Progress = Progress(),  # noqa: B008 - it holds nothing
) -> History:
    """Train ``model``, to which ``method`` is attached, in place; what was seen on the way.

    ``settings`` are conf/trainer's, ``spread`` conf/distributed's.
    Goes on from the newest sound checkpoint in ``checkpoint_folder`` where there is one. Raises
    Stopped, a checkpoint later, where the cell was asked to leave. ``guard`` is called at each step
    and may raise to end the run without a checkpoint.
    """
    resume = None
    if checkpoint_folder is not None and distributed.first():
        resume = checkpoints.newest(checkpoint_folder)
    resume = distributed.tell(resume)
    history = History() if resume is None else checkpoints.load_history(resume, History)
    distributed.reshard(model)
    trainer = CellTrainer(
        method,
        settings,
        history,
        placement,
        checkpoint_folder,
        guard,
        model=model,
        args=arguments(settings, placement, seed, spread),
        train_dataset=dataset,
        data_collator=Collator(tokenizer.pad_token_id, settings["pad_to_multiple_of"]),
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    trainer.add_callback(
        Watch(trainer, score=score, progress=progress, log=log, resumed=resume is not None)
    )
    replay(log, history)
    try:
        with interrupts.deferred():
            trainer.fit(resume)
    finally:
        progress.stop()
    if history.diverged_at is None:
        interrupts.leave_if_requested()
    distributed.make_whole(model)
    return history


def arguments(
    settings: Mapping[str, Any], placement: Placement, seed: int, spread: Mapping[str, Any]
) -> TrainingArguments:
    """The Trainer's arguments; nothing that matters is left to its defaults."""
    checks.trainer(settings)
    made = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # has to exist; the Trainer itself writes nothing
        max_steps=settings["max_steps"],
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulation"],
        lr_scheduler_type=SCHEDULES[settings["schedule"]],
        warmup_steps=settings["warmup_steps"],
        max_grad_norm=settings["max_grad_norm"],
        weight_decay=settings["weight_decay"],
        optim=settings["optimizer"],
        adam_beta1=settings["adam_beta1"],
        adam_beta2=settings["adam_beta2"],
        adam_epsilon=settings["adam_epsilon"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        torch_compile=settings["torch_compile"],
        bf16=False,  # not accelerate's autocast, which wraps the model and casts its outputs
        use_cpu=placement.device.type == "cpu",
        seed=seed,
        data_seed=settings["data_seed"],
        logging_strategy="steps",
        logging_steps=settings["log_every"],
        logging_nan_inf_filter=False,
        save_strategy="no",  # Watch says when
        remove_unused_columns=False,
        dataloader_pin_memory=placement.device.type == "cuda",
        report_to="none",
        disable_tqdm=True,
        **distributed.arguments(spread, placement.device),
    )
    # However many GPUs a process sees, it trains on one: the Trainer would copy the model to all.
    made._n_gpu = min(made.n_gpu, 1)
    return made
