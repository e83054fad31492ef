"""Keeping secrets of the environment out of what is written."""

from __future__ import annotations

import os
import re
from typing import Any

# Environment variables that hold secrets, by name; a shorter value than that is a flag or a number.
SECRET = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET)(_|$)|PASSWORD(_|$)|PASSWD(_|$)", re.IGNORECASE
)
SHORTEST = 8
# What stands before the host of an address, as in that of a proxy: user and password.
LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redact(value: Any) -> Any:
    """The value without any secret of this process's environment, should one have got into it.

    Nor the login of an address: a message about a proxy names it whole.
    """
    secrets = {
        text for name, text in os.environ.items() if SECRET.search(name) and len(text) >= SHORTEST
    }
    # The longest first: one may begin with another.
    return _without(value, sorted(secrets, key=len, reverse=True))


def _without(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return LOGIN.sub("***", value)
    if isinstance(value, dict):
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    return value
