"""Methods in transformers' Trainer and its heirs, such as TRL's SFTTrainer.

    method = LoRAPlus(rank=8)
    method.attach(model)
    trainer = Trainer(model, args, train_dataset=data)
    connect(trainer, method)
    trainer.train(resume_from_checkpoint=...)

``connect`` gives the Trainer one callback and one optimiser, and lets it write and read adapters
where it would write and read whole models. Whoever subclasses Trainer can use the two alone:
``callback`` and ``optimizer``. Its checkpoints are whole models then; that a base weight has been
restarted goes into them (``AdapterLinear.original``). transformers is imported when one of them is
called.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.base import Method, adapted_layers
from methods.errors import MethodError

ARGUMENTS_FILE = "training_args.bin"  # the Trainer's own, beside every model that it saves


def connect(trainer: Any, method: Method) -> None:
    """Train ``method``, which is attached to the Trainer's model, with this Trainer.

    - its optimiser, of the class that ``optim`` or ``optimizer_cls_and_kwargs`` names, has the
      method's parameter groups (unless it was given one when it was made);
    - restarts come after the optimiser's step; the learning rate's schedule stays the Trainer's;
    - with ``model_init``, the method is attached inside it, as each run makes a new model;
    - ``save_model`` and checkpoints hold adapters alone, as ``method.save`` writes them;
      ``resume_from_checkpoint`` and ``load_best_model_at_end`` read them.

    Raises MethodError where the method is not attached to the model, or where another has been
    connected; for a method that trains the base weights, as the Trainer does so by itself; and
    under FSDP and DeepSpeed, whose checkpoints are their own.
    """
    if method.trains_base:
        raise MethodError(f"{method.label} trains the model itself: the Trainer needs no help.")
    if not any(True for _ in adapted_layers(trainer.model)):
        raise MethodError(
            f"{method.label} is not attached to the Trainer's model: call method.attach(model) "
            f"before the Trainer is made. A model of peft needs no connect: the Trainer knows it."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise MethodError(
            f"{method.label} cannot be connected under FSDP or DeepSpeed, which write checkpoints "
            f"of their own: use methods.peft_tuner.MoraConfig, or train on one device or with DDP."
        )
    if hasattr(trainer, "method"):
        raise MethodError(f"{trainer.method.label} is connected already: make a new Trainer.")
    trainer.method = method
    trainer.add_callback(callback(method))
    trainer.create_optimizer = partial(_create_optimizer, trainer)
    trainer._save = partial(_save, trainer)
    trainer._load_from_checkpoint = partial(_load, trainer)
    trainer._load_best_model = partial(_load_best, trainer)


def callback(method: Method) -> Any:
    """A TrainerCallback that calls ``method.after_step`` after each step of the optimiser."""
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            optimizer = kwargs["optimizer"]
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            last = state.global_step >= state.max_steps
            method.after_step(kwargs["model"], optimizer, state.global_step, last=last)

    return AfterStep()


def optimizer(
    method: Method,
    model: nn.Module,
    args: Any,
    chosen: tuple[Any, dict[str, Any]] | None = None,
    decays: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser that the TrainingArguments ask for, on the method's parameter groups.

    chosen: another class and its options, as the Trainer's ``optimizer_cls_and_kwargs``.
    A method without a learning rate takes the options' lr, else ``args.learning_rate``; LoRA+
    multiplies it for B. ``args.weight_decay`` is that of the parameters named in ``decays``, by
    default all but norms and biases, as in the Trainer.

    Raises MethodError for an optimiser that takes a model or parameters of its own choice, and
    where the method is not attached to the model.
    """
    from transformers import Trainer

    _refuse_plain(method, model)
    kind, options = chosen or Trainer.get_optimizer_cls_and_kwargs(args, model)
    plain = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    own = sorted({"params", "model", "optimizer_dict"} & options.keys())
    if own or not plain:
        name = getattr(kind, "__name__", repr(kind))
        raise MethodError(
            f"the Trainer's optimiser {name}{f' with {own[0]}' if own else ''} chooses its "
            f"parameters itself, and {method.label} has groups of its own: take a class of "
            f"torch.optim, or make the optimiser of method.parameter_groups(model) and give it to "
            f"the Trainer as optimizers=(optimizer, None)."
        )
    rated = copy.copy(method)
    if rated._learning_rate is None:
        rated._learning_rate = float(options.get("lr") or args.learning_rate)
    if decays is None:
        decays = Trainer.get_decay_parameter_names(None, model)
    decayed = {id(p) for n, p in model.named_parameters() if n in decays}
    groups = []
    for group in rated.parameter_groups(model):
        for weight_decay, decaying in ((args.weight_decay, True), (0.0, False)):
            params = [p for p in group["params"] if (id(p) in decayed) is decaying]
            if params:
                groups.append({"weight_decay": weight_decay} | group | {"params": params})
    made: torch.optim.Optimizer = kind(groups, **options)
    return made


def _create_optimizer(trainer: Any, model: nn.Module | None = None) -> torch.optim.Optimizer:
    if trainer.optimizer is None:
        model, chosen = trainer.model, trainer.optimizer_cls_and_kwargs
        decays = trainer.get_decay_parameter_names(model)
        trainer.optimizer = optimizer(trainer.method, model, trainer.args, chosen, decays)
    made: torch.optim.Optimizer = trainer.optimizer
    return made


def _refuse_plain(method: Method, model: nn.Module) -> None:
    """Raise MethodError for a model without adapters, as ``model_init`` makes one for each run."""
    if not any(True for _ in adapted_layers(model)):
        raise MethodError(
            f"{method.label} is not attached to the model that the Trainer has now: with "
            f"model_init, attach the method inside model_init, to the model that it returns."
        )


def _save(trainer: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
    """As Trainer._save, the adapter in place of the model."""
    if not trainer.args.should_save:
        return
    _refuse_plain(trainer.method, trainer.model)
    folder = Path(output_dir or trainer.args.output_dir)
    trainer.method.save(trainer.model, folder)
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    torch.save(trainer.args, folder / ARGUMENTS_FILE)


def _load(trainer: Any, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
    trainer.method.load(trainer.model, resume_from_checkpoint)


def _load_best(trainer: Any) -> None:
    _load(trainer, trainer.state.best_model_checkpoint)
