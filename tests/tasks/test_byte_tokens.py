"""The ids that a table of bytes gives are the tokenizer's own, whatever the text."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from tasks import byte_tokens
from tasks.corpora import pydoc_topics, spread
from tasks.tokens import encode, encode_all

SPECIAL = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_12>", "<extra_id_124>"]
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CONTROL = st.text(st.characters(categories=["Cc", "Cf", "Zs"]), max_size=20)
SPELT = st.lists(st.sampled_from([*SPECIAL, *"<>/s_0 \n", "extra_id_", "é"])).map("".join)


def made() -> ByT5Tokenizer:
    """As bench/run/tokenizers.py makes it."""
    tokenizer = ByT5Tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


BYTES = made()


def own(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@given(st.one_of(ANY, CONTROL, SPELT, st.tuples(ANY, SPELT, CONTROL).map("".join)))
@settings(max_examples=150, deadline=None)
def test_ids_are_the_tokenizers_for_any_text(text: str) -> None:
    assert encode(BYTES, text) == own(BYTES, text)


@pytest.mark.parametrize(
    "text",
    ["", "\0", "a</s>", "</s> a", "<extra_id_0>", "<EXTRA_ID_0>", "< /s>", "\U0010ffff", "e\u0301"],
)
def test_ids_are_the_tokenizers_for_awkward_texts(text: str) -> None:
    assert encode(BYTES, text) == own(BYTES, text)


def test_ids_are_the_tokenizers_for_docstrings_and_help() -> None:
    texts = [inspect.getdoc(thing) or "" for thing in vars(np.linalg).values()]
    texts += [text[:2000] for _, text in spread(pydoc_topics(), 12)]
    assert sum(map(len, texts)) > 50_000
    assert any(not text.isascii() for text in texts)
    assert list(encode_all(BYTES, texts)) == [own(BYTES, text) for text in texts]


@given(st.lists(st.one_of(ANY, SPELT, st.tuples(ANY, SPELT, CONTROL).map("".join)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_corpus_is_read_as_text(texts: list[str]) -> None:
    """What spells a special token is its letters, as the tokenizer has it where it is told so."""
    wanted = [BYTES(t, add_special_tokens=False, split_special_tokens=True) for t in texts]
    assert list(encode_all(BYTES, texts)) == [row["input_ids"] for row in wanted]


def test_the_table_is_used_but_for_texts_that_spell_a_special_token() -> None:
    table = byte_tokens.table(BYTES)
    assert table is not None
    assert table.ids("Paß <s>") == own(BYTES, "Paß <s>")
    for token in SPECIAL:
        assert table.ids(f"a {token} b") is None


def test_a_lone_surrogate_is_refused_as_the_tokenizer_does() -> None:
    with pytest.raises(UnicodeEncodeError):
        own(BYTES, "a\ud800")
    with pytest.raises(UnicodeEncodeError):
        encode(BYTES, "a\ud800")


def test_a_token_added_later_counts() -> None:
    tokenizer = made()
    before = encode(tokenizer, "a cat")
    tokenizer.add_tokens(["cat"])
    assert encode(tokenizer, "a cat") == own(tokenizer, "a cat") != before


class British(ByT5Tokenizer):
    """A byte tokenizer of somebody's own, which does more to some texts."""

    def prepare_for_tokenization(self, text: str, **settings: Any) -> tuple[str, dict[str, Any]]:
        return text.replace("color", "colour"), settings


def test_a_subclass_is_asked_itself() -> None:
    tokenizer = British()
    assert byte_tokens.table(tokenizer) is None
    assert encode(tokenizer, "color") == own(BYTES, "colour")


def test_a_class_that_joins_or_strips_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another version of transformers might."""
    monkeypatch.setattr(
        ByT5Tokenizer, "prepare_for_tokenization", lambda self, text, **rest: (text.strip(), rest)
    )
    tokenizer = made()
    assert byte_tokens.table(tokenizer) is None
    assert encode(tokenizer, " a ") == own(BYTES, "a")
