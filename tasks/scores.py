"""The benchmarks that lm-eval scores, by the names that the configuration uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tasks import checks
from tasks.data import Missing, Source, card, lacking_sets, load
from tasks.errors import TaskError
from tasks.metrics import Scorer
from tasks.overlap import TEXTS_SCANNED, overlap
from tasks.sets import SETS


@dataclass(frozen=True)
class Score:
    """One task file and what it reads.

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

    @property
    def sources(self) -> list[tuple[Source, str]]:
        return [(SETS[name], split) for name, split in self.sets]


_MMLU = (("mmlu", "test"), ("mmlu", "dev"))
_RCT = (("pubmed_rct20k", "test"), ("pubmed_rct20k", "train"))
_ROLES = (("pubmed_section_roles", "test"), ("pubmed_section_roles", "train"))
SCORES: Mapping[str, Score] = {
    # instruction tuning
    "mmlu": Score("mora_mmlu", _MMLU, "question", 14042, examples=True),
    # mathematics: as lm-eval asks, and as MetaMath does
    "gsm8k": Score(
        "mora_gsm8k", (("gsm8k", "test"), ("gsm8k", "train")), "question", 1319, examples=True
    ),
    "math": Score("mora_math", (("math", "test"),), "problem", 5000),
    "gsm8k_metamath": Score("mora_gsm8k_metamath", (("gsm8k", "test"),), "question", 1319),
    "math_metamath": Score("mora_math_metamath", (("math", "test"),), "problem", 5000),
    # biomedicine
    "pubmedqa": Score("mora_pubmedqa", (("pubmedqa", "test"),), "context.contexts", 500),
    "usmle": Score("mora_usmle", (("medqa_usmle", "test"),), "question", 1273),
    "biommlu": Score("mora_biommlu", _MMLU, "question", 1871, examples=True),
    "rct": Score("mora_rct", _RCT, "text", examples=True),
    "pubmed_section_roles": Score("mora_pubmed_section_roles", _ROLES, "text", examples=True),
    "biomed_cloze": Score("mora_biomed_cloze", (("biomed_cloze", "test"),), "context"),
    # finance
    "fpb": Score("mora_fpb", (("financial_phrasebank", "train"),), "sentence", 970, examples=True),
    "fiqa_sa": Score(
        "mora_fiqa_sa", (("fiqa_sa", "test"), ("fiqa_sa", "train")), "sentence", examples=True
    ),
    "ner": Score("mora_ner", (("fin_ner", "test"), ("fin_ner", "train")), "tokens", examples=True),
    "headline": Score("mora_headline", (("headline", "test"),), "input"),
    "convfinqa": Score("mora_convfinqa", (("convfinqa", "test"),), "input"),
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
    if few_shot and not SCORES[base].examples:
        raise TaskError(f"task.scores names {name!r}, but {base} has no split to take shots from")
    return replace(SCORES[base], few_shot=few_shot)


def scorer(name: str, *, limit: int | None, data_dir: str | None) -> Scorer:
    """The scorer of one benchmark."""
    from tasks.harness import HarnessScorer

    score = find(name)
    return HarnessScorer(
        score.task,
        name=name,
        few_shot=score.few_shot,
        limit=limit,
        data_dir=data_dir,
        whole=score.whole,
        sets=score.sources,
    )


class Benchmarks:
    """The benchmarks chosen for a task (names that `find` knows), and the questions of each."""

    def __init__(self, names: Sequence[str], *, limit: int | None, data_dir: str | None) -> None:
        self.scores = [find(name) for name in names]
        checks.limit("task.limit", limit)
        self.names = list(names)
        self.limit = limit
        self.data_dir = data_dir

    def lacking(self) -> Iterator[Missing]:
        """What is missing of their sets, one after the other."""
        return lacking_sets(self._sets(), self.data_dir)

    def scorers(self) -> list[Scorer]:
        return [scorer(name, limit=self.limit, data_dir=self.data_dir) for name in self.names]

    def data_card(self, train: Iterable[str]) -> list[dict[str, Any]]:
        """A card a set; the scored ones with their overlap with the training texts."""
        train = list(islice(train, TEXTS_SCANNED))
        scored = {score.sets[0]: score.text for score in self.scores}
        cards = []
        for source, split in self._sets():
            data = load(source, split, self.data_dir)
            entry = card(source, split, data, self.data_dir)
            if (source.name, split) in scored:
                path = scored[source.name, split]
                entry["overlap"] = overlap(train, [_text(row, path) for row in data])
            cards.append(entry)
        return cards

    def _sets(self) -> Iterator[tuple[Source, str]]:
        """Each set once."""
        sets = dict.fromkeys(item for score in self.scores for item in score.sets)
        return ((SETS[name], split) for name, split in sets)


def _text(row: Mapping[str, Any], path: str) -> str:
    value: Any = row
    for key in path.split("."):
        value = value[key]
    return value if isinstance(value, str) else " ".join(map(str, value))
