"""transformers' Trainer, as a cell needs it.

It adds the method's parameter groups and restarts, logits computed only where there is a label, the
loss on value tokens, and checkpoints.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer

from bench.run import checkpoints, distributed, memory
from bench.run.batches import head_only_where
from bench.run.device import Placement
from bench.run.history import History
from bench.run.schedule import jagged_cosine
from methods import Method
from tasks.tokens import IGNORED, VALUE_MASK

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # in a checkpoint


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
        # Of this process, in the step at hand: tokens, loss, and the sum of losses over value
        # tokens and their number (stays 0 where the data do not tell them apart).
        self.fresh_tokens = 0
        self.fresh_loss: Tensor | float = 0.0
        self.fresh_values: Tensor | float = 0.0
        self.fresh_value_tokens: Tensor | int = 0
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # so that the labels of a whole step are counted

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The configured optimiser on the method's parameter groups; made once."""
        if self.optimizer is None:  # type: ignore[has-type]
            groups = self.method.parameter_groups(self.model if model is None else model)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options["weight_decay"] = self.args.weight_decay
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The configured schedule; jagged_cosine follows the method's restarts. Made once."""
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
        following = _following(inputs["labels"], IGNORED)
        self.fresh_tokens += int(inputs["tokens"])
        keep = following != IGNORED
        batch = {k: v for k, v in inputs.items() if k not in ("labels", "tokens", VALUE_MASK)}
        with head_only_where(self.accelerator.unwrap_model(model), keep), self.placement.autocast():
            output = model(**batch, use_cache=False)
        logits, wanted = output.logits.float(), following[keep]
        if VALUE_MASK in inputs:
            each = F.cross_entropy(logits, wanted, reduction="none")
            loss = each.sum()
            values = _following(inputs[VALUE_MASK], 0)[keep].bool()
            self.fresh_values += each.detach()[values].sum()
            self.fresh_value_tokens += values.sum()
        else:
            loss = F.cross_entropy(logits, wanted, reduction="sum")
        loss = loss / (keep.sum() if num_items_in_batch is None else num_items_in_batch)
        self.fresh_loss += loss.detach()
        # Each process divides by the labels of all of them, and gradients are then averaged.
        loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def close_step(self) -> None:
        """Enter what the step has seen, in all processes, into the history."""
        fresh = (self.fresh_tokens, self.fresh_loss, self.fresh_values, self.fresh_value_tokens)
        tokens, loss, values, value_tokens = distributed.total([float(number) for number in fresh])
        self.history.tokens += int(tokens)
        if value_tokens:
            loss = values / value_tokens
            self.history.value_losses.append(loss)
        self.history.add_loss(loss)
        self.fresh_tokens, self.fresh_loss = 0, 0.0
        self.fresh_values, self.fresh_value_tokens = 0.0, 0

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
        """The Trainer's; with several processes, each gets its share of every batch."""
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

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """The Trainer's: gradients of a step's parts are added up cut, as no process holds all."""
        return nullcontext()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.checkpoint_folder is None or self.history.diverged_at is not None:
            return
        if self.is_deepspeed_enabled:  # its own are pickles, of each process
            return
        self.guard()
        (pending,) = distributed.total([float(self._tr_loss)])
        self.history.pending_loss = pending / distributed.world()
        self.history.last_logged = self._globalstep_last_logged
        self.pause_memory_watch()
        others = distributed.gather(None if distributed.first() else self._random_state())
        optimizer = distributed.optimizer_state(self.optimizer)
        with distributed.whole(self.model):
            if distributed.first():
                self._write_checkpoint(self.checkpoint_folder, optimizer, others[1:])
        distributed.wait_for_first()
        self.start_memory_watch()

    def start_memory_watch(self) -> None:
        """From here on memory counts as training's."""
        self.model.train()  # what adapters formed for evaluation is dropped
        memory.start_watch(self.placement)

    def pause_memory_watch(self) -> None:
        """Up to here memory counts as training's: scoring or a checkpoint follows, or the end."""
        peak = memory.peak_bytes(self.placement)
        self.history.peak_memory_bytes = max(self.history.peak_memory_bytes, peak)
        kept = sum(getattr(module, "kept_bytes", 0) for module in self.model.modules())
        self.history.kept_bytes = max(self.history.kept_bytes, kept)

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
            # Mapped: where the state is sharded, a process reads its own part.
            read = partial(torch.load, map_location="cpu", weights_only=True, mmap=True)
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


def _following(tokens: Tensor, filler: int) -> Tensor:
    """At each position what belongs to the next token: (batch, tokens), shifted by one."""
    following = torch.full_like(tokens, filler)
    following[:, :-1] = tokens[:, 1:]
    return following
