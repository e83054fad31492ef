"""Single tokens of a tokenizer that can stand for things: whole words, or any ordinary tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.tokens import encode

FEWEST_WORDS = 64  # a vocabulary with fewer is one of bytes or letters
SPACES = "Ġ▁"  # how byte-level BPE and SentencePiece write a leading space


def words(tokenizer: Any) -> dict[int, str]:
    """Token id -> text of the whole words: a space, then two or more lower-case ASCII letters.

    Only those that the tokenizer gives as one token after another word. By id.
    """
    found = {
        index: f" {token[1:]}"
        for token, index in tokenizer.get_vocab().items()
        if token[:1] in SPACES and len(token) > 2 and _is_plain(token[1:])
    }
    if not found:
        return {}
    before = encode(tokenizer, "is")
    texts = [f"is{text}" for text in found.values()]
    spelt = tokenizer(texts, add_special_tokens=False)["input_ids"]
    kept = [i for i, ids in zip(found, spelt, strict=True) if list(ids) == [*before, i]]
    return {index: found[index] for index in sorted(kept)}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isalpha() and text.islower()


def ordinary(tokenizer: Any) -> list[int]:
    """Ids of all tokens that are text: none that was added, none that is special. By id."""
    others = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return sorted(set(tokenizer.get_vocab().values()) - others)


def chosen(ids: Iterable[int], role: str, count: int | None) -> list[int]:
    """`count` of the ids for a role (None: all), the same every time, common and rare ones alike.

    >>> chosen([1, 2, 3], "value", 2)
    [1, 3]
    """

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{role} {index}".encode()).digest()

    return sorted(sorted(ids, key=place)[:count])


def frame(
    tokenizer: Any, template: str, probes: dict[str, int], texts: dict[int, str]
) -> Sequence[int | str] | None:
    """The tokens of a template with its slots left open: ids, and the slots' names.

    probes: slot -> a word's id to fill it with; texts: their text. None where a word does not
    stay one token of its own in the template.
    """
    ids = encode(tokenizer, template.format(**{k: texts[i] for k, i in probes.items()}))
    slots = {index: name for name, index in probes.items()}
    if sorted(i for i in ids if i in slots) != sorted(slots):
        return None
    return [slots.get(index, index) for index in ids]
