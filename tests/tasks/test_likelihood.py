"""Losses of continuations equal the plain computation, whatever the padding and the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tasks import TaskError, likelihood
from tasks.likelihood import (
    BlockScorer,
    ChoiceScorer,
    TextScorer,
    choice_losses,
    continuation_losses,
    windows,
)
from tests.tasks.toys import Prefers

PAIRS = [([10], [20, 30]), ([1, 2, 3, 4, 5], [6]), ([9, 8], [7, 6, 5, 4]), ([40], [50])]


def plain(model: Any, context: list[int], continuation: list[int]) -> list[float]:
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    start = len(context)
    return [-float(logs[start + i - 1, t]) for i, t in enumerate(continuation)]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_losses_equal_one_plain_pass_a_pair(tiny: Any, batch_size: int) -> None:
    got = continuation_losses(tiny, PAIRS, batch_size)
    for row, pair in zip(got, PAIRS, strict=True):
        assert row == pytest.approx(plain(tiny, *pair), rel=1e-5, abs=1e-5)


def test_every_token_is_scored_once() -> None:
    tokens = list(range(1, 12))
    cut = windows(tokens, prefix=0, length=4)
    assert [t for _, window in cut for t in window] == tokens
    assert [context for context, _ in cut] == [[0], [4], [8]]


def test_bits_per_byte_of_a_text(tiny: Any, tokenizer: Any) -> None:
    text = "Paß"  # four bytes, four tokens
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    nats = sum(plain(tiny, [tokenizer.eos_token_id], ids))
    metric = TextScorer("t", [text, text]).score(tiny, tokenizer, 4)["t_bits_per_byte"]
    assert metric.value == pytest.approx(nats / math.log(2) / 4, rel=1e-5)
    assert metric.examples == pytest.approx([metric.value] * 2)
    assert not metric.higher_is_better


def with_unknown() -> Any:
    """LLaMA-2's kind of tokenizer: `<unk>` is a special token of it."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", *"ab <unk>"])}
    model = Tokenizer(BPE(vocabulary, [], unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")


def test_a_text_that_spells_a_special_token_is_scored_as_text(tiny: Any) -> None:
    tokenizer, text = with_unknown(), "a <unk> b"
    assert tokenizer.unk_token_id in tokenizer(text)["input_ids"]
    ids = tokenizer.convert_tokens_to_ids(list(text))
    assert tokenizer.unk_token_id not in ids
    metric = TextScorer("t", [text]).score(tiny, tokenizer, 4)["t_bits_per_byte"]
    assert metric.value == pytest.approx(sum(plain(tiny, [0], ids)) / math.log(2) / 9, rel=1e-5)


def test_perplexity_of_texts_is_per_token_over_all(tiny: Any, tokenizer: Any) -> None:
    texts = ["one", "another text"]
    metric = TextScorer("t", texts, units=("perplexity",)).score(tiny, tokenizer, 4)["t_perplexity"]
    nats = [math.log(v) * len(t) for v, t in zip(metric.examples or [], texts, strict=True)]
    assert metric.value == pytest.approx(math.exp(sum(nats) / sum(map(len, texts))), rel=1e-6)


def test_perplexity_of_blocks_is_that_of_the_joined_text(tiny: Any, tokenizer: Any) -> None:
    """EOS between; the first token of a block is not scored; what fills no block is left out."""
    metric = BlockScorer("t", ["abc", "defg", "h"], 4).score(tiny, tokenizer, 2)["t_perplexity"]
    end = tokenizer.eos_token_id
    letters = {c: tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "abcdefgh"}
    stream = [letters.get(c, end) for c in "abc|defg|h|"]
    blocks = [stream[:4], stream[4:8]]
    losses = [plain(tiny, block[:1], block[1:]) for block in blocks]
    assert metric.value == pytest.approx(math.exp(sum(map(sum, losses)) / 6), rel=1e-5)
    assert metric.examples == pytest.approx([math.exp(sum(row) / 3) for row in losses], rel=1e-5)
    with pytest.raises(TaskError, match="don't fill a block of 40 tokens"):
        BlockScorer("t", ["abc"], 40).score(tiny, tokenizer, 2)


class Uniform(torch.nn.Module):
    """Every token has the same probability."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return type("Out", (), {"logits": torch.zeros(*input_ids.shape, 384)})()


def test_a_uniform_model_needs_log2_of_the_vocabulary(tokenizer: Any) -> None:
    metric = TextScorer("t", ["abc"]).score(Uniform(), tokenizer, 1)["t_bits_per_byte"]
    assert metric.value == pytest.approx(math.log2(384))


ITEMS = [("q:", ["a", "b"], 0), ("q:", ["b", "a", "ccc"], 1), ("q:", ["b", "c"], 0)]


def test_choices_right_and_wrong_and_chance(tokenizer: Any) -> None:
    token = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    metric = ChoiceScorer("c", ITEMS).score(Prefers(token), tokenizer, 2)["c_accuracy"]
    assert metric.examples == [1.0, 1.0, 1.0]  # the last is a tie, which the first choice wins
    assert metric.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    wrong = tokenizer("c", add_special_tokens=False)["input_ids"][0]
    metric = ChoiceScorer("c", ITEMS).score(Prefers(wrong), tokenizer, 2)["c_accuracy"]
    assert metric.examples == [1.0, 0.0, 0.0]


QUESTIONS = [
    (list(range(5, 25)), [[7], [8, 9, 10], [30, 31]]),
    ([3, 4], [[5, 6], [7]]),  # so short that its choices share a batch
    (list(range(40, 70)), [[2], [9]]),  # nothing to read after the context
]


def test_choices_after_a_long_context_have_the_losses_of_plain_passes(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 30)
    read: list[int] = []
    tiny.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    got = choice_losses(tiny, QUESTIONS, 8)
    assert sum(read) == (20 + 3 * 2) + 2 * 3 + 30  # each long context once
    for rows, (context, choices) in zip(got, QUESTIONS, strict=True):
        for row, choice in zip(rows, choices, strict=True):
            assert row == pytest.approx(plain(tiny, context, choice), rel=1e-5, abs=1e-5)


def test_choices_in_bf16_are_read_as_ever(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 30)
    pairs = [(context, choice) for context, choices in QUESTIONS for choice in choices]
    for model, autocast in ((tiny, True), (tiny.to(torch.bfloat16), False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rows = [row for rows in choice_losses(model, QUESTIONS, 8) for row in rows]
            assert rows == continuation_losses(model, pairs, 8)


def test_refuses_what_cannot_be_scored(tiny: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="empty context or continuation"):
        continuation_losses(tiny, [([], [1])], 1)
    with pytest.raises(TaskError, match="empty context or continuation"):
        choice_losses(tiny, [([1] * 2048, [[1], []])], 1)
    with pytest.raises(TaskError, match="batch size is 0"):
        continuation_losses(tiny, PAIRS, 0)
    with pytest.raises(TaskError, match="no text to score"):
        TextScorer("t", [])
    with pytest.raises(TaskError, match="no question to score"):
        ChoiceScorer("t", [])
