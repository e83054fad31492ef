"""MoRA as a tuner of peft: ``get_peft_model(model, MoraConfig(r=8, operator="rotation"))``.

``from methods.peft_tuner import MoraConfig`` makes MoRA known to the peft of this process; without
it, PeftModel.from_pretrained cannot read a saved MoRA. peft is imported then and not before.

peft's ``register_peft_method`` takes only names that are members of its enumeration PeftType, which
cannot be extended from outside. So the type of MoraConfig is a member of an enumeration of its own,
equal to the string "MORA", and it is entered into the same three tables that
``register_peft_method`` fills (the public ``peft.mapping.PEFT_TYPE_TO_*``); nothing of peft is
replaced. Upstream it would take the one line ``MORA = "MORA"`` in PeftType, these classes in
peft/tuners/mora, and a call of ``register_peft_method``. Should peft get a MORA of its own, the
import here refuses in words.

Folders saved before M was a module's weight (``mora_M``, not ``mora_M.weight``) are read by peft,
also into a PeftModel. ``load_adapter`` of transformers' own models reports their M as missing: read
such a folder with PeftModel.from_pretrained and save it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.peft_tuner.tuner import MoraConfig, MoraLinear, MoraModel

__all__ = ["MoraConfig", "MoraLinear", "MoraModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from methods.peft_tuner import tuner

    return getattr(tuner, name)
