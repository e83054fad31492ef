"""The one place where a configuration becomes an object."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bench.errors import UserError
from methods.errors import MethodError
from tasks.errors import TaskError

ALLOWED = ("methods", "tasks", "peft")


def build(cfg: Mapping[str, Any] | DictConfig) -> Any:
    """Instantiate ``cfg._target_``, a class of methods, tasks or (for the bridge) peft.

    Raises UserError for a foreign target or arguments that do not fit, and passes on the
    MethodError or TaskError that the constructor raises.
    """
    plain: Any = (
        OmegaConf.to_container(cfg, resolve=True)
        if isinstance(cfg, DictConfig)
        else copy.deepcopy(dict(cfg))
    )
    _refuse_foreign(plain)
    name = plain.pop("name", plain["_target_"])
    try:
        return instantiate(plain)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (MethodError, TaskError, UserError)):
            raise cause from None
        raise UserError(
            f"{name} cannot be built from its configuration: {cause or error}"
        ) from error


def _refuse_foreign(node: Any) -> None:
    """A configuration from a stranger must not run code of its choice."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_target(node["_target_"])
        for value in node.values():
            _refuse_foreign(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _refuse_foreign(value)


def _check_target(target: Any) -> None:
    """Raise UserError unless the target is a class that one of the packages itself defines.

    The name alone says little: tasks.data.os.system lies in tasks by name, too.
    """
    module, _, name = str(target).rpartition(".")
    found = None
    if module.split(".")[0] in ALLOWED:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"_target_: {target} cannot be found: {error}") from error
    if not isinstance(found, type) or found.__module__.split(".")[0] not in ALLOWED:
        raise UserError(
            f"_target_: {target} is refused: a configuration may name classes that "
            f"{', '.join(ALLOWED)} define, and nothing else."
        )
