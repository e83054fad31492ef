"""Packing documents into blocks of one length.

Every row of the result is exactly one block long. With `mask: documents` no document sees another:
`position_ids` restart at 0 with each; from them transformers (>= 5) derives the block-diagonal
mask, provided that the model gets no attention mask and no cache (`use_cache=False`). So a collator
must not add a mask to such rows. The first token of a document carries no label: nothing of its own
document foretells it. With `mask: none` documents are joined by EOS and cut, and every token sees
all that stands before it in its block, as in ReLoRA's and AdaptLLM's training.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from tasks import byte_tokens, tokens
from tasks.data import text_fingerprint
from tasks.errors import TaskError
from tasks.mixing import Mixed
from tasks.tokens import IGNORED, bos, encode_all, in_parts

if TYPE_CHECKING:
    import datasets

LARGE = 100_000  # documents or examples; of more, the tokens are kept on disk
ROWS_AT_A_TIME = 100  # held as Python's integers, of 32 bytes and more, and not Arrow's of 4
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
    from datasets import Features, List, Value

    start = bos(tokenizer, add_bos)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def documents() -> Iterator[list[int]]:
        for ids in encode_all(tokenizer, texts):
            yield start + ids + end

    def rows() -> Iterator[dict[str, Any]]:
        if mask == "none":
            return islice(concatenate(documents(), block), max_blocks)
        return islice(pack(documents(), block, tokenizer.pad_token_id or 0), max_blocks)

    def key() -> Iterator[str]:
        if isinstance(texts, Mixed):
            yield from texts.key()
        else:
            yield from chain.from_iterable(in_parts(texts))
        yield from map(str, (len(texts), start, end, block, max_blocks, mask))

    features = Features(
        dict.fromkeys(("input_ids", "labels", "position_ids"), List(Value("int32")))
    )
    data = table(rows, features, len(texts), tokenizer, key)
    if not len(data):
        few = (
            "the corpus is empty"
            if not texts
            else f"its texts don't fill a block of {block} tokens"
        )
        raise TaskError(f"there is no text to pack: {few}")
    return data


def table(
    rows: Callable[[], Iterator[Mapping[str, Any]]],
    features: datasets.Features,
    count: int,
    tokenizer: Any,
    key: Callable[[], Iterable[str]],
) -> datasets.Dataset:
    """The rows as a Dataset. count: of the documents or examples that they are made of.

    More than LARGE of these are kept in the datasets cache: the first process to ask writes the
    file, those that ask meanwhile wait at its lock, later ones read it, and none holds it in
    memory. key: what determines the rows, beside the tokenizer and the code.
    """
    import pyarrow
    import tokenizers
    from datasets import Dataset, DatasetInfo
    from datasets.fingerprint import Hasher

    code = (tokens, byte_tokens, sys.modules[__name__], sys.modules[rows.__module__])
    versions = [tokenizers.__version__, *map(inspect.getsource, code)]
    fingerprint = text_fingerprint([Hasher.hash(tokenizer), *versions, *key()])
    if count > LARGE and any(True for _ in rows()):  # a file without rows can't be read
        return Dataset.from_generator(rows, features=features, fingerprint=fingerprint)
    schema, made, parts = features.arrow_schema, rows(), []
    while part := list(islice(made, ROWS_AT_A_TIME)):
        # Column by column: of whole rows pyarrow would take twice as long.
        arrays = [pyarrow.array([row[f.name] for row in part], f.type) for f in schema]
        parts.append(pyarrow.record_batch(arrays, schema=schema))
    held = pyarrow.Table.from_batches(parts, schema)
    # Without a fingerprint given it would be hashed from copies of the whole table.
    return Dataset(held, DatasetInfo(features=features), fingerprint=fingerprint)
