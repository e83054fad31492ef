"""The ids of transformers' byte tokenizer from a table: the same ids, twenty times as fast.

ByT5's tokenizer (arXiv 2105.13626) gives each byte of a text's UTF-8 an id, whatever stands around
it, but for special tokens that are spelt out. It does so character by character in Python: a corpus
took longer to tokenise than to train on.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

# Every byte that UTF-8 has, and what other tokenizers would join, strip or rewrite.
PROBE = (
    "".join(map(chr, range(0xC0)))  # ASCII, and each byte that follows a first one
    + "".join(chr(first << 6) for first in range(0x03, 0x20))  # the first bytes of two,
    + "".join(chr(max(first << 12, 0x800)) for first in range(0x10))  # of three
    + "".join(chr(max(first << 18, 0x10000)) for first in range(5))  # and of four
    + "  the the\r\n\r\n\te\u0301 \ufb01 \ufeff "
)


class Table:
    """The ids of bytes, read from a tokenizer.

    special: the strings that the tokenizer treats apart. faithful: whether the table gives the
    tokenizer's ids for PROBE.
    """

    def __init__(self, tokenizer: Any, special: set[str]) -> None:
        self.special = special
        self._special = re.compile("|".join(map(re.escape, sorted(special))) or "(?!)")
        self._ids: list[int] = tokenizer.convert_tokens_to_ids([chr(byte) for byte in range(256)])
        probe = self._special.sub("", PROBE)
        self.faithful = self.ids(probe) == tokenizer(probe, add_special_tokens=False)["input_ids"]

    def ids(self, text: str) -> list[int] | None:
        """The text's ids alone; None: it spells a special token, so ask the tokenizer.

        Raises UnicodeEncodeError, as the tokenizer does: a lone surrogate has no bytes.
        """
        return None if self._special.search(text) else self.plain(text)

    def plain(self, text: str) -> list[int]:
        """The text's ids, of a special token that it spells too: those of its letters."""
        return [self._ids[byte] for byte in text.encode("utf-8")]


_tables: WeakKeyDictionary[Any, Table] = WeakKeyDictionary()


def table(tokenizer: Any) -> Table | None:
    """The table of a tokenizer as it is now; None: it is no byte tokenizer.

    Subclasses are of another kind: they may do more to a text.
    """
    from transformers import ByT5Tokenizer  # there already: the tokenizer is one of its own

    if type(tokenizer) is not ByT5Tokenizer:
        return None
    special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    kept = _tables.get(tokenizer)
    if kept is None or kept.special != special:  # tokens can be added at any time
        kept = _tables[tokenizer] = Table(tokenizer, special)
    return kept if kept.faithful else None
