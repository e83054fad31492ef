"""Ways of fine-tuning behind one interface: FFT, LoRA, MoRA and kin, for any nn.Module.

``from methods import MoRA, LoRA, FFT``: each method is read from its file when it is asked for, and
so is all that needs torch. ``attach(model, MoRA(rank=8))`` makes a model train it.
methods/trainer.py joins a method to transformers' Trainer; methods/peft_tuner is MoRA for peft.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from methods.errors import MethodError

if TYPE_CHECKING:
    from methods.base import AdapterMethod, Method
    from methods.layer import AdapterLinear, Delta
    from methods.loading import attach, load_adapter

__all__ = [
    "AdapterLinear",
    "AdapterMethod",
    "Delta",
    "Method",
    "MethodError",
    "attach",
    "load_adapter",
]

_HOMES = {
    "AdapterLinear": "layer",
    "AdapterMethod": "base",
    "Delta": "layer",
    "Method": "base",
    "attach": "loading",
    "load_adapter": "loading",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"methods.{_HOMES[name]}"), name)
    if name[:1].isupper():  # a class; modules are found by the import system
        from methods.discover import find

        found = find(name)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from methods.discover import classes

    return sorted({*globals(), *__all__, *(kind.__name__ for kind in classes())})
