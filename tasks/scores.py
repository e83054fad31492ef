"""The benchmarks by the names that the configuration uses: scored by lm-eval, or as AdaptLLM does.

A benchmark that the paper's measure and another one score has the paper's under the plain name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tasks import checks, sets
from tasks.data import card, load
from tasks.errors import TaskError
from tasks.metrics import Scorer
from tasks.overlap import TEXTS_SCANNED, overlap
from tasks.rehearsal import Rehearsal
from tasks.source import Source

if TYPE_CHECKING:
    from tasks.adaptllm import AdaptScorer
    from tasks.harness import HarnessScorer


@dataclass(frozen=True)
class Score:
    """One benchmark and what it reads.

    task: lm-eval's task file; empty where `adaptllm` names a measure of tasks.adaptllm.
    sets: (set, split), the scored one first. whole: questions of the complete benchmark, where
    known. text: the column (a dotted path; lists are joined) that is looked for in training text.
    few_shot: None: the task file's number. examples: whether there is a split to take shots from.
    """

    task: str
    sets: tuple[tuple[str, str], ...]
    text: str
    whole: int | None = None
    few_shot: int | None = None
    examples: bool = False
    adaptllm: str = ""

    def sources(self, revisions: Mapping[str, str] | None = None) -> list[tuple[Source, str]]:
        """(source, split) of each set, the scored one first."""
        return [(sets.find(name, revisions), split) for name, split in self.sets]


_MMLU = (("mmlu", "test"), ("mmlu", "dev"))
_RCT = (("pubmed_rct20k", "test"), ("pubmed_rct20k", "train"))
_ROLES = (("pubmed_section_roles", "test"), ("pubmed_section_roles", "train"))


def _adaptllm(data_set: str, measure: str, whole: int | None = None) -> Score:
    return Score("", ((data_set, "test"),), "input", whole, adaptllm=measure)


SCORES: Mapping[str, Score] = {
    # instruction tuning
    "mmlu": Score("mora_mmlu", _MMLU, "question", 14042, examples=True),
    "mmlu_chat": Score("mora_mmlu_chat", _MMLU, "question", 14042, examples=True),
    # mathematics: as lm-eval asks, and as MetaMath does
    "gsm8k": Score(
        "mora_gsm8k", (("gsm8k", "test"), ("gsm8k", "train")), "question", 1319, examples=True
    ),
    "math": Score("mora_math", (("math", "test"),), "problem", 5000),
    "gsm8k_metamath": Score("mora_gsm8k_metamath", (("gsm8k", "test"),), "question", 1319),
    "math_metamath": Score("mora_math_metamath", (("math", "test"),), "problem", 5000),
    # biomedicine, as AdaptLLM scores it
    "pubmedqa": _adaptllm("adaptllm_pubmedqa", "accuracy"),
    "usmle": _adaptllm("adaptllm_usmle", "accuracy"),
    "biommlu": Score("mora_biommlu", _MMLU, "question", 1871, examples=True),
    "rct": _adaptllm("adaptllm_rct", "accuracy"),
    # ... and otherwise
    "lm_eval_pubmedqa": Score(
        "mora_lm_eval_pubmedqa", (("pubmedqa", "test"),), "context.contexts", 500
    ),
    "lm_eval_usmle": Score("mora_lm_eval_usmle", (("medqa_usmle", "test"),), "question", 1273),
    "rct20k": Score("mora_rct20k", _RCT, "text", examples=True),
    "pubmed_section_roles": Score("mora_pubmed_section_roles", _ROLES, "text", examples=True),
    "biomed_cloze": Score("mora_biomed_cloze", (("biomed_cloze", "test"),), "context"),
    # finance, as AdaptLLM scores it
    "convfinqa": _adaptllm("convfinqa", "numbers"),
    "fiqa_sa": _adaptllm("adaptllm_fiqa_sa", "weighted_f1", 235),
    "headline": _adaptllm("headline", "headline"),
    "ner": _adaptllm("adaptllm_ner", "entities"),
    "fpb": _adaptllm("adaptllm_fpb", "weighted_f1", 970),
    # ... and otherwise
    "phrasebank": Score(
        "mora_phrasebank", (("financial_phrasebank", "train"),), "sentence", 970, examples=True
    ),
    "fiqa_scores": Score(
        "mora_fiqa_scores", (("fiqa_sa", "test"), ("fiqa_sa", "train")), "sentence", examples=True
    ),
    "fin_ner": Score(
        "mora_fin_ner", (("fin_ner", "test"), ("fin_ner", "train")), "tokens", examples=True
    ),
    # general ability, for forgetting
    "hellaswag": Score("mora_hellaswag", (("hellaswag", "validation"),), "ctx_a", 10042),
    "winogrande": Score("mora_winogrande", (("winogrande", "validation"),), "sentence", 1267),
    "arc_challenge": Score("mora_arc_challenge", (("arc_challenge", "test"),), "question", 1172),
}


def find(name: str) -> Score:
    """The benchmark of a name, with so many examples before each question for `<name>_5shot`.

    Raises TaskError.
    """
    base, few_shot = name, None
    if match := re.fullmatch(r"(.+)_(\d+)shot", name):
        base, few_shot = match[1], int(match[2])
    if base not in SCORES:
        raise TaskError(
            f"task.scores names {name!r}; known: {', '.join(SCORES)}, each also with an ending "
            "such as _5shot"
        )
    if few_shot is not None and SCORES[base].adaptllm:
        raise TaskError(
            f"task.scores names {name!r}, but AdaptLLM's rows hold their examples already: name "
            f"{base}"
        )
    if few_shot and not SCORES[base].examples:
        raise TaskError(f"task.scores names {name!r}, but {base} has no split to take shots from")
    return replace(SCORES[base], few_shot=few_shot)


def scorer(
    name: str,
    *,
    limit: int | None,
    data_dir: str | None,
    revisions: Mapping[str, str] | None = None,
) -> AdaptScorer | HarnessScorer:
    """The scorer of one benchmark."""
    score = find(name)
    if score.adaptllm:
        from tasks.adaptllm import AdaptScorer

        ((source, _),) = score.sources(revisions)
        return AdaptScorer(
            name, source, score.adaptllm, limit=limit, data_dir=data_dir, whole=score.whole
        )
    from tasks.harness import HarnessScorer

    return HarnessScorer(
        score.task,
        name=name,
        few_shot=score.few_shot,
        limit=limit,
        data_dir=data_dir,
        whole=score.whole,
        sets=score.sources(revisions),
        revisions=revisions,
    )


class Benchmarks:
    """The benchmarks chosen for a task (names that `find` knows), and the questions of each."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        limit: int | None,
        data_dir: str | None,
        revisions: Mapping[str, str] | None = None,
    ) -> None:
        self.scores = [find(name) for name in dict.fromkeys(names)]
        checks.limit("task.limit", limit)
        self.names = list(dict.fromkeys(names))
        self.limit = limit
        self.data_dir = data_dir
        self.revisions = revisions

    def scorers(self) -> list[Scorer]:
        """One scorer a benchmark, in the order of the names."""
        return [self._scorer(name) for name in self.names]

    def rehearsals(self) -> Iterator[Rehearsal]:
        """Each benchmark scores one made-up answer."""
        for name, score in zip(self.names, self.scores, strict=True):
            yield Rehearsal(name, score.sources(self.revisions), self._scorer(name).rehearse)

    def _scorer(self, name: str) -> AdaptScorer | HarnessScorer:
        return scorer(name, limit=self.limit, data_dir=self.data_dir, revisions=self.revisions)

    def data_card(self, train: Iterable[str]) -> list[dict[str, Any]]:
        """A card a set; the scored ones with their overlap with the training texts."""
        train = list(islice(train, TEXTS_SCANNED))
        scored = {score.sets[0]: score.text for score in self.scores}
        cards = []
        for source, split in self.sets():
            data = load(source, split, self.data_dir)
            entry = card(source, split, data, self.data_dir)
            if (source.name, split) in scored:
                path = scored[source.name, split]
                entry["overlap"] = overlap(train, [_text(row, path) for row in data])
            cards.append(entry)
        return cards

    def sets(self) -> Iterator[tuple[Source, str]]:
        """(source, split) of each set, once."""
        named = dict.fromkeys(item for score in self.scores for item in score.sets)
        return ((sets.find(name, self.revisions), split) for name, split in named)


def _text(row: Mapping[str, Any], path: str) -> str:
    value: Any = row
    for key in path.split("."):
        value = value[key]
    return value if isinstance(value, str) else " ".join(map(str, value))
