"""Log-likelihoods of text: per-token losses of continuations, bits per byte, choosing an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from tasks.errors import TaskError
from tasks.generation import device_of, evaluating, keeps_logits, last_logits
from tasks.metrics import Metric, Scorer, When
from tasks.packing import concatenate
from tasks.tokens import bos, encode_all, split_encode

# Tokens whose logits are held at once: a vocabulary of 50,000 in fp32 makes this about 400 MB.
LOGITS_AT_ONCE = 2048

Unit = Literal["bits per byte", "perplexity"]


def continuation_losses(
    model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> list[list[float]]:
    """Nats a token of each continuation given its context (both token ids, neither empty).

    In the pairs' order; pairs of like length share a batch.
    """
    if batch_size < 1:
        raise TaskError(f"the scoring batch size is {batch_size}; it must be at least 1")
    if not all(context and continuation for context, continuation in pairs):
        raise TaskError("a text to score has an empty context or continuation")
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    results: list[list[float]] = [[] for _ in pairs]
    with evaluating(model):
        while order:
            longest = sum(map(len, pairs[order[0]]))
            size = max(1, min(batch_size, LOGITS_AT_ONCE // longest))
            chosen, order = order[:size], order[size:]
            losses = _batch_losses(model, [pairs[i] for i in chosen])
            for i, row in zip(chosen, losses, strict=True):
                results[i] = row
    return results


def _batch_losses(
    model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[list[float]]:
    """One padded pass. Padding is on the left, so all continuations end in the last column."""
    device = device_of(model)
    # The last token is a target only, never an input.
    inputs = [[*context, *continuation][:-1] for context, continuation in pairs]
    longest = max(map(len, inputs))
    scored = max(len(continuation) for _, continuation in pairs)
    padding = [longest - len(row) for row in inputs]
    ids = torch.tensor([[0] * n + row for n, row in zip(padding, inputs, strict=True)])
    mask = torch.tensor([[0] * n + [1] * (longest - n) for n in padding])
    targets = torch.tensor([[0] * (scored - len(c)) + list(c) for _, c in pairs])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        use_cache=False,
        **last_logits(model, scored),
    ).logits[:, -scored:]  # (batch, scored, vocabulary)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), targets.to(device), reduction="none"
    )
    rows = losses.tolist()
    return [row[scored - len(c) :] for row, (_, c) in zip(rows, pairs, strict=True)]


def choice_losses(
    model: Any, questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], batch_size: int
) -> list[list[list[float]]]:
    """Nats a token of each choice of each question, given its context (token ids, none empty).

    A context that is too long for its choices to share a batch is read once instead of once a
    choice. Only in fp32, where it changes the seventh digit: in bf16 it could decide near ties
    otherwise than in the records that there are.
    """
    precise = next((p.dtype for p in model.parameters()), None) == torch.float32
    precise = precise and not torch.is_autocast_enabled(device_of(model).type)
    shares = precise and keeps_logits(model)
    once = [
        shares and all(choices) and len(context) * len(choices) > LOGITS_AT_ONCE
        for context, choices in questions
    ]
    pairs = [
        (context, choice)
        for (context, choices), apart in zip(questions, once, strict=True)
        if not apart
        for choice in choices
    ]
    rest = iter(continuation_losses(model, pairs, batch_size))
    with evaluating(model):
        return [
            _branches(model, context, choices) if apart else [next(rest) for _ in choices]
            for (context, choices), apart in zip(questions, once, strict=True)
        ]


def _branches(
    model: Any, context: Sequence[int], choices: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The losses of choices whose context is read once; its keys and values serve them all."""
    device = device_of(model)
    read = model(input_ids=torch.tensor([context], device=device), use_cache=True, logits_to_keep=1)
    logits = read.logits.expand(len(choices), -1, -1)  # (choices, 1, vocabulary)
    longest = max(map(len, choices))
    # Padding on the right: no token looks ahead.
    ids = torch.tensor([[*choice, *[0] * (longest - len(choice))] for choice in choices])
    ids = ids.to(device)
    if longest > 1:
        read.past_key_values.batch_repeat_interleave(len(choices))
        positions = torch.arange(len(context), len(context) + longest - 1, device=device)
        more = model(
            input_ids=ids[:, :-1],
            position_ids=positions.expand(len(choices), -1),
            past_key_values=read.past_key_values,
            use_cache=True,
        )
        logits = torch.cat([logits, more.logits], dim=1)  # (choices, longest, vocabulary)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids, reduction="none"
    )
    return [row[: len(c)] for row, c in zip(losses.tolist(), choices, strict=True)]


def windows(tokens: Sequence[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Cuts tokens into windows whose every token is scored once, each after the one before it.

    >>> windows([1, 2, 3], prefix=0, length=2)
    [([0], [1, 2]), ([2], [3])]
    """
    before = [prefix, *tokens]
    return [
        ([before[start]], list(tokens[start : start + length]))
        for start in range(0, len(tokens), length)
    ]


class TextScorer(Scorer):
    """How well a model foretells texts it is not trained on.

    units: `bits per byte`, which does not depend on the tokenizer, or `perplexity` (per token), or
    both, from one pass. Each text is cut into windows of `window` tokens. The examples are texts;
    the value is that of all texts together, so long texts weigh more.
    when: `along` where the texts are few enough to be scored during training.
    """

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        *,
        units: Sequence[Unit] = ("bits per byte",),
        window: int = 512,
        ids: Sequence[str] | None = None,
        key: Any = None,
        when: When = "before_after",
    ) -> None:
        if not texts or not all(texts):
            raise TaskError(f"{name}: there is no text to score, or one is empty")
        self.name = name
        self.texts = list(texts)
        self.units = tuple(units)
        self.window = window
        self.ids = ids
        self.key = key
        self.when = when

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """A metric a unit: `<name>_bits_per_byte`, `<name>_perplexity`."""
        # Without BOS the first token follows EOS, as if another text had ended before this one.
        prefix = (bos(tokenizer) or [tokenizer.eos_token_id or 0])[0]
        every = encode_all(tokenizer, self.texts)
        pieces = [windows(ids, prefix, self.window) for ids in every]
        flat = [piece for text in pieces for piece in text]
        losses = iter(continuation_losses(model, flat, batch_size))
        sums, tokens = [], []
        for text in pieces:
            rows = [next(losses) for _ in text]
            sums.append(math.fsum(loss for row in rows for loss in row))
            tokens.append(sum(map(len, rows)))
        sizes = [len(text.encode("utf-8")) for text in self.texts]
        return {
            f"{self.name}_{unit.replace(' ', '_')}": self._metric(
                unit, sums, sizes if unit == "bits per byte" else tokens
            )
            for unit in self.units
        }

    def _metric(self, unit: Unit, sums: Sequence[float], counts: Sequence[int]) -> Metric:
        """Of the nats of each text and of what each is divided by."""
        examples = [_value(unit, *row) for row in zip(sums, counts, strict=True)]
        return Metric(
            value=_value(unit, math.fsum(sums), sum(counts)),
            n=len(examples),
            higher_is_better=False,
            unit=unit,
            examples=examples,
            example_ids=None if self.ids is None else list(self.ids),
        )

    def cache_key(self) -> dict[str, Any] | None:
        return (
            None
            if self.key is None
            else {"texts": self.key, "units": self.units, "window": self.window}
        )


class BlockScorer(Scorer):
    """Perplexity over blocks of texts joined by EOS and cut, without a mask between texts.

    So ReLoRA scores C4. block: tokens; of each the first foretells only. What fills no block is
    left out. The examples are blocks.
    """

    def __init__(self, name: str, texts: Sequence[str], block: int, *, key: Any = None) -> None:
        if not texts:
            raise TaskError(f"{name}: there is no text to score")
        self.name = name
        self.texts = list(texts)
        self.block = block
        self.key = key

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """One metric, `<name>_perplexity`. Raises TaskError where the texts fill no block."""
        start, end = bos(tokenizer), [tokenizer.eos_token_id or 0]
        documents = (start + ids + end for ids in encode_all(tokenizer, self.texts))
        rows = [row["input_ids"] for row in concatenate(documents, self.block)]
        if not rows:
            raise TaskError(f"{self.name}: the texts don't fill a block of {self.block} tokens")
        losses = continuation_losses(model, [(row[:1], row[1:]) for row in rows], batch_size)
        means = [math.fsum(row) / len(row) for row in losses]
        return {
            f"{self.name}_perplexity": Metric(
                value=_value("perplexity", math.fsum(means), len(means)),
                n=len(means),
                higher_is_better=False,
                unit="perplexity",
                examples=[_value("perplexity", mean, 1) for mean in means],
            )
        }

    def cache_key(self) -> dict[str, Any] | None:
        return None if self.key is None else {"texts": self.key, "block": self.block}


def _value(unit: Unit, nats: float, count: int) -> float:
    if unit == "bits per byte":
        return nats / math.log(2) / count
    return math.exp(min(nats / count, 700.0))  # past 700 a double overflows


class ChoiceScorer(Scorer):
    """Picks, for each question, the choice with the smallest loss per token.

    items: (prompt, choices, index of the right one). Chance: 1 / the number of choices.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[tuple[str, Sequence[str], int]],
        *,
        ids: Sequence[str] | None = None,
        key: Any = None,
    ) -> None:
        if not items:
            raise TaskError(f"{name}: there is no question to score")
        self.name = name
        self.items = list(items)
        self.ids = ids
        self.key = key

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """One metric, `<name>_accuracy`."""
        start = bos(tokenizer)
        questions = []
        for prompt, choices, _ in self.items:
            parts = [split_encode(tokenizer, prompt, choice) for choice in choices]
            questions.append((start + parts[0][0], [tail for _, tail in parts]))
        right = []
        losses = choice_losses(model, questions, batch_size)
        for rows, (_, _, answer) in zip(losses, self.items, strict=True):
            means = [sum(row) / len(row) for row in rows]
            right.append(float(means.index(min(means)) == answer))
        chance = math.fsum(1 / len(choices) for _, choices, _ in self.items) / len(self.items)
        return {f"{self.name}_accuracy": Metric.mean(right, chance=chance, example_ids=self.ids)}

    def cache_key(self) -> dict[str, Any] | None:
        return None if self.key is None else {"items": self.key}
