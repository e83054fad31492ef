"""A data set stated in a task's YAML, so that adding one takes that file and no code.

For example, conf/task/my_math.yaml, or the same file in a folder given with --config-dir:

    _target_: tasks.maths.MathsTask
    name: my_math
    train_set:
      name: my_math                         # its folder in data_dir, and the task's name
      label: My mathematics                 # for tables; the name where left out
      licence: CC BY 4.0
      hub_id: someone/my-math               # null or left out: local files alone
      config: null
      revision: 0123abc                     # null: whatever the hub serves
      splits: {train: train, test: validation}   # name here: name on the hub; test may be left out
      columns: {query: problem, response: solution}   # name here: name in the set
    scores: []                              # benchmarks in addition to the set's own test split
    seed: ${seed}
    data_dir: ${data_dir}

The local files are data_dir/my_math/train.jsonl and test.jsonl, of the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import TaskError
from tasks.sets import SETS
from tasks.source import Source

REQUIRED = ("name", "licence", "columns")
OPTIONAL = ("label", "hub_id", "config", "revision", "splits", "notes")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class OwnSet:
    """A set of a YAML. columns: our name of a column -> the set's."""

    source: Source
    label: str
    columns: Mapping[str, str]

    @property
    def splits(self) -> list[str]:
        """Which of train and test the set has."""
        return list(self.source.files)

    def get(self, row: Mapping[str, Any], column: str) -> Any:
        """A row's value by our name of its column; None where the set has no such column."""
        return row[self.columns[column]] if column in self.columns else None


def read_set(
    stated: Mapping[str, Any], forms: Sequence[Sequence[str]], optional: str = ""
) -> OwnSet:
    """The set that a YAML states under task.train_set.

    forms: the columns of each form that the task can read; optional: one more column.
    Raises TaskError, which names the key.
    """
    spec = {key: value for key, value in stated.items() if value is not None}
    _check_keys(spec, REQUIRED, OPTIONAL, "task.train_set")
    name = spec["name"]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or name in SETS:
        raise TaskError(
            f"task.train_set.name is {name!r}; take lower-case letters, digits and _, beginning "
            "with a letter, and no name of tasks/sets.py"
        )
    columns = _texts(spec["columns"], "task.train_set.columns")
    if not any(set(columns) - {optional} == set(form) for form in forms):
        known = ", or ".join(" and ".join(form) for form in forms)
        also = f" (and {optional}, if there is one)" if optional else ""
        raise TaskError(
            f"task.train_set.columns states {', '.join(columns) or 'nothing'}; state {known}{also}"
        )
    splits = _texts(spec.get("splits", {"train": "train"}), "task.train_set.splits")
    _check_keys(splits, SPLITS[:1], SPLITS[1:], "task.train_set.splits")
    return OwnSet(
        source=Source(
            name=name,
            licence=str(spec["licence"]),
            columns=tuple(columns.values()),
            texts=tuple(columns.values()),
            files={split: f"{split}.jsonl" for split in splits},
            hub_id=spec.get("hub_id"),
            config=spec.get("config"),
            revision=spec.get("revision"),
            splits=splits,
            repeats=dict.fromkeys(splits),
            notes=str(spec.get("notes", "stated in the task's YAML")),
        ),
        label=str(spec.get("label", name)),
        columns=columns,
    )


def _check_keys(
    spec: Mapping[str, Any], required: Sequence[str], optional: Sequence[str], where: str
) -> None:
    known = (*required, *optional)
    wrong = [key for key in spec if key not in known]
    lacking = [key for key in required if key not in spec]
    if wrong or lacking:
        said = [f"has the unknown key {key!r}" for key in wrong]
        said += [f"lacks {key!r}" for key in lacking]
        raise TaskError(f"{where} {' and '.join(said)}; its keys: {', '.join(known)}")


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise TaskError(f"{where} is {value!r}; state a mapping from our names to the set's")
    return {str(key): text for key, text in value.items()}
