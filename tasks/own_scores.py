"""How the test split of a set of one's own is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tasks.answers import metamath_answer, same_answer
from tasks.data import text_fingerprint
from tasks.generation import greedy, positions
from tasks.likelihood import continuation_losses
from tasks.metrics import Answer, Metric, Scorer
from tasks.prompts import metamath_eval_prompt
from tasks.tokens import bos, encode, split_encode

ANSWER_TOKENS = 400  # GSM8K's task files allow 512, or lm-eval's usual 256


class AnswerScorer(Scorer):
    """Greedy answers to MetaMath's prompt, what follows "The answer is:" compared.

    items: (query, wanted answer).
    """

    def __init__(self, name: str, items: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.items = list(items)

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`<name>_exact_match`, and `<name>_extracted`: whether there was an answer at all."""
        start = bos(tokenizer)
        tokens = greedy(
            model,
            [start + encode(tokenizer, metamath_eval_prompt(query)) for query, _ in self.items],
            ANSWER_TOKENS,
            batch_size=batch_size,
            stop_ids=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
        )
        given = [metamath_answer(tokenizer.decode(ids)) for ids in tokens]
        right = [
            float(same_answer(answer, wanted))
            for answer, (_, wanted) in zip(given, self.items, strict=True)
        ]
        return {
            f"{self.name}_exact_match": Metric.mean(right),
            f"{self.name}_extracted": Metric.mean([float(a is not None) for a in given]),
        }

    def answer(self) -> Answer:
        longest = max((query for query, _ in self.items), key=len, default="")
        return Answer(metamath_eval_prompt(longest), ANSWER_TOKENS)

    def cache_key(self) -> dict[str, Any]:
        return {"items": text_fingerprint(text for item in self.items for text in item)}


class ResponseScorer(Scorer):
    """How well the last response of each conversation is foretold from what comes before it.

    talks: conversations. pair: of one, given the tokenizer's EOS, the text before and the response
    without what ends it; None: it has no response.
    """

    def __init__(
        self, name: str, talks: Sequence[Any], pair: Callable[[Any, str], tuple[str, str] | None]
    ) -> None:
        self.name = name
        self.talks = list(talks)
        self.pair = pair

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`<name>_response_perplexity`, a token, over all responses together.

        A context beyond the model's positions is cut from the left, as lm-eval does.
        """
        start = bos(tokenizer)
        room = positions(model)
        pairs = []
        for before, response in self._pairs(tokenizer.eos_token or ""):
            head, tail = split_encode(tokenizer, before, response)
            pairs.append(_fitting(start + head, tail, room))
        losses = continuation_losses(model, pairs, batch_size)
        tokens = sum(map(len, losses))
        return {
            f"{self.name}_response_perplexity": Metric(
                value=_perplexity(math.fsum(map(math.fsum, losses)) / tokens),
                n=len(losses),
                higher_is_better=False,
                unit="perplexity",
                examples=[_perplexity(math.fsum(row) / len(row)) for row in losses],
            )
        }

    def cache_key(self) -> dict[str, Any]:
        # The end of a turn counts; which mark it gets is the tokenizer's.
        return {"items": text_fingerprint(text for pair in self._pairs("</s>") for text in pair)}

    def _pairs(self, eos: str) -> list[tuple[str, str]]:
        found = (self.pair(talk, eos) for talk in self.talks)
        return [pair for pair in found if pair is not None]


def _fitting(head: list[int], tail: list[int], room: int | None) -> tuple[list[int], list[int]]:
    """Both within ``room`` inputs; the last token of the tail is a target only, never an input."""
    if room is None:
        return head, tail
    tail = tail[:room]
    return head[max(0, len(head) + len(tail) - 1 - room) :], tail


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # past 700 a double overflows
