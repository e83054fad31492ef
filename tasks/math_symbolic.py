"""Arithmetic and word problems from generators: mathematics without a data set.

reasoning-gym makes the questions (gsm_symbolic: the templates of GSM-Symbolic, arXiv 2410.05229;
chain_sum and basic_arithmetic: sums) and its verifiers judge the answers. A model is trained to
give the answer at once; that is no replacement for GSM8K, and is reported under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Unpack

from tasks.base import Metric, Scorer, Shared, Task
from tasks.checks import whole
from tasks.data import text_fingerprint
from tasks.errors import TaskError
from tasks.generation import greedy
from tasks.overlap import overlap
from tasks.tokens import IGNORED, bos, encode, split_encode

if TYPE_CHECKING:
    import datasets

GENERATORS = ("gsm_symbolic", "chain_sum", "basic_arithmetic")
# reasoning-gym draws item i of a set from seed + i, so neighbouring seeds give almost the same set:
# runs lie this far apart, and the test set, the same for all runs, is at 0.
SEED_STRIDE = 10_000_000
MAX_ITEMS = 1_000_000
Options = Mapping[str, Mapping[str, Any]]  # for each generator the arguments of its own
SPARE_TOKENS = 4  # room for an answer a little longer than the longest right one


def prompt(question: str) -> str:
    """The text that the answer follows."""
    return f"Question: {question.strip()}\nAnswer:"


def extract(text: str) -> str | None:
    """The first number on the first line of an answer, thousands commas left out; None: no number.

    >>> extract(" 1,024 apples\\n17"), extract("none")
    ('1024', None)
    """
    first = (text.strip().splitlines() or [""])[0]
    found = re.search(r"-?\d[\d,]*(?:\.\d+)?", first)
    return None if found is None else found[0].replace(",", "")


class SymbolicScorer(Scorer):
    """Greedy answers, extracted, judged by the verifier of the generator that made the question."""

    name = "math_symbolic"

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        self.items = list(items)

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`accuracy` and `answered` (a number could be extracted), and an accuracy a generator."""
        start = bos(tokenizer)
        answers = [encode(tokenizer, f" {item['answer']}") for item in self.items]
        tokens = greedy(
            model,
            [start + encode(tokenizer, prompt(item["question"])) for item in self.items],
            max(map(len, answers)) + SPARE_TOKENS,
            batch_size=batch_size,
            stop_ids=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
        )
        found = [extract(tokenizer.decode(t)) for t in tokens]
        right = [verify(answer, item) for answer, item in zip(found, self.items, strict=True)]
        ids = [item_id(item) for item in self.items]
        metrics = {
            "accuracy": Metric.mean(right, example_ids=ids),
            "answered": Metric.mean([float(a is not None) for a in found], example_ids=ids),
        }
        for name in dict.fromkeys(item["metadata"]["source_dataset"] for item in self.items):
            part = [i for i, item in enumerate(ids) if item.startswith(f"{name}/")]
            metrics[f"accuracy_{name}"] = Metric.mean(
                [right[i] for i in part], example_ids=[ids[i] for i in part]
            )
        return metrics

    def cache_key(self) -> dict[str, Any]:
        return {"items": text_fingerprint(item["question"] for item in self.items)}


def verify(answer: str | None, item: Mapping[str, Any]) -> float:
    """1 where reasoning-gym's verifier gives full marks; its part marks count as wrong."""
    return float(_verifier(item["metadata"]["source_dataset"])(answer, item) == 1.0)


@cache
def _verifier(generator: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(generator)


def item_id(item: Mapping[str, Any]) -> str:
    """A question's id in the per-example scores: generator/index."""
    meta = item["metadata"]
    return f"{meta['source_dataset']}/{meta['source_index']}"


def make_items(
    generators: Sequence[str], count: int, seed: int, options: Options | None = None
) -> list[dict[str, Any]]:
    """`count` questions, the generators taking turns. Raises TaskError for wrong options."""
    import reasoning_gym

    share = -(-count // len(generators))
    sets = []
    for name in generators:
        chosen = dict((options or {}).get(name, {}))
        try:
            sets.append(reasoning_gym.create_dataset(name, size=share, seed=seed, **chosen))
        except (TypeError, AssertionError, ValueError) as error:
            raise TaskError(f"task.options.{name} is {chosen}: {error}") from error
    return [data[i] for i in range(share) for data in sets][:count]


class MathSymbolicTask(Task):
    """generators: which of GENERATORS; train_items, test_items: how many questions.

    options: for each generator what reasoning-gym lets one choose (`min_terms`, `max_digits`, ...).
    """

    name = "math_symbolic"
    label = "Symbolic maths"

    def __init__(
        self,
        generators: Sequence[str] = GENERATORS,
        train_items: int = 2000,
        test_items: int = 200,
        options: Options | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(**shared)
        unknown = [name for name in generators if name not in GENERATORS]
        if unknown or not generators:
            raise TaskError(
                f"task.generators is {list(generators)}; take one or more of "
                f"{', '.join(GENERATORS)}"
            )
        strange = sorted(set(options or {}) - set(generators))
        if strange:
            raise TaskError(
                f"task.options names {', '.join(strange)}, which task.generators does not: "
                f"{', '.join(generators)}"
            )
        whole("task.train_items", train_items, 1, MAX_ITEMS)
        whole("task.test_items", test_items, 1, MAX_ITEMS)
        self.generators = list(generators)
        self.options = {name: dict(chosen) for name, chosen in (options or {}).items()}
        self.train_items, self.test_items = train_items, test_items
        for name in self.generators:  # refuses wrong options
            make_items([name], 1, 0, self.options)

    @cached_property
    def test(self) -> list[dict[str, Any]]:
        """The questions to score, made when they are first needed."""
        return make_items(self.generators, self.test_items, 0, self.options)

    @cached_property
    def train(self) -> list[dict[str, Any]]:
        """The questions to train on, those of the test left out."""
        asked = {item["question"] for item in self.test}
        start = (1 + self.seed) * SEED_STRIDE
        made = make_items(self.generators, self.train_items, start, self.options)
        return [item for item in made if item["question"] not in asked]

    def train_dataset(self, tokenizer: Any) -> datasets.Dataset:
        """One row a question; the loss is on the answer and EOS alone."""
        from datasets import Dataset

        start = bos(tokenizer)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for item in self.train:
            head, tail = split_encode(tokenizer, prompt(item["question"]), f" {item['answer']}")
            head, tail = start + head, tail + end
            rows["input_ids"].append(head + tail)
            rows["labels"].append([IGNORED] * len(head) + tail)
        return Dataset.from_dict(rows)

    def scorers(self) -> list[Scorer]:
        return [SymbolicScorer(self.test)]

    def _described(self, generator: str) -> str:
        chosen = ", ".join(f"{k}={v}" for k, v in sorted(self.options.get(generator, {}).items()))
        return f"{generator} ({chosen})" if chosen else generator

    def data_card(self) -> list[dict[str, Any]]:
        from importlib.metadata import version

        train = [item["question"] for item in self.train]
        test = [item["question"] for item in self.test]
        common = {
            "hub_id": None,
            "revision": f"reasoning-gym {version('reasoning-gym')}",
            "licence": "Apache-2.0",
            "columns": ["question", "answer"],
            "path": None,
        }
        made = f"generators: {', '.join(map(self._described, self.generators))}"
        cards: list[dict[str, Any]] = [
            {
                "name": f"math_symbolic/{split}",
                **common,
                "rows": len(texts),
                "fingerprint": text_fingerprint(texts),
                "notes": made,
            }
            for split, texts in (("train", train), ("test", test))
        ]
        cards[1]["overlap"] = overlap(train, test)
        return [*cards, *self.forgetting.data_card()]
