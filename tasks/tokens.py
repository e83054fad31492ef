"""Turning text into token ids with nothing added unseen.

Tokenizers differ in what they add: Llama's prepends BOS, SmolLM2's adds nothing, ByT5's appends
EOS. Every task states what it wants through these functions instead.
"""

from __future__ import annotations

from typing import Any


def encode(tokenizer: Any, text: str) -> list[int]:
    """The text's ids alone, no special tokens."""
    # split_special_tokens is left alone: "<s>" inside a data set stays what the authors fed.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


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
