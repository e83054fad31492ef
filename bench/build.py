"""The one place where a configuration becomes an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bench.errors import UserError

ALLOWED = ("methods.", "tasks.", "peft.")


def build(cfg: DictConfig) -> Any:
    """Instantiate ``cfg._target_``, which must lie in methods., tasks. or (for the bridge) peft.

    Raises UserError for a foreign target or arguments that do not fit, and passes on the
    MethodError or TaskError that the constructor raises.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    _refuse_foreign(plain)
    name = plain.pop("name", plain["_target_"])
    try:
        return instantiate(plain)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise cause from None
        raise UserError(
            f"{name} cannot be built from its configuration: {cause or error}"
        ) from error


def _refuse_foreign(node: Any) -> None:
    """A configuration from a stranger must not run code of its choice."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not str(target).startswith(ALLOWED):
            raise UserError(
                f"_target_: {target} is refused: a configuration may name classes of "
                f"{', '.join(prefix.rstrip('.') for prefix in ALLOWED)} only."
            )
        for value in node.values():
            _refuse_foreign(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _refuse_foreign(value)
