"""The methods of this package, found and not listed: a method is one file, which nothing names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import methods


def modules() -> list[str]:
    """The names of this package's modules, its door (``__main__``) excepted."""
    return [m.name for m in pkgutil.iter_modules(methods.__path__) if m.name != "__main__"]


def classes() -> list[type[methods.Method]]:
    """The concrete methods of this package's modules."""
    found: list[type[methods.Method]] = []
    for module in modules():
        for value in vars(importlib.import_module(f"methods.{module}")).values():
            if inspect.isclass(value) and issubclass(value, methods.Method) and value not in found:
                found.append(value)
    return [kind for kind in found if not inspect.isabstract(kind)]


def find(name: str) -> Any:
    """The method class of this name, or None. LoRAPlus is looked for in lora_plus.py first."""
    for module in sorted(modules(), key=lambda m: m.replace("_", "") != name.lower()):
        value = getattr(importlib.import_module(f"methods.{module}"), name, None)
        if inspect.isclass(value) and issubclass(value, methods.Method):
            return value
    return None
