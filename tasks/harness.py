"""Scores a model in memory with lm-evaluation-harness: no save, no reload, adapters as they are.

`lm_eval.evaluator.evaluate` is called below `simple_evaluate`, which would reseed python, numpy and
torch and collect system information at every call. Few-shot examples are drawn by lm-eval's own
generator with its command line's default seed, so both ways ask the same questions.
"""

from __future__ import annotations

import copy
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data import file_fingerprint, part_name, state
from tasks.errors import TaskError
from tasks.generation import device_of, evaluating
from tasks.hub import quiet_datasets
from tasks.metrics import Answer, Metric, Scorer
from tasks.rehearsal import ROWS
from tasks.source import Source
from tasks.tokens import bos

TASK_FILES = Path(__file__).parent / "lm_eval"
FEWSHOT_SEED = 1234  # lm_eval's command line default
GENERATED = 256  # tokens of an answer where a task file says nothing, in lm-eval's HFLM
NOT_FOUND = "[invalid]"  # what lm-eval's regex filters give where nothing matches


class HarnessScorer(Scorer):
    """One task file of tasks/lm_eval.

    name: begins the metrics' names: `<name>_<metric>[_<filter>]`.
    few_shot: examples before each question; None: the task file's own number.
    limit: questions (a fair sample, the same every time); None: all.
    whole: questions of the complete benchmark; where fewer are at hand, the name says so
    (`mmlu_3750_of_14042`), since a score on a part is not a score on the benchmark.
    sets: what it reads, (source, split); for the cache.
    """

    def __init__(
        self,
        task: str,
        *,
        name: str,
        few_shot: int | None = None,
        limit: int | None = None,
        data_dir: str | None = None,
        whole: int | None = None,
        sets: Sequence[tuple[Source, str]] = (),
        revisions: Mapping[str, str] | None = None,
    ) -> None:
        if few_shot is not None and few_shot < 0:
            raise TaskError(f"{name}: few_shot is {few_shot}; it must be 0 or more, or null")
        if limit is not None and limit < 1:
            raise TaskError(f"{name}: limit is {limit}; it must be at least 1, or null")
        self.task = task
        self.name = name
        self.few_shot = few_shot
        self.limit = limit
        self.data_dir = data_dir
        self.whole = whole
        self.sets = list(sets)
        self.revisions = dict(revisions or {})

    def score(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, Metric]:
        """The metrics of the task file; for answers found by a pattern, how many were found."""
        results = run(
            model,
            tokenizer,
            self.task,
            batch_size=batch_size,
            few_shot=self.few_shot,
            limit=self.limit,
            data_dir=self.data_dir,
            revisions=self.revisions,
        )
        rows = results["n-samples"][self.task]["original"]
        return metrics(part_name(self.name, rows, self.whole), self.task, results)

    def rehearse(self) -> Answer | None:
        """Ask a question of the task file, and score a made-up answer, without a model.

        Raises what is wrong.
        """
        with quiet(), undisturbed_random():
            from lm_eval.models.dummy import DummyLM

            results = ask(
                DummyLM(),
                self.task,
                few_shot=self.few_shot,
                limit=1,
                data_dir=self.data_dir,
                revisions=self.revisions,
                rows=ROWS,
            )
        metrics(self.name, self.task, results)
        return _answer(self.task, results)

    def cache_key(self) -> dict[str, Any]:
        """The task files and their functions count, so that a changed prompt is scored anew."""
        files = sorted(TASK_FILES.glob("*.py")) + sorted(TASK_FILES.glob("*.yaml"))
        return {
            "task": self.task,
            "few_shot": self.few_shot,
            "limit": self.limit,
            "whole": self.whole,
            "files": [file_fingerprint(file) for file in files],
            "data": [state(source, split, self.data_dir) for source, split in self.sets],
        }


def run(
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    batch_size: int,
    few_shot: int | None = None,
    limit: int | None = None,
    data_dir: str | None = None,
    revisions: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """lm-eval's own results of one task file, with samples. Raises TaskError."""
    if batch_size < 1:
        raise TaskError(f"the scoring batch size is {batch_size}; it must be at least 1")
    with quiet(), undisturbed_random(), evaluating(model), plain_generation(model):
        lm = language_model(model, tokenizer, batch_size)
        return ask(lm, task, few_shot=few_shot, limit=limit, data_dir=data_dir, revisions=revisions)


def language_model(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The model as lm-eval's; a text begins as in training and in our own scorers.

    It computes in the autocast that is open here: left unsaid, lm-eval would switch it off.
    """
    from lm_eval.models.huggingface import HFLM

    kind = device_of(model).type
    open_here = torch.is_autocast_enabled(kind)
    return HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),  # HFLM sets its padding
        batch_size=batch_size,
        mixed_precision_dtype=torch.get_autocast_dtype(kind) if open_here else None,
        # The switch stands for all special tokens: ByT5 would end every prompt with EOS.
        add_bos_token=bool(bos(tokenizer)),
    )


def ask(
    lm: Any,
    task: str,
    *,
    few_shot: int | None = None,
    limit: int | None = None,
    data_dir: str | None = None,
    revisions: Mapping[str, str] | None = None,
    rows: int | None = None,
) -> Mapping[str, Any]:
    """lm-eval's results of one task file for any of lm-eval's language models.

    rows: read no more of its sets.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=TASK_FILES,
        include_defaults=False,
        metadata={"data_dir": data_dir, "revisions": dict(revisions or {}), "rows": rows},
    )
    loaded = manager.load([task])
    for item in loaded["tasks"].values():
        if few_shot is not None:
            item.set_config(key="num_fewshot", value=few_shot)
        elif item.get_config("num_fewshot") is None:
            item.set_config(key="num_fewshot", value=0)
        item.set_fewshot_seed(seed=FEWSHOT_SEED)
    try:
        results = evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    except AssertionError as error:  # how lm-eval says that a model's window is too short
        raise TaskError(f"{task} cannot be scored on this model: {error}") from error
    if results is None:
        raise TaskError(f"{task}: lm-eval gave no results; score on the main process only")
    return results


def metrics(name: str, task: str, results: Mapping[str, Any]) -> dict[str, Metric]:
    """Our metrics from lm-eval's results of one task, per-question values included.

    In the order of the task file, whose first metric is the benchmark's own.
    """
    samples: list[dict[str, Any]] = results["samples"][task]
    better: dict[str, bool] = results["higher_is_better"][task]
    output = results["configs"][task]["output_type"]
    found: dict[str, Metric] = {}
    listed = [each["metric"] for each in results["configs"][task].get("metric_list", [])]

    def place(key: str) -> int:
        metric = key.partition(",")[0]
        return listed.index(metric) if metric in listed else len(listed)

    for key in sorted(results["results"][task], key=place):
        value = results["results"][task][key]
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        mine = [sample for sample in samples if sample["filter"] == filter_name]
        tail = "" if filter_name == "none" else f"_{filter_name.replace('-', '_')}"
        ids = [_id(sample) for sample in mine]
        found[f"{name}_{metric}{tail}"] = Metric(
            value=float(value),
            n=len(mine),
            higher_is_better=better.get(metric, True),
            chance=_chance(mine) if output == "multiple_choice" and metric != "f1" else None,
            examples=[_example(sample[metric]) for sample in mine],
            example_ids=ids,
        )
        if filter_name != "none":
            answers = [sample["filtered_resps"][0] for sample in mine]
            found[f"{name}_extracted{tail}"] = Metric.mean(
                [float(answer != NOT_FOUND) for answer in answers], example_ids=ids
            )
    if not found:
        raise TaskError(f"{task}: lm-eval gave no metric")
    return found


def _answer(task: str, results: Mapping[str, Any]) -> Answer | None:
    """What the question asked for; of a prompt with examples lm-eval cuts the first ones."""
    if results["configs"][task]["output_type"] != "generate_until":
        return None
    ((prompt, options),) = results["samples"][task][0]["arguments"]
    tokens = options.get("max_gen_toks", GENERATED)
    return Answer("" if results["n-shot"][task] else prompt, tokens)


def _example(value: Any) -> float:
    """One question's value; of (.., gold, predicted), whether it is right."""
    if isinstance(value, Sequence):
        return float(value[-2] == value[-1])
    return float(value)


def _chance(samples: Sequence[Mapping[str, Any]]) -> float:
    return sum(1 / len(sample["arguments"]) for sample in samples) / len(samples)


def _id(sample: Mapping[str, Any]) -> str:
    doc = sample["doc"]
    row = str(doc.get("row", sample["doc_id"]))
    return f"{doc['subject']}/{row}" if "subject" in doc else row


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Inside, the model generates as the task files say; its own settings are back after it.

    A checkpoint's generation_config (Qwen's chat models penalise repetition) holds wherever lm-eval
    says nothing, and would silently change a score.
    """
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    if own is None:
        yield
        return
    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{name: getattr(own, name) for name in kept})
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def undisturbed_random() -> Iterator[None]:
    """The global generators of python, numpy and torch are after it as they were before.

    Scoring must not change how a training goes on, and libraries below lm-eval draw numbers.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@contextmanager
def quiet() -> Iterator[None]:
    """No logs, prints or bars of lm-eval and its libraries inside; errors still come out."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
            quiet_datasets(),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
