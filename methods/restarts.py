"""Restarts: from time to time delta W joins the base weight, and the adapter begins anew.

So the sum of all delta W can reach a rank that one adapter cannot (ReLoRA, arXiv 2307.05695;
ReMoRA, arXiv 2405.12130, sec. 4). The learning rate's part (the re-warm) is the scheduler's; it
reads ``restart_every`` and ``restart_warmup``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from methods.base import AdapterMethod, adapted_layers, check_flag, check_number
from methods.errors import MethodError
from methods.layer import AdapterLinear
from methods.targets import target_layers

ResetOptimizer = Literal["full", "prune"]


class Restarting(AdapterMethod):
    """An adapter that restarts after every ``restart_every`` optimiser steps.

    restart_warmup: steps of learning-rate warm-up after each restart.
    restart_at_end: also when no step follows, as the published code of MoRA does. It would change
        nothing but the form: delta W in the base weight, an adapter at zero.
    reset_optimizer: what becomes of the optimiser's moments of the adapter. ``full`` forgets them,
        step count included; ``prune`` zeroes the ``prune_ratio`` smallest entries of each moment.
    """

    fp32_base = True

    def __init__(
        self,
        *,
        restart_every: int = 2000,
        restart_warmup: int = 50,
        restart_at_end: bool = False,
        reset_optimizer: ResetOptimizer = "full",
        prune_ratio: float = 0.99,
        **shared: Any,
    ):
        super().__init__(**shared)
        for name, value in (("restart_every", restart_every), ("restart_warmup", restart_warmup)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise MethodError(f"{name}={value!r} must be a whole number of steps.")
        check_flag("restart_at_end", restart_at_end)
        check_number("prune_ratio", prune_ratio)
        if restart_every < 1:
            raise MethodError(f"restart_every={restart_every!r} must be at least 1 step.")
        if not 0 <= restart_warmup < restart_every:
            raise MethodError(
                f"restart_warmup={restart_warmup} must be at least 0 and below "
                f"restart_every={restart_every}."
            )
        if reset_optimizer not in get_args(ResetOptimizer):
            raise MethodError(
                f"reset_optimizer={reset_optimizer!r} is unknown; choose full | prune."
            )
        if not 0 < prune_ratio < 1:
            raise MethodError(f"prune_ratio={prune_ratio} must be above 0 and below 1.")
        self.restart_every, self.restart_warmup = restart_every, restart_warmup
        self.restart_at_end = restart_at_end
        self.reset_optimizer: ResetOptimizer = reset_optimizer
        self.prune_ratio = float(prune_ratio)

    def settings(self) -> dict[str, Any]:
        settings = super().settings() | {
            "restart_every": self.restart_every,
            "restart_warmup": self.restart_warmup,
            "restart_at_end": self.restart_at_end,
            "reset_optimizer": self.reset_optimizer,
        }
        return settings | (
            {"prune_ratio": self.prune_ratio} if self.reset_optimizer == "prune" else {}
        )

    def attach(self, model: nn.Module) -> None:
        """Raises MethodError for a base weight below fp32 too: merges would be lost in rounding."""
        for name, linear in target_layers(model, self.target_modules).items():
            dtype = linear.weight.dtype
            if torch.promote_types(dtype, torch.float32) != dtype:
                raise MethodError(
                    f"layer {name} is held in {str(dtype).removeprefix('torch.')}: a restart adds "
                    f"delta W to it, and most of that would be lost in rounding. Hold the model in "
                    f"fp32 (model.float()) and train it under autocast."
                )
        super().attach(model)

    @abstractmethod
    def restart(self, layer: AdapterLinear, name: str, step: int) -> None:
        """Set the parameters of a layer, in place, to a start at which delta W is zero.

        Must be a function of the settings, ``name``, ``step`` and the layer alone: a resumed run
        has to draw what the uninterrupted one drew.
        """

    def after_step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, last: bool = False
    ) -> None:
        if step % self.restart_every or (last and not self.restart_at_end):
            return
        with torch.no_grad():
            for name, layer in adapted_layers(model):
                layer.merge_into_base()
                self.restart(layer, name, step)
                for parameter in layer.adapter_parameters:
                    self._forget(optimizer, parameter)

    def _forget(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
        if self.reset_optimizer == "full":
            optimizer.state.pop(parameter, None)
            return
        for moment in optimizer.state.get(parameter, {}).values():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                prune_(moment, self.prune_ratio)


def prune_(tensor: Tensor, ratio: float) -> None:
    """Zero the share ``ratio`` of the entries that is smallest in magnitude, in place."""
    count = int(ratio * tensor.numel())
    if count:
        size = tensor.abs()
        tensor.mul_(size > size.flatten().kthvalue(count).values)
