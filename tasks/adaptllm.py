"""Scores AdaptLLM's benchmarks as its own code does (arXiv 2309.09530; microsoft/LMOps, adaptllm).

The published rows hold whole prompts, their examples included: `input` with `options` and
`gold_index`, or with the text of a right answer in `label`. A blank joins prompt and answer, no BOS
is put before, an option's loss is its mean over tokens, and answers are greedy, one line long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.adaptllm_scores import (
    entity_f1,
    first_line,
    half_credit_f1,
    last_word_entities,
    mean_weighted_f1,
    near_number,
    numbers,
    weighted_f1,
    whole_entities,
)
from tasks.data import head, load, part_name, state
from tasks.errors import TaskError
from tasks.metrics import Answer, Metric, Scorer
from tasks.source import Source

if TYPE_CHECKING:
    import datasets

WINDOW = 2048  # tokens of prompt and answer
ANSWER_TOKENS = 100
VERSION = 1  # of the prompts and measures here; counts in what a kept score is known by

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """How the rows of a benchmark are judged.

    of: rows, answers -> {metric: (value, one value a row)}; an answer is the index of the option
    chosen, or text. chosen: whether there are options. lossy: metrics of which a right answer may
    get less than 1.
    """

    of: Callable[[Sequence[Row], Sequence[Any]], dict[str, tuple[float, list[float]]]]
    chosen: bool = True
    lossy: frozenset[str] = frozenset()


def _accuracy(rows: Sequence[Row], chosen: Sequence[int]) -> dict[str, tuple[float, list[float]]]:
    return {"acc": _mean([float(c == r["gold_index"]) for r, c in zip(rows, chosen, strict=True)])}


def _weighted(rows: Sequence[Row], chosen: Sequence[int]) -> dict[str, tuple[float, list[float]]]:
    accuracy = _accuracy(rows, chosen)
    f1 = weighted_f1(zip([row["gold_index"] for row in rows], chosen, strict=True))
    return {"f1": (f1, accuracy["acc"][1]), **accuracy}


def _headline(rows: Sequence[Row], chosen: Sequence[int]) -> dict[str, tuple[float, list[float]]]:
    accuracy = _accuracy(rows, chosen)
    f1 = mean_weighted_f1(
        (row["class_id"], row["gold_index"], c) for row, c in zip(rows, chosen, strict=True)
    )
    return {"f1": (f1, accuracy["acc"][1]), **accuracy}


def _entities(rows: Sequence[Row], answers: Sequence[str]) -> dict[str, tuple[float, list[float]]]:
    """`f1` is AdaptLLM's; `entity_f1` counts whole entities, name and type."""
    pairs = [(_label(row), answer) for row, answer in zip(rows, answers, strict=True)]
    half = [half_credit_f1(last_word_entities(a), last_word_entities(gold)) for gold, a in pairs]
    whole = [entity_f1(whole_entities(a), whole_entities(gold)) for gold, a in pairs]
    return {
        "f1": _mean(half),
        "entity_f1": _mean(whole),
        "extracted": _mean([float(bool(whole_entities(a))) for a in answers]),
    }


def _numbers(rows: Sequence[Row], answers: Sequence[str]) -> dict[str, tuple[float, list[float]]]:
    right = [float(near_number(_label(r), a)) for r, a in zip(rows, answers, strict=True)]
    return {
        "exact_match": _mean(right),
        "extracted": _mean([float(bool(numbers(a))) for a in answers]),
    }


def _mean(values: list[float]) -> tuple[float, list[float]]:
    return math.fsum(values) / len(values), values


def _label(row: Row) -> str:
    return row["label"] if isinstance(row["label"], str) else row["label"][0]


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(_accuracy),  # PubMedQA, USMLE; RCT, whose micro F1 it is
    "weighted_f1": Measure(_weighted),  # FPB, FiQA SA
    "headline": Measure(_headline),
    # NER; of two persons, both found, AdaptLLM's f1 gives the second one half
    "entities": Measure(_entities, chosen=False, lossy=frozenset({"f1"})),
    "numbers": Measure(_numbers, chosen=False),  # ConvFinQA
}


class AdaptScorer(Scorer):
    """One benchmark. measure: a key of MEASURES; source: its set, whose split test is scored.

    limit: questions (a fair sample, the same every time); None: all.
    whole: questions of the complete benchmark; where fewer are at hand, the name says so.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        measure: str,
        *,
        limit: int | None = None,
        data_dir: str | None = None,
        whole: int | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.measure = measure
        self.limit = limit
        self.data_dir = data_dir
        self.whole = whole

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """`<name>_<metric>`, the benchmark's own first; rows are named by their place."""
        data = load(self.source, "test", self.data_dir)
        name = part_name(self.name, len(data), self.whole)
        rows = self._sample(data)
        measure = MEASURES[self.measure]
        answer = choose if measure.chosen else complete
        found = measure.of(rows, answer(rows, model, tokenizer, batch_size))
        ids = [str(row["row"]) for row in rows]
        return {
            f"{name}_{metric}": Metric(
                value=value,
                n=len(rows),
                higher_is_better=True,
                chance=_chance(rows) if metric == "acc" else None,
                examples=examples,
                example_ids=ids,
            )
            for metric, (value, examples) in found.items()
        }

    def rehearse(self) -> Answer | None:
        """Score the right answer of the first row, without a model. Raises TaskError."""
        rows = list(head(self.source, "test", self.data_dir, 1))
        measure = MEASURES[self.measure]
        answers = [row["gold_index"] if measure.chosen else _label(row) for row in rows]
        for metric, (value, _) in measure.of(rows, answers).items():
            if value != 1 and metric not in measure.lossy:
                raise TaskError(f"the right answer of its first row gets {metric} {value:g}")
        return self.answer()

    def answer(self) -> Answer | None:
        return None if MEASURES[self.measure].chosen else Answer("", ANSWER_TOKENS)

    def _sample(self, data: datasets.Dataset) -> list[dict[str, Any]]:
        data = data.add_column("row", list(range(len(data)))).shuffle(seed=0)
        return list(data.select(range(min(len(data), self.limit or len(data)))))

    def cache_key(self) -> dict[str, Any]:
        return {
            "measure": [self.measure, VERSION],
            "limit": self.limit,
            "whole": self.whole,
            "data": state(self.source, "test", self.data_dir),
        }


def choose(rows: Sequence[Row], model: Any, tokenizer: Any, batch_size: int) -> list[int]:
    """The option with the smallest mean loss a token of each row; of equal ones the first."""
    from tasks.likelihood import continuation_losses
    from tasks.tokens import split_encode

    pairs = [split_encode(tokenizer, row["input"], f" {o}") for row in rows for o in row["options"]]
    losses = iter(continuation_losses(model, pairs, batch_size))
    chosen = []
    for row in rows:
        means = [math.fsum(loss) / len(loss) for loss in (next(losses) for _ in row["options"])]
        chosen.append(means.index(min(means)))
    return chosen


def complete(rows: Sequence[Row], model: Any, tokenizer: Any, batch_size: int) -> list[str]:
    """The first line of what the model says to each row, at most ANSWER_TOKENS of it.

    A prompt that WINDOW (or the model's, where that is shorter) cannot hold loses its beginning.
    """
    from tasks.generation import greedy, positions
    from tasks.tokens import encode

    room = max(1, min(WINDOW, positions(model) or WINDOW) - ANSWER_TOKENS)
    prompts = [encode(tokenizer, row["input"])[-room:] for row in rows]
    # A line break within a longer token (such as ".\n") ends no generation, and is cut after it.
    last = encode(tokenizer, "\n")[-1:]
    stops = [tokenizer.eos_token_id, *(last if tokenizer.decode(last) == "\n" else [])]
    tokens = greedy(
        model,
        prompts,
        ANSWER_TOKENS,
        batch_size=batch_size,
        stop_ids=[stop for stop in stops if stop is not None],
    )
    return [first_line(tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens]


def _chance(rows: Sequence[Row]) -> float:
    return math.fsum(1 / len(row["options"]) for row in rows) / len(rows)
