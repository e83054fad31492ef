"""Keeping secrets of the environment out of what is written."""

from __future__ import annotations

import os
import re
from typing import Any

# Environment variables that hold secrets, by name; a shorter value than that is a flag or a number.
SECRET = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)(_|$)", re.IGNORECASE)
SHORTEST = 8


def redact(value: Any) -> Any:
    """The value without any secret of this process's environment, should one have got into it."""
    secrets = [
        text for name, text in os.environ.items() if SECRET.search(name) and len(text) >= SHORTEST
    ]
    return _without(value, secrets) if secrets else value


def _without(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    return value
