"""How numbers of a record are written, wherever they are shown."""

from collections.abc import Sequence


def format_rate(rate: float) -> str:
    """A learning rate in few characters.

    >>> format_rate(0.0003)
    '3e-4'
    """
    mantissa, exponent = f"{rate:.3e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def file_name(words: str) -> str:
    """Letters, digits, "-" and "_" as they are; all else becomes "_"."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in words)


def free_name(words: str, taken: Sequence[str]) -> str:
    """The beginning of file names that no other has; a number follows where words are the same."""
    name = file_name(words)
    alike = sum(other.startswith(name) for other in taken)
    return f"{name}-{alike + 1}-" if alike else f"{name}-"
