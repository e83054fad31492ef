"""ReMoRA: MoRA (sharing) that is merged and restarted with another layout of the groups.

arXiv 2405.12130, sec. 4 and App. B: at each restart delta W joins the base weight, M is zeroed,
and the groups of inputs and outputs that share a row or a column change, so that the sum of
merges is not confined to one set of groups. The paper goes back and forth between two layouts;
the published code runs through four by default (its types 1, 2, 3, 4), which are the four pairings
of the same two groupings and therefore give no more rank: 2 r_hat at best.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import adapted_layers
from methods.errors import MethodError
from methods.groups import Groups, Layout
from methods.layer import AdapterLinear
from methods.mora import MoRA, Square
from methods.operators import Compat, Sharing
from methods.restarts import Restarting

# (inputs, outputs), in the published order.
LAYOUTS: tuple[tuple[Layout, Layout], ...] = (
    ("strided", "strided"),
    ("contiguous", "contiguous"),
    ("contiguous", "strided"),
    ("strided", "contiguous"),
)
SHARING = ("operator", "input_groups", "output_groups")


class ReMoRA(Restarting, MoRA):
    """layouts: 2 as the paper, 4 as the published code. The operator is sharing (Eq. 6)."""

    name, label = "remora", "ReMoRA"

    def __init__(self, *, layouts: int = 2, compat: Compat = "exact", **shared: Any):
        super().__init__(operator="sharing", compat=compat, **shared)
        if layouts not in (2, 4):
            raise MethodError(f"layouts={layouts!r} is unknown; choose 2 | 4.")
        self.layouts = int(layouts)

    def settings(self) -> dict[str, Any]:
        settings = super().settings() | {"layouts": self.layouts}
        return {k: v for k, v in settings.items() if k not in SHARING}

    def forward_settings(self) -> dict[str, Any]:
        # The saved state says which layout each layer is in.
        return {k: v for k, v in super().forward_settings().items() if k not in SHARING}

    def adapt(self, linear: nn.Linear, name: str) -> AdapterLinear:
        operator = self.build(linear.in_features, linear.out_features)
        start, kept = {"M": torch.zeros(operator.side, operator.side)}, self.dropout
        return Regrouped(linear, start, Square(operator), dropout=kept, compute=self.compute)

    def restart(self, layer: AdapterLinear, name: str, step: int) -> None:
        assert isinstance(layer, Regrouped)
        layer.get_parameter("M").zero_()
        layer.use((layer.layout + 1) % self.layouts)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        layouts = {f"{n}.layout": m.get_extra_state() for n, m in adapted_layers(model)}
        return super().state(model) | layouts

    def load_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        state, found = dict(state), []
        for name, layer in adapted_layers(model):
            assert isinstance(layer, Regrouped)
            layout = state.pop(f"{name}.layout", None)
            if layout is None or not 0 <= int(layout) < self.layouts:
                raise MethodError(
                    f"the saved adapter has no usable {name}.layout: it is no ReMoRA of "
                    f"{self.layouts} layouts."
                )
            found.append((layer, int(layout)))
        super().load_state(model, state)
        for layer, index in found:
            layer.use(index)

    def max_rank(self, d_in: int, d_out: int) -> int:
        """Of the sum of merges, once a restart has been: the rank of both groupings together."""
        side, wrap = self.side(d_in, d_out), self.compat == "published"
        return min(_joint_rank(d_in, side, wrap), _joint_rank(d_out, side, False))


class Regrouped(AdapterLinear):
    """A layer whose groups change. Which they are is in every ``state_dict``, beside the weights.

    So that a checkpoint which somebody else writes, such as the Trainer without ``connect``, means
    the same when it is read.
    """

    @property
    def layout(self) -> int:
        """The place in LAYOUTS."""
        operator = self._operator
        return LAYOUTS.index((operator.input_groups, operator.output_groups))

    def use(self, layout: int) -> None:
        """Go over to another layout; M stays."""
        inputs, outputs = LAYOUTS[layout]
        self.delta = Square(replace(self._operator, input_groups=inputs, output_groups=outputs))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.layout)

    def set_extra_state(self, state: Tensor) -> None:
        self.use(int(state))

    @property
    def _operator(self) -> Sharing:
        assert isinstance(self.delta, Square) and isinstance(self.delta.operator, Sharing)
        return self.delta.operator

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if f"{prefix}M" in state_dict and f"{prefix}_extra_state" not in state_dict:
            raise MethodError(
                f"the state has {prefix}M and does not say in which layout its groups are "
                f"({prefix}_extra_state), so that M may mean another delta W: go on from a folder "
                f"of method.save, or from a whole state_dict of this version."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


@lru_cache(maxsize=256)
def _joint_rank(size: int, side: int, wrap: bool) -> int:
    """Rank of the strided and the contiguous groups of ``size`` coordinates together."""
    strided, contiguous = Groups(size, side, "strided"), Groups(size, side, "contiguous")
    both = torch.zeros(size, 2 * side, dtype=torch.float64)
    coordinates, device = torch.arange(size), torch.device("cpu")
    both[coordinates, strided.index(device)] += 1
    both[coordinates, side + contiguous.index(device)] += 1
    if wrap:  # the published padding: the first coordinates fill up the last stride as well
        repeated = torch.arange(strided.padding)
        both[repeated, side - strided.padding + repeated] += 1
    gram = both.T @ both if size > 2 * side else both @ both.T
    return int(torch.linalg.matrix_rank(gram, hermitian=True))
