"""The files of a saved adapter: written at once or not at all, compared before they are loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from methods.errors import MethodError

# The second file holds the method's class and settings; see load_adapter. Where peft can read the
# weights, its own configuration lies beside them (methods/peft_format.py).
ADAPTER_FILE, METHOD_FILE = "adapter_model.safetensors", "method.json"
CONFIG_FILE = "adapter_config.json"


def write_together(folder: str | Path, writers: Mapping[str, Callable[[Path], Any]]) -> None:
    """Write the files ``{name: writer(path)}`` under temporary names, then rename them all.

    A failure while writing leaves the folder as it was: no file is ever half written. The files of
    an adapter that was saved there before, and that are not among these, are removed last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in writers}
    try:
        for name, write in writers.items():
            write(parts[name])
        for name, part in parts.items():
            part.replace(folder / name)
        for name in {ADAPTER_FILE, METHOD_FILE, CONFIG_FILE} - writers.keys():
            (folder / name).unlink(missing_ok=True)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def as_json(content: Any) -> Callable[[Path], Any]:
    """A writer of ``content`` for write_together."""
    return lambda path: path.write_text(json.dumps(content, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises MethodError for anything else."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise MethodError(f"{file} cannot be read ({type(error).__name__}: {error}).") from None
    if not isinstance(content, dict):
        raise MethodError(f"{file} holds no JSON object.")
    return content


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The saved tensors. Raises MethodError where there are none, or where they cannot be read."""
    check_weights(folder)
    return load_file(Path(folder) / ADAPTER_FILE)


def check_weights(folder: str | Path) -> None:
    """Raise MethodError where ``folder`` holds no saved tensors, or only a part of their file."""
    file = Path(folder) / ADAPTER_FILE
    if not file.is_file():
        raise MethodError(f"{file} does not exist: {folder} holds no saved adapter.")
    try:
        with safe_open(file, framework="pt"):
            pass  # the head of the file says how long it must be
    except (SafetensorError, OSError) as error:
        raise MethodError(
            f"{file} cannot be read ({type(error).__name__}: {error}): it is cut off or no file of "
            f"safetensors. Save the adapter again, or copy the whole file."
        ) from None


def read_settings(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """(class, settings) of the method that saved ``folder``, from method.json.

    Raises MethodError where the file is missing or of another form.
    """
    file = Path(folder) / METHOD_FILE
    try:
        content = json.loads(file.read_text())
        return str(content["method"]), dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MethodError(
            f"{file} cannot be read ({type(error).__name__}: {error}): the folder was not written "
            f"by Method.save, and what its weights mean is not known. A folder that peft wrote is "
            f"read by attaching LoRA or DoRA with the same settings and calling its load."
        ) from None


def refuse_difference(where: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise MethodError for the first of the ``own`` settings that was saved with another value."""
    for key, value in own.items():
        if key not in saved:
            raise MethodError(
                f"{where}: the saved adapter has no setting {key} (here {key}={value!r}): it is of "
                f"another method. Attach that one, or use methods.load_adapter on a plain model."
            )
        if saved[key] != value:
            raise MethodError(
                f"{where}: the adapter was saved with {key}={saved[key]!r}, this method has "
                f"{key}={value!r}, so that its weights would mean another delta W. Attach the "
                f"method with {key}={saved[key]!r}, or use methods.load_adapter on a plain model."
            )


def check_fit(parameter: Tensor, value: Tensor | None, name: str) -> Tensor:
    """``value``, a saved tensor in the shape of ``parameter``; MethodError for anything else."""
    if value is None:
        raise MethodError(f"the saved adapter has no {name}: it belongs to another configuration.")
    if value.shape != parameter.shape:
        raise MethodError(
            f"the saved {name} has shape {tuple(value.shape)}, the model's is "
            f"{tuple(parameter.shape)}: it belongs to another rank or model."
        )
    return value


def refuse_leftovers(names: Iterable[str]) -> None:
    """Raise MethodError where saved tensors are left that no layer has asked for."""
    names = list(names)
    if names:
        raise MethodError(
            f"the saved adapter holds {len(names)} tensors that this method does not know, such as "
            f"{names[0]}: it belongs to another method or configuration."
        )
