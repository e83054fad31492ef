"""What is kept of each record.

Beside records may lie a notes.yaml that says what their numbers can't:

    times: why their seconds are no measurements; the report then shows none and judges none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench import records
from bench.errors import UserError
from bench.judge import fixed
from bench.judge.parallel import mapped
from bench.judge.result import Array, Result, Score, Spectrum
from bench.records import identity

NOTES = "notes.yaml"
MANY = 1_000  # records from which on several processes read
_TIMES = ("setup_seconds", "training_seconds", "scoring_seconds", "tokens_per_second")

# Settings that are shown elsewhere, or that identity.py leaves out: they determine nothing.
_NOT_SETTINGS = identity.INCIDENTAL | {*identity.SEEDS, "_target_", "learning_rate", "rank"}


@dataclass
class Collection:
    """All that was found below a path."""

    path: str
    cells: list[Result] = field(default_factory=list)
    perturbed: list[Result] = field(default_factory=list)  # for the noise floor, and no seeds
    repeats: list[tuple[Result, Result]] = field(default_factory=list)  # the same cell, run twice
    again: list[Result] = field(default_factory=list)  # likewise, with the very same numbers
    refused: list[str] = field(default_factory=list)  # messages, each naming its file


def collect(path: str | Path) -> Collection:
    """Read all records below the path. Raises UserError where there is none to read,
    or where a notes.yaml says what nobody understands.

    Files that are no whole record are refused, named in `refused`, and the rest goes on. Cells that
    were perturbed on purpose are put aside: they tell the noise floor, and are no seeds. So does a
    cell run again on another kind of processor, which rounds elsewhere: the one that started first
    counts as the seed.
    """
    found = Collection(str(path))
    first: dict[tuple[str, str], Result] = {}
    noted = cache(_noted)
    files = records.find(path)
    for file in files:
        noted(file.parent)  # one that nobody understands is refused before anything is read
    made = mapped(_read, files, least=MANY, chunk=64)
    for file, (cell, version) in zip(files, made, strict=True):
        if isinstance(cell, str):
            found.refused.append(cell)
            continue
        if reason := noted(file.parent):
            cell = _without_times(cell, reason)
        earlier = first.setdefault((cell.cell, cell.device), cell)
        if earlier is cell:
            (found.perturbed if cell.perturbed else found.cells).append(cell)
        elif earlier.file.read_bytes() != file.read_bytes():  # else a copy
            alike = earlier.processor == cell.processor
            same = alike and _same_numbers(earlier.file, file)
            if version > 1 and alike and not same:
                raise twice(earlier, cell)
            if cell.started < earlier.started:
                cells = found.perturbed if cell.perturbed else found.cells
                cells[cells.index(earlier)] = first[cell.cell, cell.device] = cell
                earlier, cell = cell, earlier
            if same:  # on one kind of processor that says nothing of chance
                found.again.append(cell)
            else:
                found.repeats.append((earlier, cell))
    if not found.cells:
        if found.refused:
            raise UserError("\n".join([f"{path}: no readable record", *found.refused]))
        raise UserError(
            f"{path}: no records here (files named <16 hex digits>.json). "
            "python -m bench makes them; its results_dir says where"
        )
    return _with_fixed(found)


def _with_fixed(found: Collection) -> Collection:
    """With what cells beside a cell tell of its data's seed."""
    others = [*found.perturbed, *(cell for two in found.repeats for cell in two)]
    changed = fixed.told(found.cells, others)

    def now(cell: Result) -> Result:
        return changed.get(id(cell), cell)

    return replace(
        found,
        cells=[*map(now, found.cells)],
        perturbed=[*map(now, found.perturbed)],
        repeats=[(now(a), now(b)) for a, b in found.repeats],
    )


def _read(file: Path) -> tuple[Result | str, int]:
    """The cell, or what is wrong with it, and the record's version."""
    try:
        record = records.read(file, head_only=True)
        return _cell(record, file), record["schema_version"]
    except UserError as error:
        return str(error), 0


def _cell(record: records.Record, file: Path) -> Result:
    method, model, task = record["method"], record["model"], record["task"]
    config, environment, forgetting = record["config"], record["environment"], record["forgetting"]
    merge = record["merge_audit"]
    settings = flatten(method["settings"])
    settings |= {f"trainer.{k}": v for k, v in flatten(_table(config.get("trainer"))).items()}
    if (processes := _table(config.get("distributed")).get("processes", 1)) != 1:
        settings["trainer.processes"] = processes
    git = environment.get("git_commit") or "unknown commit"
    averaged = _averaged(record["metrics"], _table(config.get("task")).get("scores"))
    try:
        return Result(
            file=file,
            cell=record["cell"],
            status=record["status"],
            reason=record["reason"],
            experiment=record["experiment"],
            scale=record["scale"],
            method=method["name"],
            label=method["label"],
            rank=method["rank"],
            learning_rate=method["learning_rate"],
            settings=settings,
            model=model["name"],
            model_label=model["label"],
            model_settings=flatten(_table(config.get("model"))),
            task=task["name"],
            task_label=task["label"],
            task_settings=flatten(_table(config.get("task")) or task["settings"]),
            data=tuple(
                f"{d.get('name')} {d.get('revision') or d.get('path') or ''}".strip()
                for d in task["data"]
            ),
            seed=record["seed"],
            split=split_of(record["seed"], config),
            trainable=record["parameters"]["trainable"],
            total=record["parameters"]["total"],
            metrics=_metrics(record["metrics"], averaged),
            before=_metrics(record["before"], averaged),
            forgetting=None if forgetting is None else forgetting["mean_drop"],
            forgetting_parts=() if forgetting is None else tuple(forgetting["parts"]),
            averaged=averaged,
            cost=record["cost"],
            train=_arrays(record["curves"]["train"]),
            scores=_arrays(
                [
                    {k: v for k, v in point.items() if k != "metrics"}
                    | {f"metrics.{k}": v for k, v in point.get("metrics", {}).items()}
                    for point in record["curves"]["scores"]
                ]
            ),
            # In bf16 it tells the rounding of the merged weights, not whether merging is exact.
            merge_error=merge["max_abs"] if merge and merge["dtype"] == "float32" else None,
            spectrum=_spectrum(record["spectrum"]),
            device=environment["device"] or "unknown device",
            precision=environment["precision"] or "unknown precision",
            threads=environment.get("threads"),
            processor=environment.get("cpu") or "",
            what=identity.of_record(record),
            git=f"{git} with uncommitted changes" if environment.get("git_dirty") else git,
            versions=", ".join(f"{k} {v}" for k, v in environment["versions"].items()),
            command=record["command"],
            started=record["started"],
            finished=record["finished"],
            cuts=_cuts(record.get("rank_cuts")),
            perturbed=bool(config.get("perturb")),
            target_loss=_table(config.get("analysis")).get("target_loss"),
            revisions=_revisions(record),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # head_only leaves the curves and the spectrum unchecked: say properly what is wrong.
        records.check(record, file)
        raise UserError(f"{file}: {type(error).__name__} {error}") from None


def _revisions(record: records.Record) -> dict[str, str]:
    """The commit of each set from a hub, and of the model."""
    found = {d["name"]: d["revision"] for d in record["task"]["data"] if d.get("hub_id")}
    found["the model"] = record["model"].get("revision")
    found["the tokenizer"] = _table(record["model"].get("tokenizer")).get("revision")
    return {name: commit for name, commit in found.items() if commit}


def split_of(seed: int, config: Mapping[str, Any]) -> str:
    """Whether a cell chooses learning rates or is judged; older records say so under protocol."""
    if seed in (config.get("validation_seeds") or ()):
        return "validation"
    return str(_table(config.get("protocol")).get("split") or "reported")


def _noted(folder: Path) -> str:
    """Why the seconds of the folder's records are no measurements; empty where they are."""
    file = folder / NOTES
    if not file.is_file():
        return ""
    try:
        said = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: {error}") from None
    if not isinstance(said, dict) or set(said) != {"times"} or not isinstance(said["times"], str):
        raise UserError(f"{file}: it must say `times: <why these records' seconds do not count>`")
    return " ".join(said["times"].split())


def _without_times(cell: Result, reason: str) -> Result:
    cost = {key: None if key in _TIMES else value for key, value in cell.cost.items()}
    train, scores = ({k: v for k, v in part.items() if k != "seconds"}
                     for part in (cell.train, cell.scores))  # fmt: skip
    return replace(cell, cost=cost, train=train, scores=scores, untimed=reason)


def _averaged(metrics: Mapping[str, Any], scores: Any) -> tuple[str, ...]:
    """The first metric of each benchmark, where the task has several: the paper's averages."""
    if not isinstance(scores, list) or len(scores) < 2 or "average" in metrics:
        return ()
    firsts = []
    for score in scores:
        longer = [other for other in scores if other != score and other.startswith(f"{score}_")]
        names = [n for n in metrics if n == score or n.startswith(f"{score}_")]
        names = [n for n in names if not any(n.startswith(f"{other}_") for other in longer)]
        firsts += names[:1]
    alike = all(metrics[n]["unit"] == "fraction" for n in firsts)
    return tuple(firsts) if alike and len(firsts) == len(scores) else ()


def _metrics(found: Mapping[str, Any], averaged: tuple[str, ...]) -> dict[str, Score]:
    metrics = {name: _metric(value) for name, value in found.items()}
    parts = [metrics[name] for name in averaged if name in metrics]
    if not parts or len(parts) < len(averaged):
        return metrics
    value = sum(part.value for part in parts) / len(parts)
    chances = [part.chance for part in parts if part.chance is not None]
    chance = sum(chances) / len(chances) if len(chances) == len(parts) else None
    average = Score(value, sum(part.n for part in parts), True, "fraction", chance)
    return {"average": average, **metrics}


def _metric(value: Mapping[str, Any]) -> Score:
    return Score(
        value["value"], value["n"], value["higher_is_better"], value["unit"], value["chance"]
    )


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, without seeds, folders, and what has a column of its own."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = identity.canonical(value)
    return flat


def _cuts(found: Any) -> dict[str, dict[str, float]]:
    """Scores with delta W cut to a rank: a number a metric, however the record wraps it."""
    return {
        str(rank): {
            name: float(score["value"] if isinstance(score, Mapping) else score)
            for name, score in scores.items()
        }
        for rank, scores in _table(found).items()
        if isinstance(scores, Mapping)
    }


def _arrays(points: list[dict[str, Any]]) -> dict[str, Array]:
    keys = list(points[0]) if points else []
    if any(point.keys() != points[0].keys() for point in points):
        keys = list(dict.fromkeys(key for point in points for key in point))
    columns = [[point.get(key) for point in points] for key in keys]
    if not set().union(*(map(type, column) for column in columns)) <= {int, float, type(None)}:
        raise TypeError("a curve holds what is no number")
    return dict(zip(keys, np.array(columns, dtype=np.float64), strict=True))


def _spectrum(spectrum: Mapping[str, Any] | None) -> Spectrum | None:
    if not spectrum or not spectrum["layers"]:
        return None
    layers = list(spectrum["layers"].values())
    kept = max(len(layer["singular_values"]) for layer in layers)
    total = np.zeros(kept)
    for layer in layers:
        values = np.asarray(layer["singular_values"], dtype=np.float64)
        total[: len(values)] += values
    kinds = sorted({layer["kind"] for layer in layers})

    def mean(key: str) -> dict[str, float]:
        return {k: float(np.mean([y[key] for y in layers if y["kind"] == k])) for k in kinds}

    above = float(np.mean([layer["above_0.1"] for layer in layers]))
    return Spectrum(total / len(layers), mean("above_0.1"), mean("effective_rank"), above)


def _same_numbers(a: Path, b: Path) -> bool:
    """Whether two records of one cell agree in all scores and losses."""
    first, second = records.read(a), records.read(b)
    return all(
        records.same({"of": first[part]}, {"of": second[part]})
        for part in ("status", "metrics", "before", "curves", "forgetting")
    )


def twice(a: Result, b: Result) -> UserError:
    """A seed that must not count as two."""
    return UserError(
        f"seed {b.seed} of one row lies there twice, with other numbers: {a.file} and {b.file}. "
        "Keep one of them, or report their folders apart"
    )
