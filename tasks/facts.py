"""Random facts, to measure in bits how much a training run can store.

A fact is (entity, attribute) -> value, drawn at random, its value one token out of V, so that it
holds log2 V bits and nothing but memory can foretell it. The measure is that of Morris et al.
(arXiv 2505.24832): bits stored = sum over facts of log2 V - NLL2(value | key), whose largest total
over the number of facts is the capacity.

`form: tokens` is the bare sequence entity, attribute, value; `form: text` a short English sentence
for pretrained models that know words. The loss is on the value alone.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import Tensor

from tasks.base import Metric, Scorer, Shared, Task
from tasks.checks import limit, whole
from tasks.errors import TaskError
from tasks.generation import device_of, evaluating, last_logits
from tasks.likelihood import LOGITS_AT_ONCE
from tasks.temperature import fitted_inverse, tempered_losses
from tasks.tokens import IGNORED, bos
from tasks.vocabulary import FEWEST_WORDS, chosen, frame, ordinary, words

if TYPE_CHECKING:
    import datasets

MAX_FACTS = 4_000_000  # the largest table published has 3.2 million
MAX_TOKENS = 1_000_000  # no vocabulary is larger
MAX_KEY_TOKENS = 4
ENTITIES, ATTRIBUTES = 4000, 800  # of the published tables; where the vocabulary has as many
TEMPLATE = "The{attribute} of{entity} is{value}"
KEPT_LOGITS = 2**28  # numbers held at once for the temperature: 1 GB in fp32
DIGITS = 4  # of a fact's loss in the record

Form = Literal["tokens", "text"]


def draw(facts: int, keys: int, values: int, seed: int) -> tuple[list[int], list[int]]:
    """`facts` different keys below `keys`, and for each a value below `values`, uniform.

    Raises TaskError where there are more facts than keys.
    """
    if facts > keys:
        raise TaskError(
            f"task.facts is {facts:,}, but there are {keys:,} keys: take 1 to {keys:,}, or more "
            "keys (task.entities, task.attributes; task.key_tokens makes entities of several "
            "tokens)"
        )
    rng = random.Random(seed)
    return rng.sample(range(keys), facts), rng.choices(range(values), k=facts)


class FactsScorer(Scorer):
    """Bits stored, raw, after one temperature, and by right answers.

    rows: the table of a tokenizer, (facts, tokens), whose last column is the value; values: V.
    """

    name = "facts"
    when = "along"

    def __init__(
        self, rows: Callable[[Any], Tensor], values: int, key: dict[str, Any] | None = None
    ) -> None:
        self.rows = rows
        self.values = values
        self.key = key

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`bits`, `bits_tempered`, `bits_recalled`, `accuracy` and `nll` (nats a fact).

        All over the model's full softmax. `bits` may be negative: worse than a guess among the
        values. `bits_tempered` is the same with all logits divided by the one temperature that
        makes it largest. `bits_recalled` is log2 V for each right answer, and accuracy the share
        of those, right being the largest logit of the whole vocabulary. Facts are in the table's
        order; their losses are kept to four digits.
        """
        if batch_size < 1:
            raise TaskError(f"the scoring batch size is {batch_size}; it must be at least 1")
        rows = self.rows(tokenizer)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            return value_logits(model, rows, batch_size)

        kept: list[tuple[Tensor, Tensor]] = []
        losses: list[float] = []
        right = 0
        for logits, answers in batches():
            losses += tempered_losses(logits, answers, 1.0).tolist()
            right += int((logits.argmax(-1) == answers).sum())
            if len(rows) * logits.shape[-1] <= KEPT_LOGITS:
                kept.append((logits, answers))
        # Logits too many to keep are computed anew at each step of the search.
        inverse = fitted_inverse(lambda: kept or batches())
        tempered = [
            loss
            for logits, answers in kept or batches()
            for loss in tempered_losses(logits, answers, inverse).tolist()
        ]
        return self._metrics(losses, tempered, right)

    def _metrics(
        self, losses: Sequence[float], tempered: Sequence[float], right: int
    ) -> dict[str, Metric]:
        count, each = len(losses), math.log2(self.values)

        def bits(nats: Sequence[float]) -> float:
            return count * each - math.fsum(nats) / math.log(2)

        def metric(value: float, chance: float) -> Metric:
            return Metric(value, count, higher_is_better=True, unit="bits", chance=chance)

        return {
            "bits": metric(bits(losses), 0.0),
            "bits_tempered": metric(max(bits(tempered), bits(losses)), 0.0),
            "bits_recalled": metric(right * each, count * each / self.values),
            "accuracy": Metric(right / count, count, higher_is_better=True, chance=1 / self.values),
            "nll": Metric(
                math.fsum(losses) / count,
                count,
                higher_is_better=False,
                unit="nats",
                chance=math.log(self.values),
                examples=[float(f"{loss:.{DIGITS}g}") for loss in losses],
            ),
        }

    def cache_key(self) -> dict[str, Any] | None:
        return self.key


def value_logits(model: Any, rows: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (n, vocabulary) at the last position of each row, and the last column (n,).

    The rows are short and of one length, so a pass takes more of them than `batch_size`, up to
    LOGITS_AT_ONCE tokens.
    """
    device = device_of(model)
    extra = last_logits(model, 1)
    size = max(batch_size, LOGITS_AT_ONCE // rows.shape[1])
    for part in rows.split(size):
        ids = part.to(device)
        with evaluating(model):
            output = model(input_ids=ids[:, :-1], use_cache=False, **extra)
        yield output.logits[:, -1].contiguous(), ids[:, -1]


class FactsTask(Task):
    """D random facts from a seed; which tokens stand for what does not depend on the seed.

    facts: D; values: V, how many values there are to choose from.
    entities, attributes: how many of each; a key is a pair of them. None: 4,000 and 800, or what
    the vocabulary has.
    key_tokens: tokens of an entity; with 2, a vocabulary of bytes has 65,536 entities.
    form: `tokens` (entity, attribute, value) or `text` (a sentence; needs whole words).
    add_bos: None does what the tokenizer does by itself; True or False forces it.

    All tokens are whole words where the tokenizer has them, else any ordinary tokens (bytes).
    """

    def __init__(
        self,
        facts: int = 1024,
        values: int = 256,
        entities: int | None = None,
        attributes: int | None = None,
        key_tokens: int = 1,
        form: Form = "tokens",
        add_bos: bool | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        whole("task.facts", facts, 1, MAX_FACTS)
        whole("task.values", values, 2, MAX_TOKENS)
        whole("task.key_tokens", key_tokens, 1, MAX_KEY_TOKENS)
        limit("task.entities", entities, MAX_TOKENS**key_tokens)
        limit("task.attributes", attributes, MAX_TOKENS)
        if form not in ("tokens", "text"):
            raise TaskError(f"task.form is {form!r}; it must be 'tokens' or 'text'")
        if entities is not None and attributes is not None and facts > entities * attributes:
            draw(facts, entities * attributes, values, self.seed)  # raises
        self.name, self.label = NAMES[form]
        self.facts, self.values = facts, values
        self.entities, self.attributes = entities, attributes
        self.key_tokens, self.form, self.add_bos = key_tokens, form, add_bos
        self._table: tuple[Any, Tensor] | None = None

    def rows(self, tokenizer: Any) -> Tensor:
        """The table in a tokenizer's ids (facts, tokens): BOS, key, value in the last column.

        Raises TaskError where the vocabulary is too small for what is asked.
        """
        if self._table is None or self._table[0] is not tokenizer:
            self._table = tokenizer, self._drawn(tokenizer)
        return self._table[1]

    def _drawn(self, tokenizer: Any) -> Tensor:
        texts = words(tokenizer)
        if len(texts) < FEWEST_WORDS and self.form == "text":
            raise TaskError(
                f"task.form=text needs whole words, and this tokenizer has {len(texts)} of them; "
                "take task.form=tokens"
            )
        ids = list(texts) if len(texts) >= FEWEST_WORDS else ordinary(tokenizer)
        whole("task.values (tokens of this vocabulary)", self.values, 2, len(ids))
        limit("task.attributes (tokens of this vocabulary)", self.attributes, len(ids))
        most = len(ids) ** self.key_tokens
        limit("task.entities (of this vocabulary)", self.entities, most)
        letters = chosen(ids, "entity", _base(self.entities, self.key_tokens))
        entities = self.entities or len(letters) ** self.key_tokens
        attributes = chosen(ids, "attribute", self.attributes or ATTRIBUTES)
        values = chosen(ids, "value", self.values)
        keys, answers = draw(self.facts, entities * len(attributes), self.values, self.seed)

        key = torch.tensor(keys)
        entity = key // len(attributes)
        columns = {
            "attribute": torch.tensor(attributes)[key % len(attributes)][:, None],
            "entity": _spelt(entity, torch.tensor(letters), self.key_tokens),
            "value": torch.tensor(values)[torch.tensor(answers)][:, None],
        }
        order: Sequence[int | str] | None = ("entity", "attribute", "value")
        if self.form == "text":
            # The last words are the rarest, and so none of the template's own.
            probes = dict(zip(("entity", "attribute", "value"), ids[-3:], strict=True))
            order = frame(tokenizer, TEMPLATE, probes, texts)
        if order is None or order[-1] != "value":
            raise TaskError(
                "task.form=text: this tokenizer does not keep the words of the sentence as single "
                "tokens; take task.form=tokens"
            )
        start = bos(tokenizer, self.add_bos)
        parts = [
            columns[slot] if isinstance(slot, str) else torch.full((self.facts, 1), slot)
            for slot in (*start, *order)
        ]
        return torch.cat(parts, dim=1)

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row a fact, all of one length; the loss is on the value."""
        from datasets import Dataset

        rows = self.rows(tokenizer)
        labels = torch.full_like(rows, IGNORED)
        labels[:, -1] = rows[:, -1]
        return Dataset.from_dict({"input_ids": rows.numpy(), "labels": labels.numpy()})

    def scorers(self) -> list[Scorer]:
        """One scorer, of all facts."""
        return [FactsScorer(self.rows, self.values, self._settings())]

    def _settings(self) -> dict[str, Any]:
        """All that determines the table, given the tokenizer."""
        names = ("facts", "values", "entities", "attributes", "key_tokens", "form", "add_bos")
        return {name: getattr(self, name) for name in (*names, "seed")}

    def data_card(self) -> list[dict[str, Any]]:
        """The table: D, V, the bits that it holds; its fingerprint once a tokenizer is known."""
        held = self.facts * math.log2(self.values)
        fingerprint = None
        if self._table is not None:
            fingerprint = hashlib.sha256(self._table[1].numpy().tobytes()).hexdigest()[:16]
        return [
            {
                "name": self.name,
                "hub_id": None,
                "revision": None,
                "licence": "none needed (random numbers)",
                "columns": ["entity", "attribute", "value"],
                "rows": self.facts,
                "fingerprint": fingerprint,
                "path": None,
                "notes": f"{self.values} values, {held:.1f} bits in all; "
                f"random.Random({self.seed})",
            },
            *self.forgetting.data_card(),
        ]


NAMES = {"tokens": ("facts", "Facts"), "text": ("facts_text", "Facts (text)")}


def _base(entities: int | None, length: int) -> int:
    """The fewest tokens of which so many entities of `length` tokens can be made."""
    if entities is None:
        return ENTITIES
    base = int(entities ** (1 / length))
    return base if base**length >= entities else base + 1


def _spelt(numbers: Tensor, letters: Tensor, length: int) -> Tensor:
    """Numbers (n,) written with `letters` as digits, (n, length), the last digit first."""
    base = len(letters)
    return torch.stack([letters[numbers // base**place % base] for place in range(length)], dim=1)
