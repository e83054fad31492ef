"""Our cells in others' forms: the table that `bench.report` reads, and peft's stored results.

cells.csv          the columns of bench.judge.foreign: a line a final metric
peft/<cell>.json   run_info, train_info and meta_info, as method_comparison/ of huggingface/peft
                   reads them: the last point of train_info.metrics holds the test accuracy,
                   forgetting (mean drop, a share) and the tokens
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import records
from bench.judge.cells import Collection, Result
from bench.judge.foreign import NEEDED
from bench.judge.rows import Section, group


def write(found: Collection, folder: Path) -> list[Path]:
    """Write both forms. Raises UserError where the folder cannot be written to."""
    records.prepare_folder(folder)
    table = folder / "cells.csv"
    records.atomic_write(table, as_table(found.cells).encode())
    made = [table]
    for cell in found.cells:
        stored = as_peft(cell)
        name = stored["run_info"]["experiment_name"].replace("/", "--")
        file = folder / "peft" / f"{name}-{cell.cell[:6]}.json"
        text = json.dumps(stored, indent=2, ensure_ascii=False)
        records.atomic_write(file, f"{text}\n".encode())
        made.append(file)
    return made[:1] if len(made) > 20 else made


def as_table(cells: Sequence[Result]) -> str:
    """Cells that ran to their end, told apart by method and setting as the report's tables do."""
    out = io.StringIO()
    columns = [*NEEDED, "steps", "setting", "budget", "unit", "better"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for cell, method, setting in _arms(group(cells)):
        for name, metric in cell.metrics.items() if cell.ok else ():
            writer.writerow({
                "method": method,
                "rank": "" if cell.rank is None else cell.rank,
                "learning_rate": "" if cell.learning_rate is None else cell.learning_rate,
                "seed": cell.seed,
                "metric": name,
                "value": "" if (value := _known(metric.value)) is None else value,
                "steps": cell.settings.get("trainer.max_steps", ""),
                "setting": setting,
                "budget": "" if cell.trainable is None else cell.trainable,
                "unit": metric.unit,
                "better": "higher" if metric.higher_is_better else "lower",
            })  # fmt: skip
    return out.getvalue()


def _known(value: float) -> float | None:
    """None: steps to a target that was not reached, which foreign tables leave empty."""
    return value if math.isfinite(value) else None


def _arms(sections: Sequence[Section]) -> Iterator[tuple[Result, str, str]]:
    """Each cell, with the names of its arm and of its setting: no two of either share one."""
    named: Counter[str] = Counter()
    for section in sections:
        split = "" if section.split == "reported" else section.split
        words = [section.task, section.model, section.scale, split, section.detail]
        setting = " ".join(filter(None, words))
        named[setting] += 1
        if named[setting] > 1:  # what sets it apart is too long to say
            setting += f" ({named[setting]})"
        for row in section.rows:
            variant = f"{row.method} ({row.variant})"
            for cell in row.cells:
                yield cell, variant if row.variant else _method(cell), setting


def _method(cell: Result) -> str:
    """With the operator: in a table the method is all that tells arms of one rank apart."""
    operator = cell.settings.get("operator")
    return f"{cell.method}_{operator}" if operator else cell.method


def as_peft(cell: Result) -> dict[str, Any]:
    """One experiment; what we don't measure is null."""
    rank = "" if cell.rank is None else f"-rank{cell.rank}"
    rate = "" if cell.learning_rate is None else f"-lr{cell.learning_rate:g}"
    points = _points(cell)
    accuracy = cell.metrics.get("accuracy")
    last = {
        "step": points[-1]["step"] if points else None,
        "test accuracy": None if accuracy is None else accuracy.value,
        "train loss": points[-1]["train loss"] if points else None,
        "train total tokens": cell.cost["tokens"],
        "forgetting": cell.forgetting,
    } | {f"test {name}": _known(metric.value) for name, metric in cell.metrics.items()}
    memory = cell.cost["peak_memory_bytes"]
    return {
        "run_info": {
            "created_at": cell.started,
            "total_time": _total(cell),
            "experiment_name": f"{_method(cell)}/{cell.model}{rank}{rate}-seed{cell.seed}",
            "peft_branch": "none",
            "train_config": {
                "model_id": cell.model,
                "dtype": cell.precision,
                "max_steps": cell.settings.get("trainer.max_steps"),
                "batch_size": cell.settings.get("trainer.batch_size"),
                "seed": cell.seed,
                "optimizer_kwargs": {"lr": cell.learning_rate},
                "lr_scheduler": cell.settings.get("trainer.schedule"),
            },
            "peft_config": None if cell.rank is None else {
                "peft_type": cell.method.upper(),
                "r": cell.rank,
                **{k: v for k, v in cell.settings.items() if not k.startswith("trainer.")},
            },
            "error_msg": cell.reason or "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": None,
            "accelerator_memory_max": memory,
            "accelerator_memory_reserved_99th": None,
            "train_time": cell.cost["training_seconds"],
            "file_size": None,
            "num_trainable_params": cell.trainable,
            "num_total_params": cell.total,
            "status": "success" if cell.ok else "failed",
            "metrics": [*points, last],
        },
        "meta_info": {
            "model_info": {"sha": None, "created_at": None},
            "dataset_info": {},
            "package_info": {"versions": cell.versions, "commit": cell.git},
            "system_info": {"system": None, "accelerator": cell.device},
            "pytorch_info": None,
        },
    }  # fmt: skip


def _total(cell: Result) -> float | None:
    parts = [cell.cost[f"{part}_seconds"] for part in ("setup", "training", "scoring")]
    return None if all(part is None for part in parts) else sum(part or 0.0 for part in parts)


def _points(cell: Result) -> list[dict[str, Any]]:
    """Twenty points of the loss along the run."""
    steps, losses = cell.train.get("step"), cell.train.get("loss")
    if steps is None or losses is None or not len(steps):
        return []
    chosen = np.unique(np.linspace(0, len(steps) - 1, 20).round().astype(int))
    return [
        {"step": int(steps[i]), "train loss": float(losses[i])}
        for i in chosen
        if np.isfinite(losses[i])
    ]
