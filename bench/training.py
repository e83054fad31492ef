"""Training one cell on transformers' Trainer, so that what accelerate can distribute stays open.

What is ours: the method's parameter groups and restarts, logits computed only where there is a
label, the curves, scoring along the run, and an end at the first loss that is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench import checkpoints
from bench.device import Placement
from bench.errors import UserError
from bench.progress import Progress
from methods import Method

SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "jagged_cosine": "constant",  # ours, see jagged_cosine()
}
IGNORED = -100


@dataclass
class History:
    """What a cell has seen so far; saved with each checkpoint, so that a resumed cell goes on."""

    train: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0
    diverged_at: int | None = None


@dataclass
class Collator:
    """Pad on the right to a friendly length. No attention mask: causality hides what is behind.

    Adds ``tokens``, the number of tokens that are not padding. Packed examples bring position_ids.
    """

    pad_id: int
    multiple: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        length = math.ceil(longest / self.multiple) * self.multiple
        batch: dict[str, Any] = {
            "input_ids": _padded(rows, "input_ids", length, self.pad_id),
            "labels": _padded(rows, "labels", length, IGNORED),
            "tokens": sum(len(row["input_ids"]) for row in rows),
        }
        if "position_ids" in rows[0]:
            # Positions of the padding start again at 0: to the model it is a document of its own.
            batch["position_ids"] = _padded(rows, "position_ids", length, 0)
        return batch


def _padded(rows: Sequence[Mapping[str, Any]], key: str, length: int, filler: int) -> Tensor:
    return torch.tensor([list(r[key]) + [filler] * (length - len(r[key])) for r in rows])


@contextmanager
def head_only_where(model: nn.Module, keep: Tensor) -> Iterator[None]:
    """Inside, the model's head sees only the positions ``keep`` (batch, tokens) of its input."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][keep],))
    try:
        yield
    finally:
        handle.remove()


def jagged_cosine(
    step: int, *, total: int, warmup: int, every: int, restart_warmup: int, floor: float
) -> float:
    """ReLoRA's schedule (arXiv 2307.05695, sec. 3): cosine, warmed up again after each restart.

    The share of the learning rate at ``step`` (from 0): linear warm-up, then a cosine from 1 to
    ``floor`` at ``total``; in the ``restart_warmup`` steps after each multiple of ``every`` it
    climbs from 0 back to that cosine.
    """
    if step < warmup:
        return step / max(warmup, 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    share = floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    since = step % every
    restarted = step >= every and since < restart_warmup
    return share * (since / restart_warmup) if restarted else share


class CellTrainer(Trainer):
    """A Trainer that asks the method which weights move, and keeps its own books."""

    def __init__(
        self,
        method: Method,
        settings: Mapping[str, Any],
        history: History,
        placement: Placement,
        checkpoint_folder: Path | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.method, self.settings, self.history = method, settings, history
        self.placement = placement
        self.checkpoint_folder = checkpoint_folder
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # so that the labels of a whole step are counted

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            groups = self.method.parameter_groups(self.model if model is None else model)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options["weight_decay"] = self.args.weight_decay
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.settings["schedule"] != "jagged_cosine":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:  # type: ignore[has-type]
            every = getattr(self.method, "restart_every", None) or num_training_steps
            warmup, floor = self.settings["warmup_steps"], self.settings["min_lr_ratio"]
            again = getattr(self.method, "restart_warmup", 0)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                lambda step: jagged_cosine(
                    step,
                    total=num_training_steps,
                    warmup=warmup,
                    every=every,
                    restart_warmup=again,
                    floor=floor,
                ),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean next-token cross-entropy over all labels of the optimiser step, in nats."""
        labels = inputs["labels"]
        self.history.tokens += int(inputs["tokens"])
        following = torch.full_like(labels, IGNORED)
        following[:, :-1] = labels[:, 1:]
        keep = following != IGNORED
        batch = {k: v for k, v in inputs.items() if k not in ("labels", "tokens")}
        with head_only_where(self.accelerator.unwrap_model(model), keep), self.placement.autocast():
            output = model(**batch, use_cache=False)
        loss = F.cross_entropy(output.logits.float(), following[keep], reduction="sum")
        loss = loss / (keep.sum() if num_items_in_batch is None else num_items_in_batch)
        # Each process divides by the labels of all of them, and gradients are then averaged.
        loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.checkpoint_folder is None:
            return
        with checkpoints.writing(self.checkpoint_folder, self.state.global_step) as folder:
            checkpoints.save_state(folder, self.method.state(self.model), self.history)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.method.load_state(self.model, checkpoints.load_weights(Path(resume_from_checkpoint)))


class Watch(TrainerCallback):
    """Restarts, curves, scores along the run, progress, and the end of a diverged run."""

    def __init__(
        self,
        trainer: CellTrainer,
        *,
        score: Callable[[], dict[str, float]] | None,
        score_steps: Sequence[int],
        progress: Progress,
        log: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self.trainer, self.history = trainer, trainer.history
        self.score, self.score_steps = score, frozenset(score_steps)
        self.progress, self.log = progress, log
        self._since = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start(state.max_steps, state.global_step)
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
        self.trainer.method.after_step(self.trainer.model, optimizer, step)
        if self.score is not None and step in self.score_steps:
            self._stop_clock()
            begin = time.perf_counter()
            metrics = self.score()
            self.history.scoring_seconds += time.perf_counter() - begin
            self._since = time.perf_counter()
            point = {"step": step, "tokens": self.history.tokens}
            point["seconds"] = self.history.training_seconds
            self.history.scores.append(point | {"metrics": metrics})
            self.log(step, {f"score/{k}": v for k, v in metrics.items()})
            self.progress.note(", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kw: Any
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self._stop_clock()
        loss, norm = logs["loss"], logs.get("grad_norm")
        finite = math.isfinite(loss)
        self.history.train.append(
            {
                "step": state.global_step,
                "loss": loss if finite else None,
                "learning_rate": logs["learning_rate"],
                "grad_norm": norm if norm is not None and math.isfinite(norm) else None,
                "tokens": self.history.tokens,
                "seconds": self.history.training_seconds,
            }
        )
        self.log(state.global_step, {"train/loss": loss, "train/lr": logs["learning_rate"]})
        self.progress.step(state.global_step, loss)
        if not finite:
            self.history.diverged_at = state.global_step
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_clock()
        self.progress.stop()

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.history.training_seconds += now - self._since
        self._since = now


def train(
    model: nn.Module,
    tokenizer: Any,
    method: Method,
    dataset: Any,
    settings: Mapping[str, Any],
    placement: Placement,
    *,
    seed: int,
    score: Callable[[], dict[str, float]] | None = None,
    checkpoint_folder: Path | None = None,
    log: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
    title: str = "training",
) -> History:
    """Train ``model``, to which ``method`` is attached, in place; what was seen on the way.

    Goes on from the newest sound checkpoint in ``checkpoint_folder`` where there is one.
    """
    resume = None if checkpoint_folder is None else checkpoints.newest(checkpoint_folder)
    history = History() if resume is None else checkpoints.load_history(resume, History)
    trainer = CellTrainer(
        method,
        settings,
        history,
        placement,
        checkpoint_folder,
        model=model,
        args=arguments(settings, placement, seed, checkpoint_folder),
        train_dataset=dataset,
        data_collator=Collator(tokenizer.pad_token_id, settings["pad_to_multiple_of"]),
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    watch = Watch(
        trainer,
        score=score,
        score_steps=settings["score_steps"],
        progress=Progress(title),
        log=log,
    )
    trainer.add_callback(watch)
    for point in history.train:  # a resumed run's curve starts at its beginning
        log(point["step"], {"train/loss": point["loss"], "train/lr": point["learning_rate"]})
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return history


def arguments(
    settings: Mapping[str, Any], placement: Placement, seed: int, folder: Path | None
) -> TrainingArguments:
    """The Trainer's arguments; nothing that matters is left to its defaults."""
    check(settings)
    every = settings["checkpoint_every"]
    return TrainingArguments(
        output_dir=str(folder or "unused"),
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
        bf16=False,  # autocast is ours: accelerate's would wrap the model and cast its outputs
        use_cpu=placement.device.type == "cpu",
        seed=seed,
        data_seed=settings["data_seed"],
        logging_strategy="steps",
        logging_steps=settings["log_every"],
        logging_nan_inf_filter=False,
        save_strategy="steps" if folder is not None and every else "no",
        save_steps=every or 500,
        remove_unused_columns=False,
        dataloader_pin_memory=placement.device.type == "cuda",
        report_to="none",
        disable_tqdm=True,
    )


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for trainer settings that cannot be, naming the key."""
    if settings["schedule"] not in SCHEDULES:
        raise UserError(
            f"trainer.schedule={settings['schedule']} is unknown; choose {' | '.join(SCHEDULES)}."
        )
    for key in ("max_steps", "batch_size", "accumulation", "log_every", "score_batch_size"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise UserError(f"trainer.{key}={settings[key]} must be a whole number of at least 1.")
    late = [s for s in settings["score_steps"] if not 1 <= s <= settings["max_steps"]]
    if late:
        raise UserError(
            f"trainer.score_steps holds {late[0]}, but the run has steps 1 to "
            f"{settings['max_steps']} (trainer.max_steps)."
        )
