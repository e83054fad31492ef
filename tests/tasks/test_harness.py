"""The task files under lm-eval: its own prompts, known scores for known models, nothing disturbed.

Rows made here stand for each set, so nothing is fetched and no local data are needed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tasks import TaskError
from tasks.harness import FEWSHOT_SEED, TASK_FILES, HarnessScorer, ask, metrics
from tasks.lm_eval import functions
from tasks.scores import SCORES, find
from tasks.sets import SETS

NAMES = sorted(path.stem for path in TASK_FILES.glob("*.yaml"))
OFFICIAL = Path(lm_eval.__file__).parent / "tasks"


def choice(i: int, n: int) -> dict[str, Any]:
    return {"choices": [f"option {i} {k}" for k in range(n)], "answer": i % n}


def role(i: int) -> dict[str, Any]:
    label = functions.ROLES[i % 5]
    return {"abstract_id": i, "label": label, "text": f"Sentence {i}.", "sentence_id": i}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "mmlu": lambda i: {
        "question": f" Question {i}? ",
        "subject": ("anatomy", "us_foreign_policy")[i % 2],
        **choice(i, 4),
    },
    "gsm8k": lambda i: {"question": f"What is {i}+{i}?", "answer": f"It is.\n#### {2 * i}"},
    "math": lambda i: {
        "problem": f"Find {i}.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": f"Clearly $\\boxed{{{i}}}$.",
    },
    "pubmedqa": lambda i: {
        "pubid": i,
        "question": f"Does {i} help?",
        "context": {"contexts": [f"Part {i}.", "The end."]},
        "final_decision": ("yes", "no", "maybe")[i % 3],
    },
    "medqa_usmle": lambda i: {
        "question": f"A patient, {i}.",
        "options": {letter: f"drug {letter}{i}" for letter in "ABCD"},
        "answer_idx": "ABCD"[i % 4],
    },
    "pubmed_rct20k": role,
    "pubmed_section_roles": role,
    "biomed_cloze": lambda i: {"context": f"Context {i} and a", **choice(i, 4)},
    "financial_phrasebank": lambda i: {"sentence": f"Profit {i} rose.", "label": i % 3},
    "fiqa_sa": lambda i: {"sentence": f"News {i}", "target": "Acme", "score": (i % 3 - 1) / 2},
    "fin_ner": lambda i: {"tokens": ["Acme", str(i), "in", "Rome"], "tags": [7, 7, 0, 6]},
    "headline": lambda i: {
        "input": f"Gold {i} up\nQuestion: is it up?\nAnswer:",
        "options": ["Yes", "No"],
        "gold_index": i % 2,
        "class_id": i % 3,
    },
    "convfinqa": lambda i: {"input": f"Table {i}. How much?", "label": f"{i}.5"},
    "hellaswag": lambda i: {
        "ctx_a": f"A man {i} [title] stands.",
        "ctx_b": "he",
        "activity_label": "Standing",
        "endings": [f"falls {i}{k}." for k in range(4)],
        "label": str(i % 4),
    },
    "winogrande": lambda i: {
        "sentence": f"The cup {i} is not in the box as _ is small.",
        "option1": "cup",
        "option2": "box",
        "answer": str(i % 2 + 1),
    },
    "arc_challenge": lambda i: {
        "question": f"Which is {i}?",
        "choices": {"text": [f"x{i}", f"y{i}", "z"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[i % 3],
    },
}
COUNT = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir with thirty rows of every set that is scored."""
    root = tmp_path_factory.mktemp("data")
    for name, make in ROWS.items():
        (root / name).mkdir()
        for start, file in enumerate(SETS[name].files.values()):
            rows = [make(i) for i in range(start * COUNT, (start + 1) * COUNT)]
            (root / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)


def load_task(name: str, folder: str) -> Any:
    manager = TaskManager(
        include_path=TASK_FILES, include_defaults=False, metadata={"data_dir": folder}
    )
    return manager.load([name])["tasks"][name]


class Known(LM):
    """Gives the right answer (right=True), or always the first choice and no text."""

    def __init__(self, task: Any, *, right: bool) -> None:
        super().__init__()
        self.task, self.right = task, right

    def gold(self, doc: Any) -> int:
        target = self.task.doc_to_text(doc) if self.task.multiple_input else None
        target = self.task.doc_to_target(doc) if target is None else target
        return (
            int(target)
            if not isinstance(target, str)
            else self.task.doc_to_choice(doc).index(target)
        )

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        chosen = [self.gold(r.doc) if self.right else 0 for r in requests]
        return [
            (0.0 if r.idx == c else -99.0, r.idx == c)
            for r, c in zip(requests, chosen, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [self.answer(r.doc) if self.right else "" for r in requests]

    def answer(self, doc: Any) -> str:
        name = self.task.config.task
        if name.endswith("_metamath"):
            gold = doc["answer"].rpartition("####")[2] if "answer" in doc else doc["problem"][5:-1]
            return f"Easy. The answer is: {gold.strip()}"
        if name == "mora_math":
            return f"It is ${doc['answer']}$"
        return str(self.task.doc_to_target(doc))


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_model_scores_1_and_a_constant_one_the_base_rate(name: str, folder: str) -> None:
    task = load_task(name, folder)
    perfect = metrics("x", name, ask(Known(task, right=True), name, data_dir=folder))
    constant = metrics("x", name, ask(Known(task, right=False), name, data_dir=folder))
    assert perfect
    for key, metric in perfect.items():
        assert metric.value == 1.0, key
        assert metric.examples == [1.0] * metric.n, key
        assert metric.example_ids is not None
        assert len(set(metric.example_ids)) == metric.n, key
    if task.config.output_type == "multiple_choice":
        known = Known(task, right=True)
        rate = np.mean([known.gold(doc) == 0 for doc in task.eval_docs])
        assert 0 < rate < 1
        assert constant["x_acc"].value == pytest.approx(rate)
        choices = 2 if task.multiple_input else len(task.doc_to_choice(task.eval_docs[0]))
        assert constant["x_acc"].chance == pytest.approx(1 / choices)
    else:
        assert all(metric.value == 0.0 for metric in constant.values())


def test_every_score_names_a_task_file_and_its_sets() -> None:
    assert {score.task for score in SCORES.values()} == set(NAMES)
    for name, score in SCORES.items():
        for source, split in score.sources:
            assert split in source.files, name


def test_a_name_may_say_how_many_shots() -> None:
    assert find("mmlu_5shot").few_shot == 5
    assert find("math_0shot").few_shot == 0
    assert find("gsm8k").few_shot is None


# --- lm-eval's own prompts -----------------------------------------------------------------------


def official(path: str, rows: dict[str, list[dict[str, Any]]]) -> Any:
    config = load_yaml(OFFICIAL / path)
    config = {k: v for k, v in config.items() if k not in ("dataset_path", "dataset_name", "tag")}
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in rows.items()})
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: data})


def prompts(task: Any, few_shot: int) -> list[Any]:
    """Everything that a model would be asked, in the order of the documents."""
    task.set_config(key="num_fewshot", value=few_shot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests()
    return [instance.args for instance in task.instances]


def mine(name: str, folder: str) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    task = load_task(name, folder)
    return task, {split: list(data) for split, data in task.dataset.items()}


@pytest.mark.parametrize("few_shot", [0, 5])
def test_mmlu_asks_as_lm_eval_does(folder: str, few_shot: int) -> None:
    task, rows = mine("mora_mmlu", folder)
    asked = prompts(task, few_shot)
    dev = [json.loads(line) for line in (Path(folder) / "mmlu/dev.jsonl").open()]
    for subject in ("anatomy", "us_foreign_policy"):
        docs = {
            "test": [row for row in rows["test"] if row["subject"] == subject],
            "dev": [row for row in dev if row["subject"] == subject],
        }
        theirs = prompts(official(f"mmlu/default/mmlu_{subject}.yaml", docs), few_shot)
        own = [
            args
            for args, instance in zip(asked, task.instances, strict=True)
            if instance.doc["subject"] == subject
        ]
        assert own == theirs


@pytest.mark.parametrize(
    ("name", "path", "few_shot"),
    [
        ("mora_gsm8k", "gsm8k/gsm8k.yaml", 5),
        ("mora_math", "hendrycks_math/hendrycks_math_algebra.yaml", 0),
        ("mora_hellaswag", "hellaswag/hellaswag.yaml", 0),
        ("mora_winogrande", "winogrande/default.yaml", 0),
        ("mora_arc_challenge", "arc/arc_challenge.yaml", 0),
    ],
)
def test_asks_and_scores_as_lm_eval_does(folder: str, name: str, path: str, few_shot: int) -> None:
    task, rows = mine(name, folder)
    theirs = official(path, {"train": next(iter(rows.values())), **rows})
    assert prompts(task, few_shot) == prompts(theirs, few_shot)
    for field in ("output_type", "generation_kwargs", "filter_list", "repeats"):
        assert getattr(task.config, field) == getattr(theirs.config, field), field
    for entry in theirs.config.metric_list:
        assert entry in task.config.metric_list


def test_pubmedqa_and_usmle_ask_as_lm_eval_does(folder: str) -> None:
    task, rows = mine("mora_pubmedqa", folder)
    docs = [
        {
            "CONTEXTS": r["context"]["contexts"],
            "QUESTION": r["question"],
            "final_decision": r["final_decision"],
        }
        for r in rows["test"]
    ]
    theirs = official(
        "pubmedqa/pubmedqa.yaml", dict.fromkeys(("train", "validation", "test"), docs)
    )
    assert prompts(task, 0) == prompts(theirs, 0)

    task, rows = mine("mora_usmle", folder)
    docs = [
        {
            "sent1": r["question"],
            **{f"ending{i}": r["options"][letter] for i, letter in enumerate("ABCD")},
            "label": "ABCD".index(r["answer_idx"]),
        }
        for r in rows["test"]
    ]
    theirs = official("medqa/medqa.yaml", dict.fromkeys(("train", "validation", "test"), docs))
    assert prompts(task, 0) == prompts(theirs, 0)


# --- AdaptLLM's prompts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "end", "shots"),
    [
        ("mora_fpb", "rose.\nQuestion: what is the sentiment?\nAnswer:", 5),
        ("mora_fiqa_sa", "\nQuestion: what is the sentiment on Acme?\nAnswer:", 5),
        ("mora_ner", " in Rome\nExtract named entity:", 20),
        ("mora_rct", "\nQuestion: what is the role of this sentence in an abstract?\nAnswer:", 10),
        ("mora_headline", "\nQuestion: is it up?\nAnswer:", 0),
        ("mora_convfinqa", "How much?", 0),
    ],
)
def test_asks_as_adaptllm_does(folder: str, name: str, end: str, shots: int) -> None:
    task = load_task(name, folder)
    assert (task.config.num_fewshot or 0) == shots
    for args in prompts(task, shots):
        assert args[0].endswith(end)
        assert len(args[0].split("\n\n")) == shots + 1


def test_roles_are_shown_equally_often(folder: str) -> None:
    task = load_task("mora_rct", folder)
    for args in prompts(task, 10):
        answers = [part.rsplit(" ", 1)[-1] for part in args[0].split("\n\n")[:-1]]
        assert sorted(answers) == sorted(functions.ROLES * 2)


# --- data ----------------------------------------------------------------------------------------


def test_a_limit_takes_a_fair_sample_and_the_same_every_time(folder: str) -> None:
    first, second = (functions.serve("mmlu", ["test"], folder)["test"] for _ in range(2))
    assert list(first["row"]) == list(second["row"]) != sorted(first["row"])
    assert sorted(first["row"]) == list(range(COUNT))


def test_phrasebank_is_split_into_test_and_examples(folder: str) -> None:
    data = functions.serve_phrasebank(folder)
    assert len(data["test"]) == COUNT / 5
    assert not set(data["test"]["row"]) & set(data["train"]["row"])


def test_biommlu_takes_the_biomedical_subjects(folder: str) -> None:
    assert set(functions.serve_mmlu(folder, "biomedical")["test"]["subject"]) == {"anatomy"}


def test_data_come_from_the_environment_too(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORA_BENCH_DATA", folder)
    assert len(functions.serve("gsm8k", ["test"])["test"]) == COUNT


# --- scoring a model in memory -------------------------------------------------------------------


def scorer(folder: str, score: str, **settings: Any) -> HarnessScorer:
    task = SCORES[score].task
    return HarnessScorer(
        task, name=score, data_dir=folder, few_shot=0, sets=SCORES[score].sources, **settings
    )


def test_a_model_in_memory_is_left_as_it_was(
    folder: str, tiny: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    side = tokenizer.padding_side
    first = scorer(folder, "pubmedqa", limit=4).score(tiny, tokenizer, 2)
    assert tiny.training
    assert tokenizer.padding_side == side
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert capsys.readouterr() == ("", "")
    assert first["pubmedqa_acc"].n == 4
    assert scorer(folder, "pubmedqa", limit=4).score(tiny, tokenizer, 4) == first


def test_likelihoods_are_the_models_own(folder: str, tiny: Any, tokenizer: Any) -> None:
    """The choice that lm-eval takes is the one of a plain pass over prompt and answer."""
    metric = scorer(folder, "pubmedqa", limit=5).score(tiny, tokenizer, 3)["pubmedqa_acc"]
    docs = functions.serve("pubmedqa", ["test"], folder)["test"].select(range(5))
    right = []
    for doc in docs:
        scores = []
        for answer in ("yes", "no", "maybe"):
            head = tokenizer(functions.pubmedqa_prompt(doc), add_special_tokens=False)["input_ids"]
            tail = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = tiny(torch.tensor([head + tail])).logits[0].log_softmax(-1)
            scores.append(sum(float(logs[len(head) - 1 + i, t]) for i, t in enumerate(tail)))
        best = ("yes", "no", "maybe")[int(np.argmax(scores))]
        right.append(float(best == doc["final_decision"]))
    assert metric.examples == right


def test_generation_runs_and_extraction_is_apart(folder: str, tiny: Any, tokenizer: Any) -> None:
    found = scorer(folder, "gsm8k", limit=2).score(tiny, tokenizer, 2)
    assert set(found) == {
        f"gsm8k_{what}_{how}"
        for what in ("exact_match", "extracted")
        for how in ("strict_match", "flexible_extract")
    }


def test_a_part_of_a_benchmark_goes_by_its_own_name(folder: str, tiny: Any, tokenizer: Any) -> None:
    found = scorer(folder, "usmle", limit=2, whole=1273).score(tiny, tokenizer, 2)
    assert list(found) == ["usmle_30_of_1273_acc"]


def test_the_cache_key_follows_data_and_settings(folder: str, tmp_path: Path) -> None:
    key = scorer(folder, "math", limit=2).cache_key()
    assert key == scorer(folder, "math", limit=2).cache_key()
    assert key != scorer(folder, "math", limit=3).cache_key()
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "test_1000.jsonl").write_text(json.dumps(ROWS["math"](0)) + "\n")
    assert key != scorer(str(tmp_path), "math", limit=2).cache_key()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"limit": 0}, "limit is 0"), ({"few_shot": -1}, "few_shot is -1")],
)
def test_refuses_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        HarnessScorer("mora_math", name="math", **settings)


def test_too_few_examples_are_refused(folder: str, tiny: Any, tokenizer: Any) -> None:
    many = HarnessScorer("mora_mmlu", name="mmlu", few_shot=50, limit=1, data_dir=folder)
    with pytest.raises(TaskError, match="50 examples are asked for"):
        many.score(tiny, tokenizer, 2)
