"""The task files under lm-eval: its own prompts, known scores for known models, nothing disturbed.

Rows made here stand for each set, so nothing is fetched and no local data are needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tasks import TaskError
from tasks.harness import FEWSHOT_SEED, TASK_FILES, ask, metrics
from tasks.lm_eval import functions
from tasks.scores import SCORES, find

NAMES = sorted(path.stem for path in TASK_FILES.glob("*.yaml"))
COUNT = 30  # rows of a file in `folder`
OFFICIAL = Path(lm_eval.__file__).parent / "tasks"


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


def test_the_benchmarks_own_metric_comes_first(folder: str) -> None:
    """lm-eval puts accuracy first; FPB is told by its F1, and averages take the first."""
    known = Known(load_task("mora_phrasebank", folder), right=True)
    found = metrics("x", "mora_phrasebank", ask(known, "mora_phrasebank", data_dir=folder))
    assert [*found] == ["x_f1", "x_acc"]


def test_every_score_names_a_task_file_and_its_sets() -> None:
    assert {score.task for score in SCORES.values() if not score.adaptllm} == set(NAMES)
    for name, score in SCORES.items():
        for source, split in score.sources():
            assert split in source.files, name


def test_a_name_may_say_how_many_shots() -> None:
    assert find("mmlu_5shot").few_shot == 5
    assert find("math_0shot").few_shot == 0
    assert find("gsm8k").few_shot is None


@pytest.mark.parametrize("name", ["fpb_0shot", "usmle_5shot"])
def test_adaptllms_rows_hold_their_examples(name: str) -> None:
    with pytest.raises(TaskError, match=f"'{name}', but AdaptLLM's rows hold their examples"):
        find(name)


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


@pytest.mark.parametrize("few_shot", [0, 5])
def test_the_chat_form_is_a_turn_of_the_user_and_one_begun(folder: str, few_shot: int) -> None:
    """open-instruct's form for chat models, around the very prompt of the bare one."""
    bare = prompts(load_task("mora_mmlu", folder), few_shot)
    chat = prompts(load_task("mora_mmlu_chat", folder), few_shot)
    assert chat == [
        (f"<|user|>\n{prompt}\n<|assistant|>\nThe answer is:", *rest) for prompt, *rest in bare
    ]


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
    task, rows = mine("mora_lm_eval_pubmedqa", folder)
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

    task, rows = mine("mora_lm_eval_usmle", folder)
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
        ("mora_phrasebank", "rose.\nQuestion: what is the sentiment?\nAnswer:", 5),
        ("mora_fiqa_scores", "\nQuestion: what is the sentiment on Acme?\nAnswer:", 5),
        ("mora_fin_ner", " in Rome\nExtract named entity:", 20),
        (
            "mora_rct20k",
            "\nQuestion: what is the role of this sentence in an abstract?\nAnswer:",
            10,
        ),
    ],
)
def test_asks_as_adaptllm_does(folder: str, name: str, end: str, shots: int) -> None:
    task = load_task(name, folder)
    assert (task.config.num_fewshot or 0) == shots
    for args in prompts(task, shots):
        assert args[0].endswith(end)
        assert len(args[0].split("\n\n")) == shots + 1


def test_roles_are_shown_equally_often(folder: str) -> None:
    task = load_task("mora_rct20k", folder)
    for args in prompts(task, 10):
        answers = [part.rsplit(" ", 1)[-1] for part in args[0].split("\n\n")[:-1]]
        assert sorted(answers) == sorted(functions.ROLES * 2)


@pytest.mark.parametrize("shots", [3, 8])
def test_examples_that_cannot_be_equally_many_of_each_role_are_refused(
    folder: str, shots: int
) -> None:
    with pytest.raises(TaskError, match=f"{shots} examples .* 5 labels: take a multiple of 5"):
        prompts(load_task("mora_rct20k", folder), shots)


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
