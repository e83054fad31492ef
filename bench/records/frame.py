"""Records as one pandas frame, for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.records.fields import Record
from bench.records.files import find, read

if TYPE_CHECKING:
    import pandas as pd


def load(path: str | Path) -> pd.DataFrame:
    """One row a cell, for notebooks; a final metric has a column of its name.

    bits_per_parameter: of bits_tempered, which the claims judge; steps_to_target: to the record's
    analysis.target_loss, mean of eight steps; both NaN where a record has no such number.
    A cell that lies there more than once (a cell run twice) counts once: the first to have started.
    Raises UserError as `find` and `read` do, and where there is no record at all.
    """
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    started: dict[str, str] = {}
    for file in find(path):
        record = read(file, head_only=True)
        cell = record["cell"]
        if cell not in rows or record["started"] < started[cell]:
            rows[cell], started[cell] = _row(record, file), record["started"]
    if not rows:
        raise UserError(f"{path}: no records here (files named <16 hex digits>.json)")
    frame = pd.DataFrame(list(rows.values()))
    whole = ["rank", "trainable_parameters", "total_parameters", "adapter_bytes"]
    frame[whole] = frame[whole].astype("Int64")
    order = ["experiment", "task", "model", "scale", "method", "rank", "learning_rate", "seed"]
    return frame.sort_values([*order, "cell"], ignore_index=True)


def _row(record: Record, file: Path) -> dict[str, Any]:
    from bench.records.curves import steps_to_target  # brings numpy

    method, cost, parameters = record["method"], record["cost"], record["parameters"]
    forgetting, trained = record["forgetting"], parameters["trainable"]
    bits = record["metrics"].get("bits_tempered")
    return {
        "cell": record["cell"],
        "experiment": record["experiment"],
        "method": method["name"],
        "label": method["label"],
        "task": record["task"]["name"],
        "model": record["model"]["name"],
        "scale": record["scale"],
        "seed": record["seed"],
        "rank": method["rank"],
        "learning_rate": method["learning_rate"],
        "status": record["status"],
        "reason": record["reason"],
        "trainable_parameters": trained,
        "total_parameters": parameters["total"],
        "adapter_bytes": parameters["adapter_bytes"],
        "tokens_per_second": cost["tokens_per_second"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "training_seconds": cost["training_seconds"],
        "forgetting": None if forgetting is None else forgetting["mean_drop"],
        "bits_per_parameter": bits["value"] / trained if bits and trained else None,
        "steps_to_target": steps_to_target(record),
        "file": str(file),
    } | {name: metric["value"] for name, metric in record["metrics"].items()}
