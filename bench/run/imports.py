"""Heavy imports, without looking for garbage while they last."""

from __future__ import annotations

import gc
import importlib
import sys


def ahead(name: str) -> None:
    """Load a module that the caller imports next; nothing where it is loaded already.

    torch and transformers make half a million objects that stay. Python's collector would walk
    them a thousand times while they come in, a sixth of what the imports take: it rests meanwhile,
    and leaves them alone afterwards too.
    """
    if name in sys.modules or not gc.isenabled():
        return
    gc.collect()  # what is left now is kept for good below
    gc.disable()
    try:
        importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()
