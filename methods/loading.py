"""Put a method on a model: a new one, or one that was saved, whichever method that was."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from torch import nn

from methods.base import Method, unwrapped
from methods.errors import MethodError
from methods.files import METHOD_FILE, check_weights, read_settings

Kind = TypeVar("Kind", bound=Method)


def attach(model: nn.Module, method: Kind) -> Kind:
    """Freeze the model and inject the method, in place; returns the method.

    Raises MethodError as ``method.attach`` does, before anything is changed.
    """
    method.attach(model)
    return method


def load_adapter(model: nn.Module, folder: str | Path) -> Method:
    """Attach to ``model`` the method that saved ``folder`` and load its weights; returns it.

    Raises MethodError where the folder was not saved by Method.save, names a class that is no
    method of this package, or fits another model. The model is as it was then, unless a tuner of
    peft has been attached to it: make it anew.
    """
    method = read_method(folder)
    check_weights(folder)
    with unchanged_on_error(model):
        method.attach(model)
        method.load(model, folder)
    return method


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Where the block raises, ``model`` gets its modules, parameters and attributes back."""
    model = unwrapped(model)
    attributes, modules = set(vars(model)), dict(model.named_modules())
    parameters = [(p, p.data, p.requires_grad) for p in model.parameters()]
    try:
        yield
    except Exception:
        for name, module in modules.items():
            if name and model.get_submodule(name) is not module:
                model.set_submodule(name, module)
        for parameter, data, trains in parameters:
            parameter.data = data  # what trains beside adapters was widened
            parameter.requires_grad_(trains)
        for attribute in set(vars(model)) - attributes:
            delattr(model, attribute)
        raise


def read_method(folder: str | Path) -> Method:
    """The method that saved ``folder``, with its settings."""
    target, settings = read_settings(folder)
    try:
        return _method_class(target)(**settings)
    except TypeError as error:
        file = Path(folder) / METHOD_FILE
        raise MethodError(f"{file}: the settings do not fit {target}: {error}.") from None


def _method_class(target: str) -> type[Method]:
    """Only classes of this package: a file from a stranger must not choose what is imported."""
    module, _, name = target.rpartition(".")
    if module.startswith("methods.") and module.count(".") == 1:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, Method):
            return found
    raise MethodError(f"{target} is no method of this package: {METHOD_FILE} is refused.")
