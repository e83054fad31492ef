"""Ways of fine-tuning behind one interface: FFT, LoRA, MoRA and kin, for any nn.Module.

``from methods import MoRA, LoRA, FFT``: each method is read from its file when it is asked for.
``attach(model, MoRA(rank=8))`` makes a model train it. methods/trainer.py joins a method to
transformers' Trainer; methods/peft_tuner is MoRA for peft.
"""

from typing import Any

from methods.base import AdapterMethod, Method
from methods.errors import MethodError
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


def __getattr__(name: str) -> Any:
    if name[:1].isupper():  # a class; modules are found by the import system
        from methods.discover import find

        found = find(name)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from methods.discover import classes

    return sorted({*globals(), *(kind.__name__ for kind in classes())})
