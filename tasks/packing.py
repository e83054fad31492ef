"""Packing documents into blocks of one length.

Every row of the result is exactly one block long. With `mask: documents` no document sees another:
`position_ids` restart at 0 with each; from them transformers (>= 5) derives the block-diagonal
mask, provided that the model gets no attention mask and no cache (`use_cache=False`). So a collator
must not add a mask to such rows. The first token of a document carries no label: nothing of its own
document foretells it. With `mask: none` documents are joined by EOS and cut, and every token sees
all that stands before it in its block, as in ReLoRA's and AdaptLLM's training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from tasks.data import text_fingerprint
from tasks.errors import TaskError
from tasks.tokens import IGNORED, TEXTS_AT_A_TIME, bos, encode, encode_all

if TYPE_CHECKING:
    import datasets

LARGE_CORPUS = 100_000  # documents
MASKS = ("documents", "none")


def pack(documents: Iterable[Sequence[int]], block: int, pad: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of input_ids, labels, position_ids (each `block` long) from token id documents.

    A document that a block can't hold goes on in the next block, as if a new document. Only the
    last block is padded; its padding is a document of its own without labels.

    >>> [row["input_ids"] for row in pack([[1, 2, 3], [4, 5, 6]], 4)]
    [[1, 2, 3, 4], [5, 6, 0, 0]]
    """
    if block < 2:
        raise TaskError(f"a block of {block} tokens holds nothing to predict; take at least 2")
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}

    def add(ids: Sequence[int], labels: Sequence[int]) -> None:
        row["input_ids"] += ids
        row["labels"] += labels
        row["position_ids"] += range(len(ids))

    for document in documents:
        ids = list(document)
        while ids:
            piece = ids[: block - len(row["input_ids"])]
            ids = ids[len(piece) :]
            add(piece, [IGNORED, *piece[1:]])
            if len(row["input_ids"]) == block:
                yield row
                row = {"input_ids": [], "labels": [], "position_ids": []}
    if row["input_ids"]:
        rest = block - len(row["input_ids"])
        add([pad] * rest, [IGNORED] * rest)
        if any(label != IGNORED for label in row["labels"]):
            yield row


def concatenate(documents: Iterable[Sequence[int]], block: int) -> Iterator[dict[str, Any]]:
    """Rows as `pack` gives them, of one stream of tokens: no mask, no padding, the rest dropped.

    >>> [row["input_ids"] for row in concatenate([[1, 2, 3], [4, 5]], 2)]
    [[1, 2], [3, 4]]
    """
    if block < 2:
        raise TaskError(f"a block of {block} tokens holds nothing to predict; take at least 2")
    kept: list[int] = []
    for document in documents:
        kept += document
        whole = len(kept) - len(kept) % block
        for start in range(0, whole, block):
            ids = kept[start : start + block]
            yield {
                "input_ids": ids,
                "labels": [IGNORED, *ids[1:]],
                "position_ids": list(range(block)),
            }
        kept = kept[whole:]


def packed_dataset(
    texts: Sequence[str],
    tokenizer: Any,
    block: int,
    *,
    add_bos: bool | None = None,
    max_blocks: int | None = None,
    mask: str = "documents",
) -> datasets.Dataset:
    """All texts tokenised and packed. max_blocks: stop there.

    mask: `documents` or `none`; see the module.

    A large corpus (pass the lazy column of a Dataset) is kept on disk in the datasets cache, not
    in memory.
    """
    import pyarrow
    from datasets import Dataset, Features, List, Value

    start = bos(tokenizer, add_bos)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def documents() -> Iterator[list[int]]:
        for ids in encode_all(tokenizer, texts):
            yield start + ids + end

    def rows() -> Iterator[dict[str, Any]]:
        if mask == "none":
            return islice(concatenate(documents(), block), max_blocks)
        return islice(pack(documents(), block, tokenizer.pad_token_id or 0), max_blocks)

    features = Features(
        dict.fromkeys(("input_ids", "labels", "position_ids"), List(Value("int32")))
    )
    if len(texts) > LARGE_CORPUS:
        return Dataset.from_generator(
            rows,
            features=features,
            fingerprint=text_fingerprint(
                [
                    *texts[:TEXTS_AT_A_TIME],
                    *texts[-TEXTS_AT_A_TIME:],
                    *map(str, (len(texts), encode(tokenizer, texts[0]), start, end)),
                    *map(str, (block, max_blocks, mask)),
                ]
            ),
        )
    kept = list(rows())
    if not kept:
        few = (
            "the corpus is empty"
            if not texts
            else f"its texts don't fill a block of {block} tokens"
        )
        raise TaskError(f"there is no text to pack: {few}")
    # from_list would take twice as long over the same table.
    columns = {
        field.name: pyarrow.array([row[field.name] for row in kept], field.type)
        for field in features.arrow_schema
    }
    return Dataset.from_dict(columns, features=features)
