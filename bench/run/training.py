"""Training one cell on transformers' Trainer, so that what accelerate can distribute stays open.

What is ours: the method's parameter groups and restarts, logits computed only where there is a
label, the curves, scoring along the run, and an end at the first loss that is not finite.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames

from bench.errors import UserError
from bench.run import checkpoints, distributed, interrupts
from bench.run.device import Placement
from bench.run.progress import Progress
from methods import Method

SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "jagged_cosine": "constant",  # ours, see jagged_cosine()
}
IGNORED = -100
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # in a checkpoint


@dataclass
class History:
    """What a cell has seen so far; saved with each checkpoint, so that a resumed cell goes on."""

    train: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0
    diverged_at: int | None = None
    # Of the point of the curve that is not complete yet: the sum of losses, and where it began.
    pending_loss: float = 0.0
    last_logged: int = 0


@dataclass
class Collator:
    """Pad on the right to a friendly length. No attention mask: causality hides what is behind.

    Adds ``tokens``, the number of tokens that are not padding. Packed examples bring position_ids.
    """

    pad_id: int
    multiple: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tokens = sum(len(row["input_ids"]) for row in rows)
        rows = rows or [{"input_ids": [self.pad_id], "labels": [IGNORED]}]  # see Shares
        longest = max(len(row["input_ids"]) for row in rows)
        length = math.ceil(longest / self.multiple) * self.multiple
        batch: dict[str, Any] = {
            "input_ids": _padded(rows, "input_ids", length, self.pad_id),
            "labels": _padded(rows, "labels", length, IGNORED),
            "tokens": tokens,
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
        guard: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.method, self.settings, self.history = method, settings, history
        self.placement = placement
        self.checkpoint_folder, self.guard = checkpoint_folder, guard
        self.fresh_tokens = 0  # of this process, in the step at hand
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
        self.fresh_tokens += int(inputs["tokens"])
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

    def after_step(self, step: int, *, last: bool) -> None:
        """The method's hook, which sees whole parameters also where FSDP2 has sharded them."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not distributed.shards(self.model):
            self.method.after_step(self.model, optimizer, step, last=last)
        elif self._hook_acts(step):
            view: Any = distributed.WholeOptimizer(optimizer, self.model)
            with distributed.whole(self.model, write=True):
                view.gather()
                self.method.after_step(self.model, view, step, last=last)
                view.scatter()

    def _hook_acts(self, step: int) -> bool:
        """Whether after_step may change anything, so that parameters are worth gathering."""
        if type(self.method).after_step is Method.after_step:
            return False
        return step % getattr(self.method, "restart_every", 1) == 0

    def get_train_dataloader(self) -> DataLoader[Any]:
        if distributed.world() == 1:
            return super().get_train_dataloader()
        sampler, size = self._get_train_sampler(), self.args.train_batch_size
        prepared: DataLoader[Any] = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=distributed.Shares(sampler, size, distributed.world()),
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )
        return prepared

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.checkpoint_folder is None or self.history.diverged_at is not None:
            return
        if self.is_deepspeed_enabled:  # its own are pickles, of each process
            return
        self.guard()
        (pending,) = distributed.total([float(self._tr_loss)])
        self.history.pending_loss = pending / distributed.world()
        self.history.last_logged = self._globalstep_last_logged
        others = distributed.gather(None if distributed.first() else self._random_state())
        optimizer = distributed.optimizer_state(self.optimizer)
        with distributed.whole(self.model):
            if distributed.first():
                self._write_checkpoint(self.checkpoint_folder, optimizer, others[1:])
        distributed.wait_for_first()

    def _write_checkpoint(
        self, parent: Path, optimizer: dict[str, Any], others: Sequence[tuple[str, bytes]]
    ) -> None:
        """others: random states of the other processes, as file name and content."""
        with checkpoints.writing(parent, self.state.global_step) as folder:
            checkpoints.save_state(folder, self.method.state(self.model), self.history)
            torch.save(optimizer, folder / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER)
            self._save_rng_state(str(folder))
            for name, content in others:
                (folder / name).write_bytes(content)
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _random_state(self) -> tuple[str, bytes]:
        """This process's random states, as a file that the Trainer reads: its name and content."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            (file,) = Path(folder).iterdir()
            return file.name, file.read_bytes()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with distributed.whole(self.model, write=True):
            weights = checkpoints.load_weights(Path(resume_from_checkpoint))
            self.method.load_state(self.model, weights)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            folder = Path(checkpoint)
            read = partial(torch.load, map_location="cpu", weights_only=True)
            distributed.load_optimizer_state(self.optimizer, read(folder / OPTIMIZER))
            self.lr_scheduler.load_state_dict(read(folder / SCHEDULER))

    def fit(self, resume: Path | None) -> None:
        """Train; from a checkpoint of the last step there is nothing left but to load it."""
        if resume is not None and checkpoints.step(resume) >= self.settings["max_steps"]:
            self._load_from_checkpoint(str(resume))
            self._load_rng_state(str(resume))
        else:
            self.train(resume_from_checkpoint=None if resume is None else str(resume))

    def resume_curve(self) -> None:
        """Go on with the point of the curve at which the checkpoint was written."""
        self._tr_loss += self.history.pending_loss
        self._globalstep_last_logged = self.history.last_logged


class Watch(TrainerCallback):
    """Restarts, curves, scores along the run, checkpoints, and leaving early where asked to."""

    def __init__(
        self,
        trainer: CellTrainer,
        *,
        score: Callable[[], dict[str, float]] | None,
        progress: Progress,
        log: Callable[[int, Mapping[str, float]], None],
        resumed: bool,
    ) -> None:
        self.trainer, self.history, self.settings = trainer, trainer.history, trainer.settings
        self.score, self.score_steps = score, frozenset(self.settings["score_steps"])
        self.progress, self.log = progress, log
        self.resumed = self.saved = resumed
        self._since = self._saved_at = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.resumed:
            self.trainer.resume_curve()
        self.progress.start(state.max_steps, state.global_step)
        self._since = self._saved_at = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.guard()
        step, last = state.global_step, state.global_step == state.max_steps
        (tokens,) = distributed.total([self.trainer.fresh_tokens])
        self.history.tokens, self.trainer.fresh_tokens = self.history.tokens + int(tokens), 0
        self.trainer.after_step(step, last=last)
        if self.score is not None and step in self.score_steps:
            self._score(step)
        due, leaving = self._agree(step, last)
        control.should_save = due or leaving
        if leaving:
            control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kw: Any
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self._stop_clock()
        loss, norm = logs["loss"], logs.get("grad_norm")
        finite = math.isfinite(loss)
        point = {
            "step": state.global_step,
            "loss": loss if finite else None,
            "learning_rate": logs["learning_rate"],
            "grad_norm": norm if norm is not None and math.isfinite(norm) else None,
            "tokens": self.history.tokens,
            "seconds": self.history.training_seconds,
        }
        self.history.train.append(point)
        log_train(self.log, point)
        self.progress.step(state.global_step, loss)
        if not finite:
            self.history.diverged_at = state.global_step
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved, self._saved_at = True, time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_clock()
        self.progress.stop()

    def _agree(self, step: int, last: bool) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether to leave; in all processes alike."""
        due = distributed.first() and self._checkpoint_due(step, last)  # by one clock
        dues, askings = distributed.total([due, interrupts.requested() is not None])
        if askings:
            interrupts.request("another of its processes was asked to leave")
        return dues > 0, askings > 0

    def _score(self, step: int) -> None:
        assert self.score is not None
        self._stop_clock()
        begin = time.perf_counter()
        metrics = self.score()
        self._since = time.perf_counter()
        self.history.scoring_seconds += self._since - begin
        point = {
            "step": step,
            "tokens": self.history.tokens,
            "seconds": self.history.training_seconds,
            "metrics": metrics,
        }
        self.history.scores.append(point)
        log_scores(self.log, point)
        self.progress.note(", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))

    def _checkpoint_due(self, step: int, last: bool) -> bool:
        """By steps, by minutes, and after the last step of a run long enough for one before."""
        every, minutes = self.settings["checkpoint_every"], self.settings["checkpoint_minutes"]
        if every and step % every == 0:
            return True
        if minutes and time.perf_counter() - self._saved_at >= 60 * minutes:
            return True
        return last and self.saved

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.history.training_seconds += now - self._since
        self._since = now


Log = Callable[[int, Mapping[str, float]], None]


def log_train(log: Log, point: Mapping[str, Any]) -> None:
    """A point of the training curve for the tracker; what is not finite is left out."""
    names = {"loss": "train/loss", "learning_rate": "train/lr", "grad_norm": "train/grad_norm"}
    values = {name: point[key] for key, name in names.items() if point[key] is not None}
    log(point["step"], values | {"train/tokens": point["tokens"]})


def log_scores(log: Log, point: Mapping[str, Any]) -> None:
    log(point["step"], {f"score/{name}": value for name, value in point["metrics"].items()})


def replay(log: Log, history: History) -> None:
    """Tell the tracker all that a checkpoint has seen, so that its last run stands alone."""
    for point in sorted(history.scores + history.train, key=lambda point: point["step"]):
        (log_scores if "metrics" in point else log_train)(log, point)


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
    check(settings)
    return TrainingArguments(
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
        bf16=False,  # autocast is ours: accelerate's would wrap the model and cast its outputs
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


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for trainer settings that cannot be, naming the key."""
    if settings["schedule"] not in SCHEDULES:
        raise UserError(
            f"trainer.schedule={settings['schedule']} is unknown; choose {' | '.join(SCHEDULES)}."
        )
    if settings["optimizer"] not in list(OptimizerNames):
        raise UserError(
            f"trainer.optimizer={settings['optimizer']} is unknown; choose "
            f"{' | '.join(OptimizerNames)}."
        )
    for key in ("max_steps", "batch_size", "accumulation", "log_every", "score_batch_size"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise UserError(f"trainer.{key}={settings[key]} must be a whole number of at least 1.")
    if not isinstance(settings["checkpoint_every"], int) or settings["checkpoint_every"] < 0:
        raise UserError(
            f"trainer.checkpoint_every={settings['checkpoint_every']} must be a whole number of "
            "steps, or 0 for none."
        )
    if not settings["checkpoint_minutes"] >= 0:
        raise UserError(
            f"trainer.checkpoint_minutes={settings['checkpoint_minutes']} must be 0 (none) or more."
        )
    late = [s for s in settings["score_steps"] if not 1 <= s <= settings["max_steps"]]
    if late:
        raise UserError(
            f"trainer.score_steps holds {late[0]}, but the run has steps 1 to "
            f"{settings['max_steps']} (trainer.max_steps)."
        )
