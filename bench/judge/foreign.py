"""Anyone's results as cells: a table (CSV), or a folder of what peft's comparison stores.

A table has a line for each number:

    method         name of the arm, as claims name it (mora, lora, fft, or any other)
    rank           whole number, or empty
    learning_rate  number, or empty
    seed           whole number; cells are paired by it
    metric         name of the number
    value          number; empty for steps_to_target that was not reached in the line's `steps`

and may have: example (a name; lines of one cell and metric are then averaged, and judged by
example too), steps (planned, whole number), setting (arms of one setting are compared), budget
(trained parameters), unit, better (higher or lower; without it, a metric counts as better the lower
it is where its name says loss, perplexity, steps, seconds, tokens, error, nll or bits_per_byte).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.judge.cells import Collection, Result, Score

NEEDED = ("method", "rank", "learning_rate", "seed", "metric", "value")
OPTIONAL = ("example", "steps", "setting", "budget", "unit", "better")
ERRORS_SHOWN = 8
LABELS = {
    "fft": "FFT", "lora": "LoRA", "mora": "MoRA", "relora": "ReLoRA", "remora": "ReMoRA",
    "lora_plus": "LoRA+", "dora": "DoRA", "asylora": "AsyLoRA",
}  # fmt: skip
_LOWER = ("loss", "perplexity", "steps", "seconds", "tokens", "error", "nll", "bits_per_byte")
_SPEEDS = ("per_second",)  # whatever else their names say

Key = tuple[str, int | None, float | None, int, str]


@dataclass
class _Known:
    """A cell as its lines are read."""

    steps: int | None = None
    budget: int | None = None
    values: dict[str, list[float]] = field(default_factory=dict)
    examples: dict[str, dict[str, float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    better: dict[str, bool] = field(default_factory=dict)


def table(path: Path) -> Collection:
    """The table as a collection of cells. Raises UserError naming lines and columns."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            _check_columns(path, names)
            reader.fieldnames = names
            cells = _read(path, reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no table of comma-separated values ({error})") from None
    if not cells:
        raise UserError(f"{path}: no lines below its heading")
    return Collection(str(path), [_cell(path, key, known) for key, known in cells.items()])


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise UserError(
            f"{path}: column {', '.join(missing)} is missing; a table has the columns "
            f"{', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}"
        )
    known = (*NEEDED, *OPTIONAL)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{path}: unknown column {unknown[0]!r}; there may be {', '.join(OPTIONAL)}"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: column {twice[0]} is there twice")


def _read(path: Path, reader: csv.DictReader[str]) -> dict[Key, _Known]:
    cells: dict[Key, _Known] = {}
    wrong: list[str] = []
    for line in reader:
        try:
            _add(cells, line)
        except ValueError as error:
            wrong.append(f"{path}, line {reader.line_num}: {error}")
    if wrong:
        more = len(wrong) - ERRORS_SHOWN
        rest = [f"and {more} more lines"] if more > 0 else []
        raise UserError("\n".join([*wrong[:ERRORS_SHOWN], *rest]))
    return cells


def _add(cells: dict[Key, _Known], line: Mapping[str | None, Any]) -> None:
    if None in line:
        raise ValueError("it has more fields than the heading")
    fields = {str(k): (v or "").strip() for k, v in line.items()}
    method, metric = fields["method"], fields["metric"]
    if not method or not metric:
        raise ValueError(f"{'method' if not method else 'metric'} is empty")
    seed = _number(fields, "seed", whole=True)
    if seed is None:
        raise ValueError("seed is empty")
    rank, rate = _number(fields, "rank", whole=True), _number(fields, "learning_rate")
    if rate is not None and rate <= 0:
        raise ValueError(f"learning_rate is {rate:g}; it must be above 0")
    value = _number(fields, "value")
    if value is None:
        if metric != "steps_to_target":
            raise ValueError("value is empty; only steps_to_target may be, where it isn't reached")
        if not fields.get("steps"):
            raise ValueError("value is empty: steps must say how many did not reach the target")
        value = math.inf
    whole_rank = None if rank is None else int(rank)
    key = (method, whole_rank, rate, int(seed), fields.get("setting", ""))
    known = cells.setdefault(key, _Known())
    _agree(known, "steps", _number(fields, "steps", whole=True))
    _agree(known, "budget", _number(fields, "budget", whole=True))
    better = fields.get("better", "")
    if better not in ("", "higher", "lower"):
        raise ValueError(f"better is {better!r}; it must be higher, lower or empty")
    if better:
        known.better[metric] = better == "higher"
    if fields.get("unit"):
        known.units[metric] = fields["unit"]
    if example := fields.get("example", ""):
        by_name = known.examples.setdefault(metric, {})
        if example in by_name:
            raise ValueError(f"example {example!r} of this cell is there twice")
        by_name[example] = value
    elif metric in known.values:
        raise ValueError(
            f"seed {seed:.0f} of {method} has {metric} twice; name examples if these are"
        )
    else:
        known.values[metric] = [value]


def _number(fields: Mapping[str, str], column: str, *, whole: bool = False) -> float | None:
    text = fields.get(column, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}; it must be a number") from None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        kind = "a whole number" if whole else "a finite number"
        raise ValueError(f"{column} is {text!r}; it must be {kind}")
    return number


def _agree(known: _Known, name: str, value: float | None) -> None:
    if value is None:
        return
    if getattr(known, name) not in (None, int(value)):
        raise ValueError(f"{name} is {value:g}, and {getattr(known, name)} on another of its lines")
    setattr(known, name, int(value))


def _cell(path: Path, key: Key, known: _Known) -> Result:
    method, rank, rate, seed, setting = key
    metrics = {}
    for name in [*known.values, *known.examples]:
        numbers = known.values.get(name) or [*known.examples[name].values()]
        if not all(map(math.isfinite, numbers)) and name in known.examples:
            continue
        lower = any(word in name for word in _LOWER) and not name.endswith(_SPEEDS)
        higher = known.better.get(name, not lower)
        metrics[name] = Score(float(np.mean(numbers)), len(numbers), higher,
                               known.units.get(name, ""), None)  # fmt: skip
    settings = {} if known.steps is None else {"trainer.max_steps": known.steps}
    task = setting or path.stem
    return bare(
        path, key, method=method, rank=rank, learning_rate=rate, seed=seed, task=task,
        settings=settings, trainable=known.budget, metrics=metrics, examples=known.examples,
    )  # fmt: skip


def bare(file: Path, identity: object, **known: Any) -> Result:
    """A cell with what is known of it, and nothing else."""
    usual: dict[str, Any] = {
        "file": file,
        "cell": hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        "status": "ok", "reason": None, "experiment": "", "scale": "as given",
        "label": LABELS.get(known["method"], known["method"]), "model": "as given",
        "model_label": "as given", "model_settings": {}, "task_label": known["task"],
        "task_settings": {}, "data": (), "split": "reported", "trainable": None,
        "total": None, "metrics": {}, "before": {},
        "forgetting": None, "forgetting_parts": (), "averaged": (),
        "cost": dict.fromkeys(
            ("setup_seconds", "training_seconds", "scoring_seconds", "tokens",
             "tokens_per_second", "peak_memory_bytes")
        ),
        "train": {}, "scores": {}, "merge_error": None, "spectrum": None,
        "device": "as given", "precision": "as given", "threads": None, "git": "not ours",
    }  # fmt: skip
    return Result(**usual | known)


# ---------------------------------------------------------------------------- peft's comparison


def peft_files(folder: Path) -> list[Path]:
    """Files of the folder that have the form of peft's stored results; empty where it has none."""
    if not folder.is_dir():
        return []
    return [file for file in sorted(folder.rglob("*.json")) if _is_peft(file)]


def _is_peft(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8") as opened:
            return '"run_info"' in opened.read(200)
    except (OSError, UnicodeDecodeError):
        return False


def peft(folder: Path) -> Collection:
    """Experiments of peft's method comparison as cells.

    Their test accuracy is `accuracy`; `forgetting*` (nats of general text, after training less
    before) is the metric `forgetting_nats`; their largest accelerator memory is the peak memory.
    """
    found = Collection(str(folder))
    for file in peft_files(folder):
        try:
            found.cells += _of_peft(file, json.loads(file.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            found.refused.append(f"{file}: not as peft stores it ({type(error).__name__} {error})")
    if not found.cells:
        raise UserError("\n".join([f"{folder}: no readable result of peft's", *found.refused]))
    return found


def _of_peft(file: Path, stored: Mapping[str, Any]) -> Iterator[Result]:
    run, train = stored["run_info"], stored["train_info"]
    config, adapter = run["train_config"], run["peft_config"] or {}
    method, variant = run["experiment_name"].split("/", 1)
    points = train["metrics"]
    last = points[-1] if points else {}
    metrics = {}
    if "test accuracy" in last:
        metrics["accuracy"] = Score(last["test accuracy"], 1319, True, "fraction", None)
    forgotten = next((k for k in last if k.startswith("forgetting")), None)
    if forgotten is not None and isinstance(last[forgotten], (int, float)):
        metrics["forgetting_nats"] = Score(last[forgotten], 1, False, "nats", None)
    along = [p for p in points if "valid accuracy" in p]
    seconds = float(train["train_time"])
    tokens = last.get("train total tokens")
    steps = np.array([p["step"] for p in along], dtype=np.float64)
    yield bare(
        file,
        run["experiment_name"],
        method="fft" if method == "full-finetuning" else method,
        label=method,
        rank=adapter.get("r") if isinstance(adapter.get("r"), int) else None,
        learning_rate=float(config["optimizer_kwargs"]["lr"]),
        seed=int(config["seed"]),
        settings={"variant": variant, "trainer.max_steps": config["max_steps"]},
        status="ok" if train["status"] == "success" else "failed",
        reason=None if train["status"] == "success" else run["error_msg"] or train["status"],
        experiment="MetaMathQA",
        task="peft_metamathqa",
        task_label="MetaMathQA (peft's comparison)",
        model=config["model_id"],
        model_label=config["model_id"].rsplit("/", 1)[-1],
        trainable=train["num_trainable_params"],
        total=train["num_total_params"],
        metrics=metrics,
        cost={
            "setup_seconds": None, "training_seconds": seconds, "scoring_seconds": None,
            "tokens": tokens, "tokens_per_second": tokens / seconds if tokens else None,
            "peak_memory_bytes": train["accelerator_memory_max"],
        },
        train={"step": steps, "loss": np.array([p["train loss"] for p in along], dtype=np.float64)},
        scores={
            "step": steps,
            "tokens": np.cumsum([p["tokens / sec"] * p["train time"] for p in along]),
            "seconds": np.cumsum([p["train time"] for p in along]),
            "metrics.accuracy": np.array([p["valid accuracy"] for p in along], dtype=np.float64),
        },
        device=stored["meta_info"]["system_info"]["accelerator"],
        precision=config["dtype"],
        git=f"peft {run['peft_branch']}",
        started=run["created_at"],
    )  # fmt: skip


def supports(found: Collection) -> str:
    """What verdict others' records can support, where it is none: said in a sentence."""
    if not any(cell.git.startswith("peft") for cell in found.cells):
        return ""
    by_row: dict[str, set[int]] = {}
    for cell in found.cells:
        key = json.dumps(
            [cell.method, cell.rank, cell.learning_rate, cell.settings], sort_keys=True
        )
        by_row.setdefault(key, set()).add(cell.seed)
    if max(map(len, by_row.values())) > 1:
        return ""
    rates = [cell.learning_rate for cell in found.cells if cell.learning_rate]
    usual = max(set(rates), key=rates.count) if rates else None
    at = f", and {rates.count(usual)} run at the rate {usual:g}" if usual else ""
    return (
        f"No verdict can be had from these {len(found.cells)} experiments: each has one seed, "
        f"so that no difference between two of them can be told from chance{at}; rates were not "
        "searched alike."
    )
