"""Tokenizers by name, with a pad token; what each puts around a text is asserted and recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from bench.errors import UserError
from bench.run import hub

BYTES = "bytes"  # ByT5's tokenizer, built in
TEXT = "a"  # a token of its own in every tokenizer that we know


def of_model(settings: Mapping[str, Any], folder: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer that the settings of a model name, else the one in its folder.

    Raises UserError, also where it is not as `expects` says.
    """
    if settings.get("tokenizer"):
        tokenizer = _named(settings)
    else:
        assert folder is not None
        tokenizer = _read(folder)
    check(settings, tokenizer)
    return tokenizer


def _named(settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    if settings["tokenizer"] != BYTES:
        revision = settings.get("tokenizer_revision")
        folder, _ = hub.fetch(settings["tokenizer"], revision, weights=False)
        return _read(folder)
    # Pad 0, end 1. ByT5 knows no beginning; its end serves, as GPT-2's does.
    tokenizer = ByT5Tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def _read(folder: Path) -> PreTrainedTokenizerBase:
    with readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    if tokenizer.pad_token is None:
        # LLaMA has none. What is padded carries no loss and no attention, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn what transformers raises inside into one UserError that names the folder."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"can't read the model in {folder}: {hub.one_line(error)}") from error


def around(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The ids that it puts before and after a text by itself, and the one it pads with."""
    bare = list(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(TEXT)["input_ids"])
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return {
        "before": full[:start],
        "after": full[start + len(bare) :],
        "pad_id": tokenizer.pad_token_id,
    }


def check(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where what it puts around a text is not what `expects` of the model says.

    A tokenizer without its BOS would train and score without it, and nothing would show.
    """
    found, name = around(tokenizer), settings["name"]
    for key, wanted in (settings.get("expects") or {}).items():
        if key not in found:
            raise UserError(f"model.expects.{key} is unknown; choose {', '.join(found)}.")
        if found[key] != wanted:
            words = {"before": "puts {} before a text", "after": "puts {} after a text"}
            says = words.get(key, "pads with {}")
            raise UserError(
                f"the tokenizer of {name} {says.format(found[key])}, and conf/model expects "
                f"{wanted}: it is another one, or was saved with other settings (add_bos_token). "
                f"Restore it, or say model.expects.{key}={json.dumps(found[key])} to train and "
                "score with it as it is."
            )


def check_vocabulary(
    settings: Mapping[str, Any], size: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise UserError where the model has fewer embeddings than the tokenizer has entries."""
    if len(tokenizer) > size:
        raise UserError(
            f"model {settings['name']}: vocab_size={size} is below the {len(tokenizer)} entries of "
            f"its tokenizer {settings['tokenizer']}."
        )


def card(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """For the record: source, vocabulary, bos, eos, pad, and what it puts around a text."""
    return {
        "source": settings.get("tokenizer") or settings["source"],
        "revision": hub.commit(Path(tokenizer.name_or_path)),
        "vocabulary": len(tokenizer),
        "bos": tokenizer.bos_token,
        "eos": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
        **around(tokenizer),
    }


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that makes a tokenizer's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = None if backend is None else json.loads(backend.to_str())
    for passing in ("padding", "truncation"):  # of the last call
        if rules is not None:
            rules.pop(passing, None)
    vocabulary: Callable[[], Any] = tokenizer.get_vocab
    special = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
    what = [type(tokenizer).__name__, special, around(tokenizer), rules or vocabulary()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
