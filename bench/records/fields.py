"""The one table of a record's fields: name, type, unit, meaning, since which version.

`check` and `blank` are made from it, and so is the reference page, FIELDS.md beside this file
(``python -m bench.records > bench/records/FIELDS.md``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records import checks
from bench.records.checks import Check, Mismatch

Record = dict[str, Any]

SCHEMA_VERSION = 2
READABLE = (1, 2)  # version 1: ids that hash labels, and not the precision; see identity.py
STATUSES = ("ok", "diverged", "failed", "skipped")


@dataclass(frozen=True)
class Field:
    """One field. `*` in a name stands for free keys, `[]` for the items of a list.

    optional: it may be missing; nullable: it may be null, which means not measured or not known.
    """

    name: str
    type: str
    meaning: str
    unit: str = ""
    nullable: bool = False
    optional: bool = False
    since: int = 1


TYPES: dict[str, tuple[Check, Any]] = {  # what a type accepts, and what a blank record holds
    "text": (checks.text, ""),
    "whole number": (checks.integer, 0),
    "number": (checks.number, 0.0),
    "true or false": (checks.flag, False),
    "numbers": (checks.numbers, []),
    "texts": (checks.list_of(checks.text), []),
    "objects": (checks.list_of(checks.mapping), []),
    "points": (checks.points, []),
    "object": (checks.mapping, {}),
    "version": (checks.one_of(*READABLE), SCHEMA_VERSION),
    "status": (checks.one_of(*STATUSES), "failed"),
}


def _metric(parent: str) -> tuple[Field, ...]:
    return (
        Field(f"{parent}.*.value", "number", "the score", "unit"),
        Field(f"{parent}.*.n", "whole number", "examples behind it"),
        Field(f"{parent}.*.higher_is_better", "true or false", "which way is better"),
        Field(f"{parent}.*.unit", "text", "fraction, perplexity, nats, bits, bits per byte"),
        Field(f"{parent}.*.chance", "number", "what guessing scores", "unit", nullable=True),
    )


FIELDS: tuple[Field, ...] = (
    Field("schema_version", "version", "version of this table that the record was written by"),
    Field("cell", "text", "16 hexadecimal digits that name the cell, and the file"),
    Field("status", "status", "ok; diverged: the loss was not finite; failed; skipped"),
    Field("reason", "text", "why it is not ok", nullable=True),
    Field("experiment", "text", "the experiment that asked for it; adhoc outside of any"),
    Field("scale", "text", "laptop or paper"),
    Field("command", "text", "what makes this record again"),
    Field("config", "object", "the whole configuration, resolved"),
    Field("method", "object", "the method"),
    Field("method.name", "text", "as conf/method has it"),
    Field("method.label", "text", "as tables have it"),
    Field("method.rank", "whole number", "LoRA's rank at this budget", nullable=True),
    Field("method.learning_rate", "number", "of the first parameter group", nullable=True),
    Field("method.settings", "object", "exactly what determines the method's result"),
    Field("model", "object", "the model, with checksum and revision where it was loaded"),
    Field("model.name", "text", "as conf/model has it"),
    Field("model.label", "text", "as tables have it"),
    Field("model.source", "text", "hub id, folder or wheel", nullable=True),
    Field("model.revision", "text", "commit of a hub id", nullable=True),
    Field("task", "object", "the task"),
    Field("task.name", "text", "as conf/task has it"),
    Field("task.label", "text", "as tables have it"),
    Field("task.settings", "object", "what the task was told"),
    Field("task.data", "objects", "a card for each data set: rows, revision, fingerprint, licence"),
    Field("seed", "whole number", "of data drawn at random, initialisation and order"),
    Field("parameters", "object", "how many parameters"),
    Field("parameters.trainable", "whole number", "that move", nullable=True),
    Field("parameters.total", "whole number", "of the base model", nullable=True),
    Field("parameters.adapter_bytes", "whole number", "to save them", "bytes", nullable=True),
    Field("metrics", "object", "final scores, by name"),
    *_metric("metrics"),
    Field("before", "object", "scores of the untouched model, by name"),
    *_metric("before"),
    Field("base_scores", "texts", "ids of the records that `before` is from, shared by all "
          "cells of a base", optional=True, since=2),
    Field("forgetting", "object", "loss of general ability", nullable=True),
    Field("forgetting.mean_drop", "number", "mean over the parts", "of before"),
    Field("forgetting.parts", "object", "by metric"),
    Field("forgetting.parts.*.before", "number", "score of the untouched model"),
    Field("forgetting.parts.*.after", "number", "score at the end"),
    Field("forgetting.parts.*.drop", "number", "what was lost", "of before"),
    Field("forgetting.parts.*.n", "whole number", "examples behind it"),
    Field("curves", "object", "what was seen along the run"),
    Field("curves.train", "points", "step, loss, learning_rate, grad_norm, tokens, seconds; "
          "value_loss (since 2): on value tokens, where a task tells them apart", "nats, seconds"),
    Field("curves.scores", "points", "step, tokens, seconds, metrics: cheap scores by name; "
          "learned (since 2): the share at which it was taken"),
    Field("examples", "object", "final values by example, for metrics that have them"),
    Field("examples.*", "numbers", "one an example, in the task's order"),
    Field("example_ids", "object", "names of those examples", optional=True),
    Field("example_ids.*", "texts", "one an example"),
    Field("cost", "object", "what the run took"),
    Field("cost.setup_seconds", "number", "loading and tokenising", "seconds", nullable=True),
    Field("cost.training_seconds", "number", "steps alone", "seconds", nullable=True),
    Field("cost.scoring_seconds", "number", "all scores", "seconds", nullable=True),
    Field("cost.tokens", "number", "trained on, padding apart", "tokens", nullable=True),
    Field("cost.tokens_per_second", "number", "in training", "tokens/s", nullable=True),
    Field("cost.peak_memory_bytes", "number",
          "highest in training (version 1: in training or scoring)", "bytes", nullable=True),
    Field("cost.kept_bytes", "number", "of that, weights that adapters keep formed (compute=auto "
          "where memory is free, cached)", "bytes", optional=True, nullable=True, since=2),
    Field("merge_audit", "object", "logits before and after merging", nullable=True),
    Field("merge_audit.max_abs", "number", "largest change of a logit"),
    Field("merge_audit.mean_abs", "number", "mean change of a logit"),
    Field("merge_audit.dtype", "text", "that the logits were computed in"),
    Field("spectrum", "object", "singular values of delta W", nullable=True),
    Field("spectrum.layers", "object", "by layer"),
    Field("spectrum.layers.*.kind", "text", "q_proj, down_proj, ..."),
    Field("spectrum.layers.*.singular_values", "numbers", "the largest, descending"),
    Field("spectrum.layers.*.above_0.1", "whole number", "how many are above 0.1"),
    Field("spectrum.layers.*.effective_rank", "number", "exponential of their entropy"),
    Field("spectrum.layers.*.frobenius", "number", "norm of delta W"),
    Field("rank_cuts", "object", "scores with delta W cut to a rank, by rank and metric",
          optional=True, nullable=True, since=2),
    Field("saved_model", "object", "folder, checksum and dtype of a kept merged model",
          optional=True, nullable=True, since=2),
    Field("environment", "object", "commit, versions, machine"),
    Field("environment.git_commit", "text", "of the code; null outside a checkout", nullable=True,
          optional=True),
    Field("environment.git_dirty", "true or false", "whether tracked files differed from it",
          nullable=True, optional=True),
    Field("environment.threads", "whole number", "of torch on the CPU", optional=True),
    Field("environment.device", "text", "cpu, mps, or cuda with the card's name", nullable=True),
    Field("environment.precision", "text", "bf16 or fp32, after auto", nullable=True),
    Field("environment.bf16_products", "text", "through fp32: on a CPU without instructions for "
          "them", nullable=True, optional=True, since=2),
    Field("environment.cpu", "text", "its instructions: AVX2, AVX512, ...", optional=True, since=2),
    Field("environment.versions", "object", "of the packages that matter"),
    Field("started", "text", "UTC, ISO 8601"),
    Field("finished", "text", "UTC, ISO 8601"),
)  # fmt: skip

# The parts that grow with the length of a run, or the size of a model.
BULK = ("curves", "examples", "spectrum")


def _check(fields: tuple[Field, ...], *, leave_out: tuple[str, ...] = ()) -> Check:
    """The check of a whole record; of the fields in leave_out it only asks that they are there."""
    children: dict[str, list[Field]] = {}
    for field in fields:
        children.setdefault(_parent(field.name), []).append(field)

    def made(field: Field) -> Check:
        if field.name in leave_out:
            return lambda value, name: None
        below = children.get(field.name, [])
        check = TYPES[field.type][0]
        if below and below[0].name == f"{field.name}.*":
            check = checks.table_of(made(below[0]))
        elif f"{field.name}.*" in children:
            check = checks.table_of(whole(f"{field.name}.*"))
        elif below:
            check = whole(field.name)
        return checks.or_null(check) if field.nullable else check

    def whole(parent: str) -> Check:
        needed = {_key(f): made(f) for f in children[parent] if not f.optional}
        return checks.fields(needed, {_key(f): made(f) for f in children[parent] if f.optional})

    return whole("")


def _parts(name: str) -> list[str]:
    """Components of a dotted name; the dot of above_0.1 belongs to a number."""
    return re.split(r"(?<!\d)\.", name)


def _parent(name: str) -> str:
    return ".".join(_parts(name)[:-1])


def _key(field: Field) -> str:
    return _parts(field.name)[-1]


_WHOLE = _check(FIELDS)
_HEAD = _check(FIELDS, leave_out=BULK)


def blank(**known: Any) -> Record:
    """A record with every field there is, empty but for what is `known`.

    For cells that end before all of it is known (failed, skipped, diverged).
    """
    record: Record = {}
    for field in FIELDS:
        parts = _parts(field.name)
        if field.optional or "*" in parts or len(parts) > 2:
            continue
        parent = record if len(parts) == 1 else record[parts[0]]
        if parent is None:
            continue
        empty = TYPES[field.type][1]
        fresh = empty.copy() if isinstance(empty, (dict, list)) else empty
        parent[parts[-1]] = None if field.nullable else fresh
    for name in ("method", "model", "task"):  # whoever makes a record knows them, all or nothing
        record[name] = {}
    return record | known


def check(record: Any, where: str | Path = "record", *, head_only: bool = False) -> None:
    """Raise UserError naming `where` and the first field that is not as the table has it.

    head_only leaves out what grows with the length of a run: curves, examples, spectrum.
    """
    try:
        (_HEAD if head_only else _WHOLE)(record, "")
        if not re.fullmatch("[0-9a-f]{16}", record["cell"]):
            raise Mismatch(
                f"field cell is {checks.short(record['cell'])}; expected 16 hexadecimal digits"
            )
        if record["status"] != "ok" and not record["reason"]:
            raise Mismatch(f"field reason is empty, but the status is {record['status']!r}")
        for name, ids in record.get("example_ids", {}).items():
            if not head_only and len(ids) != len(record["examples"].get(name, [])):
                raise Mismatch(f"field example_ids.{name} does not fit examples.{name}")
    except Mismatch as error:
        raise UserError(f"{where}: {error}") from None


def page() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# The fields of a record",
        "",
        f"Version {SCHEMA_VERSION}, made from the table in `fields.py` by",
        "`python -m bench.records > bench/records/FIELDS.md`.",
        "A record may hold more than these; nothing reads what it does not know.",
        "",
        "| field | type | unit | meaning | since |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for field in FIELDS:
        type_ = field.type + (" or null" if field.nullable else "")
        type_ += ", may be missing" if field.optional else ""
        lines.append(
            f"| `{field.name}` | {type_} | {field.unit} | {field.meaning} | {field.since} |"
        )
    return "\n".join(lines) + "\n"
