"""Data, prompts and scores that the task files of this folder name with `!function`.

Pure functions of a document and an answer, but for `serve`, which loads data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.samplers import ContextSampler

from tasks.adaptllm_scores import entity_f1, whole_entities
from tasks.answers import gsm8k_number, metamath_expression, metamath_number
from tasks.data import head, load
from tasks.errors import TaskError
from tasks.lm_eval.pubmedqa_ids import TEST_IDS
from tasks.prompts import metamath_eval_prompt
from tasks.sets import BIOMEDICAL_SUBJECTS, find
from tasks.source import Source

# --- data ---------------------------------------------------------------------------------------


def serve(
    data_set: str,
    splits: Sequence[str],
    data_dir: str | None = None,
    revisions: Mapping[str, str] | None = None,
    rows: int | None = None,
    **_: Any,
) -> datasets.DatasetDict:
    """The splits of a set, from data_dir (or MORA_BENCH_DATA) or the hub. Raises TaskError.

    The first split is the one that is scored: it is put in a random order, the same every time, so
    that a limit takes a fair sample of a file that is sorted by subject. `row` is the place in the
    file. lm-eval passes its metadata too. revisions: pins the set; rows: read no more of it.
    """
    data_dir = data_dir or os.environ.get("MORA_BENCH_DATA") or None
    source = find(data_set, revisions)
    return datasets.DatasetDict(
        {
            split: _numbered(_rows(source, split, data_dir, rows), shuffle=index == 0)
            for index, split in enumerate(splits)
        }
    )


def serve_mmlu(
    data_dir: str | None = None, subjects: str = "all", **how: Any
) -> datasets.DatasetDict:
    """MMLU; `shots` holds each question's subject's five development examples, in their order.

    subjects: all, or biomedical: the nine of BIOMEDICAL_SUBJECTS, those of them that are there.
    """
    found = serve("mmlu", ["test", "dev"], data_dir, **how)
    test = found["test"]
    if subjects == "biomedical":
        test = _kept(test, lambda doc: doc["subject"] in BIOMEDICAL_SUBJECTS)
    shots: dict[str, list[dict[str, Any]]] = {}
    for doc in found["dev"]:
        shots.setdefault(doc["subject"], []).append(
            {key: doc[key] for key in ("question", "subject", "choices", "answer")}
        )
    column = [shots.get(subject, []) for subject in test["subject"]]
    return datasets.DatasetDict({"test": test.add_column("shots", column)})


def serve_phrasebank(data_dir: str | None = None, **how: Any) -> datasets.DatasetDict:
    """Financial PhraseBank has one split: a fifth of it (970 rows, as AdaptLLM) is the test."""
    data = serve("financial_phrasebank", ["train"], data_dir, **how)["train"]
    cut = (len(data) + 4) // 5
    return datasets.DatasetDict(
        {"test": data.select(range(cut)), "train": data.select(range(cut, len(data)))}
    )


def serve_ner(data_dir: str | None = None, **how: Any) -> datasets.DatasetDict:
    """Sentences with at least one person, organisation or place: others have no answer to give."""
    found = serve("fin_ner", ["test", "train"], data_dir, **how)
    return datasets.DatasetDict(
        {split: _kept(data, lambda doc: bool(entities(doc))) for split, data in found.items()}
    )


def _rows(source: Source, split: str, data_dir: str | None, rows: int | None) -> datasets.Dataset:
    data = load(source, split, data_dir) if rows is None else head(source, split, data_dir, rows)
    if source.name == "pubmedqa" and split == "test" and len(data) > len(TEST_IDS):
        data = _kept(data, lambda doc: doc["pubid"] in TEST_IDS)  # the hub has all in one split
    return data


def _numbered(data: datasets.Dataset, *, shuffle: bool) -> datasets.Dataset:
    data = data.add_column("row", list(range(len(data))))
    return data.shuffle(seed=0) if shuffle else data


def _kept(data: datasets.Dataset, keep: Any) -> datasets.Dataset:
    return data.select([i for i, doc in enumerate(data) if keep(doc)])


class OwnShots(ContextSampler):
    """The first examples that a question brings along: those of its own subject.

    lm-eval tells a sampler the question only if both come from one split, so `shots` is a column.
    """

    def sample(
        self, n: int, eval_doc: dict[str, Any] | None = None, df: Any = None, **_: Any
    ) -> Sequence[dict[str, Any]]:
        """The question's first ``n`` shots. Raises TaskError where it brings fewer."""
        shots = [] if eval_doc is None else eval_doc["shots"]
        if len(shots) < n:
            raise TaskError(f"{n} examples are asked for, and a question brings {len(shots)}")
        return shots[:n]


# --- biomedicine --------------------------------------------------------------------------------


def pubmedqa_prompt(doc: Mapping[str, Any]) -> str:
    """lm-eval's prompt, from the columns of qiaojin/PubMedQA."""
    return (
        f"Abstract: {chr(10).join(doc['context']['contexts'])}\n"
        f"Question: {doc['question']}\nAnswer:"
    )


def medqa_prompt(doc: Mapping[str, Any]) -> str:
    """lm-eval's prompt, from the columns of GBaker/MedQA-USMLE-4-options."""
    options = "".join(f"{letter}. {doc['options'][letter]}\n" for letter in "ABCD")
    return f"Question: {doc['question']}\n{options}Answer:"


def medqa_target(doc: Mapping[str, Any]) -> int:
    """The right option's index, 0 to 3."""
    return "ABCD".index(doc["answer_idx"])


ROLES = ["background", "objective", "methods", "results", "conclusions"]


def role_target(doc: Mapping[str, Any]) -> int:
    """The index in ROLES of the sentence's role in its abstract."""
    return ROLES.index(doc["label"])


class Balanced(ContextSampler):
    """As many examples of each label, at random: AdaptLLM's demonstrations for RCT."""

    groups: list[list[dict[str, Any]]] | None = None

    def sample(
        self, n: int, eval_doc: dict[str, Any] | None = None, df: Any = None, **_: Any
    ) -> Sequence[dict[str, Any]]:
        """``n // labels`` examples of each label that occurs, in random order.

        Raises TaskError where that would be fewer than ``n``.
        """
        if self.groups is None:  # once: the set is large and the questions are many
            by_label = {label: [doc for doc in self.df if doc["label"] == label] for label in ROLES}
            self.groups = [docs for docs in by_label.values() if docs]
        share, over = divmod(n, len(self.groups))
        if over:
            raise TaskError(
                f"{n} examples are asked for, as many of each of {len(self.groups)} labels: take a "
                f"multiple of {len(self.groups)}"
            )
        picked = [doc for group in self.groups for doc in self.rnd.sample(group, share)]
        self.rnd.shuffle(picked)
        return picked


# --- finance: what AdaptLLM's sets are made of, in its prompts (arXiv 2309.09530, Tables 10 and 11)

FIQA_NEUTRAL = 0.1  # BloombergGPT: a score within +-0.1 is neutral


def fiqa_target(doc: Mapping[str, Any]) -> int:
    """The class of a sentiment score in [-1, 1].

    >>> [fiqa_target({"score": s}) for s in (-0.5, 0.0, 0.1)]
    [0, 1, 2]
    """
    return 0 if doc["score"] < -FIQA_NEUTRAL else 1 if doc["score"] < FIQA_NEUTRAL else 2


# tner/fin numbers its tags so: O, B-PER, B-LOC, B-ORG, B-MISC, I-PER, I-LOC, I-ORG, I-MISC.
NER_NAMES = {1: "person", 2: "location", 3: "organization"}  # MISC is left out, as by BloombergGPT
NER_TYPES = 4


def entities(doc: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, type) of a sentence's entities in their order, each once (tags in IOB1 or IOB2).

    >>> entities({"tokens": ["Ann", "Lee", "of", "Rome"], "tags": [5, 5, 0, 2]})
    [('Ann Lee', 'person'), ('Rome', 'location')]
    """
    spans: list[tuple[list[str], int]] = []
    last = 0
    for token, tag in zip(doc["tokens"], doc["tags"], strict=True):
        kind = (tag - 1) % NER_TYPES + 1 if tag else 0
        begins = 1 <= tag <= NER_TYPES or kind != last
        if kind and begins:
            spans.append(([token], kind))
        elif kind:
            spans[-1][0].append(token)
        last = kind
    named = [(" ".join(words), NER_NAMES[kind]) for words, kind in spans if kind in NER_NAMES]
    return list(dict.fromkeys(named))


def ner_prompt(doc: Mapping[str, Any]) -> str:
    """AdaptLLM's prompt for named entities: the tokens, joined by blanks, and the question."""
    return f"{' '.join(doc['tokens'])}\nExtract named entity:"


def ner_target(doc: Mapping[str, Any]) -> str:
    """The answer in BloombergGPT's form: `Ann Lee (person), Rome (location)`."""
    return ", ".join(f"{name} ({kind})" for name, kind in entities(doc))


def ner_scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """One sentence: whole entities, name and type. AdaptLLM averages over sentences too."""
    predicted = whole_entities(results[0])
    # The target is read as an answer is: a comma in a name cuts it there too.
    gold = whole_entities(ner_target(doc))
    return {"entity_f1": entity_f1(predicted, gold), "extracted": float(bool(predicted))}


# --- mathematics --------------------------------------------------------------------------------


def math_scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's score for MATH, and whether there was anything between dollar signs to score."""
    from lm_eval.tasks.hendrycks_math.utils import process_results

    right = process_results(dict(doc), list(results))["exact_match"]
    return {"exact_match": float(right), "extracted": float(results[0].count("$") >= 2)}


def metamath_gsm8k_scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether MetaMath's number is the solution's (after ####), and whether there is one."""
    number = metamath_number(results[0])
    wanted = gsm8k_number(doc["answer"].rpartition("####")[2])
    return {
        "exact_match": float(number is not None and number == wanted),
        "extracted": float(number is not None),
    }


def metamath_math_scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether MetaMath's expression is the boxed answer, and whether there is one.

    Equality is lm-eval's `is_equiv` for MATH.
    """
    from lm_eval.tasks.hendrycks_math.utils import is_equiv, last_boxed_only_string, remove_boxed

    answer = metamath_expression(results[0])
    wanted = remove_boxed(last_boxed_only_string(doc["solution"]))
    right = answer is not None and is_equiv(answer, wanted)
    return {"exact_match": float(right), "extracted": float(answer is not None)}


def metamath_gsm8k_prompt(doc: Mapping[str, Any]) -> str:
    """MetaMath's prompt for scoring, with a question of GSM8K."""
    return metamath_eval_prompt(doc["question"])


def metamath_math_prompt(doc: Mapping[str, Any]) -> str:
    """MetaMath's prompt for scoring, with a problem of MATH."""
    return metamath_eval_prompt(doc["problem"])
