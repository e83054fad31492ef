"""Checks of single values: each takes a value and the name of its field, and raises Mismatch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]


class Mismatch(ValueError):
    """A field that is not as the table of fields has it; the caller adds the name of the file."""


def kind(type_: type | tuple[type, ...], words: str) -> Check:
    """A value of the type; true and false are no numbers."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
            field = f"field {name}" if name else "the record"
            raise Mismatch(f"{field} is {short(value)}; expected {words}")

    return check


def number(value: Any, name: str) -> None:
    """A finite whole or floating-point number; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Mismatch(f"field {name} is {short(value)}; expected a finite number")


def or_null(check: Check) -> Check:
    """A value that passes ``check``, or null."""

    def checked(value: Any, name: str) -> None:
        if value is not None:
            check(value, name)

    return checked


def one_of(*allowed: Any) -> Check:
    """One of the allowed values; true and false never are."""

    def check(value: Any, name: str) -> None:
        if value not in allowed or isinstance(value, bool):
            words = " or ".join(map(repr, allowed))
            raise Mismatch(f"field {name} is {short(value)}; expected {words}")

    return check


def list_of(check: Check) -> Check:
    """A list whose items all pass ``check``."""

    def checked(value: Any, name: str) -> None:
        kind(list, "a list")(value, name)
        for i, item in enumerate(value):
            check(item, f"{name}[{i}]")

    return checked


def numbers(value: Any, name: str) -> None:
    """A list of numbers; as list_of(number), fast enough for the spectra of hundreds of layers."""
    kind(list, "a list of numbers")(value, name)
    try:
        if all(map(math.isfinite, value)):
            return
    except (TypeError, OverflowError):
        pass
    list_of(number)(value, name)


def table_of(check: Check) -> Check:
    """An object whose keys are free and whose values are alike."""

    def checked(value: Any, name: str) -> None:
        mapping(value, name)
        for key, item in value.items():
            check(item, f"{name}.{key}")

    return checked


def fields(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object that has all of `needed`; more keys than those are welcome."""

    def checked(value: Any, name: str) -> None:
        mapping(value, name)
        prefix = f"{name}." if name else ""
        for key, check in needed.items():
            if key not in value:
                raise Mismatch(f"field {prefix}{key} is missing")
            check(value[key], f"{prefix}{key}")
        for key, check in (optional or {}).items():
            if key in value:
                check(value[key], f"{prefix}{key}")

    return checked


def points(value: Any, name: str) -> None:
    """Points of a curve: a step and numbers (or null: not measured, or not finite)."""
    kind(list, "a list")(value, name)
    for i, point in enumerate(value):
        mapping(point, f"{name}[{i}]")
        integer(point.get("step"), f"{name}[{i}].step")
        for key, item in point.items():
            if type(item) is float and math.isfinite(item):
                continue
            if key == "metrics":
                table_of(or_null(number))(item, f"{name}[{i}].{key}")
            elif item is not None:
                number(item, f"{name}[{i}].{key}")


mapping = kind(dict, "an object")
text = kind(str, "text")
integer = kind(int, "a whole number")
flag = kind(bool, "true or false")


def short(value: Any) -> str:
    """The value for a message, not too long."""
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def unwritable(value: Any, name: str = "") -> str:
    """Names the first field that JSON has no form for; empty where there is none."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"key {key!r} of {name or 'the top level'} is not text"
            if found := unwritable(item, f"{name}.{key}" if name else key):
                return found
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if found := unwritable(item, f"{name}[{i}]"):
                return found
    elif isinstance(value, float) and not math.isfinite(value):
        return f"field {name} is {value}; numbers in a record are finite or null"
    elif value is not None and not isinstance(value, (str, int, float)):
        return f"field {name} is a {type(value).__name__}, which JSON has no form for"
    return ""
