"""Turning text into token ids with nothing added unseen.

Tokenizers differ in what they add: Llama's prepends BOS, SmolLM2's adds nothing, ByT5's appends
EOS. Every task states what it wants through these functions instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from tasks import byte_tokens

TEXTS_AT_A_TIME = 1000
IGNORED = -100  # a label that carries no loss
VALUE_MASK = "value_mask"  # optional column: 1 where a token is of the value that is to be learned


def encode(tokenizer: Any, text: str) -> list[int]:
    """The text's ids alone, no special tokens."""
    table = byte_tokens.table(tokenizer)
    ids = None if table is None else table.ids(text)
    # split_special_tokens is left alone: a training text spells the EOS that ends it, and "<s>"
    # inside a data set stays what the authors fed.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if ids is None else ids


def encode_all(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text alone, as it is asked for. Of a lazy column a part is read at a time.

    A corpus is read as text: what spells a special token is no special token. WikiText-2 (v1) has
    15,218 `<unk>`, and what LLaMA-2 makes of the special one, which it has never seen, would rule
    its bits per byte.
    """
    table = byte_tokens.table(tokenizer)
    for batch in in_parts(texts):
        yield from _plain(tokenizer, batch) if table is None else map(table.plain, batch)


def in_parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, TEXTS_AT_A_TIME together: of a lazy column one by one would take long."""
    for first in range(0, len(texts), TEXTS_AT_A_TIME):
        yield list(texts[first : first + TEXTS_AT_A_TIME])


def _plain(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    told = {"add_special_tokens": False, "split_special_tokens": True}
    ids: list[list[int]] = tokenizer(texts, **told)["input_ids"]
    return ids


def bos(tokenizer: Any, add: bool | None = None) -> list[int]:
    """The ids to begin a sequence with: [BOS] or [].

    add: True or False forces it where the tokenizer has a BOS; None does what the tokenizer does
    by itself.
    """
    token = tokenizer.bos_token_id
    if token is None or add is False:
        return []
    if add is None and list(tokenizer("a")["input_ids"])[:1] != [token]:
        return []
    return [token]


def split_encode(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of prompt and answer whose concatenation spells prompt + answer.

    The whole text is tokenised, as in training recipes that know no prompt, and cut after the
    prompt. Where the tokenizer merges across the boundary (Llama 3 does with ":a"), the two parts
    are tokenised apart, so that the prompt's ids are a true prefix in any case.
    """
    head = encode(tokenizer, prompt)
    whole = encode(tokenizer, prompt + answer)
    if whole[: len(head)] == head:
        return head, whole[len(head) :]
    return head, encode(tokenizer, answer)


def segments_encode(
    tokenizer: Any, segments: Sequence[tuple[str, bool]]
) -> tuple[list[int], list[int]]:
    """input_ids and labels of a text in segments (text, whether it carries the loss).

    Tokenised as a whole and labelled by segment; where a token would straddle a seam, the segments
    are tokenised apart.
    """
    ids = encode(tokenizer, "".join(text for text, _ in segments))
    ends: list[int] = []
    prefix = ""
    for text, _ in segments:
        prefix += text
        head = encode(tokenizer, prefix)
        if ids[: len(head)] != head:
            break
        ends.append(len(head))
    if len(ends) < len(segments):
        parts = [encode(tokenizer, text) for text, _ in segments]
        ids = [token for part in parts for token in part]
        ends = list(accumulate(map(len, parts)))
    labels: list[int] = []
    for (_, learnt), start, end in zip(segments, [0, *ends], ends, strict=False):
        labels += ids[start:end] if learnt else [IGNORED] * (end - start)
    return ids, labels
