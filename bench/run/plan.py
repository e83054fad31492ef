"""Which cell a configuration is, and whether its record is there: before anything is loaded."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from bench import records
from bench.errors import UserError
from bench.records import identity
from bench.run import device
from bench.run.device import Placement
from bench.run.method_card import MethodCard, card
from conf import ArmError


@dataclass(frozen=True)
class Plan:
    """A cell: its id, its whole configuration as plain values, what its method says of itself."""

    cell: str
    config: dict[str, Any]
    method: MethodCard
    placement: Placement
    command: str
    since: float = math.inf  # under force=true a record counts that is newer, by its file's time

    @property
    def folder(self) -> Path:
        """The results folder, results_dir."""
        return Path(self.config["results_dir"])

    @property
    def file(self) -> Path:
        """The cell's record, there once the cell has ended."""
        return self.folder / f"{self.cell}.json"

    @property
    def lease(self) -> Path:
        """The file that says which process runs the cell (bench/sweep/leases.py)."""
        return self.folder / f"{self.cell}.lease"

    @property
    def checkpoints(self) -> Path:
        """The folder of the cell's checkpoints, removed when the cell is complete."""
        return self.folder / f"{self.cell}.checkpoints"

    @property
    def title(self) -> str:
        """Method, rank, learning rate and seed, for messages."""
        rank = self.method.settings.get("rank")
        rank = "" if rank is None else f" r={rank}"
        return (
            f"{self.method.label}{rank} lr={self.method.learning_rate:g} seed={self.config['seed']}"
        )


def plan(
    config: Mapping[str, Any] | DictConfig,
    command: str = "",
    *,
    here: bool = True,
    since: float = math.inf,
) -> Plan:
    """Name the cell. Cheap: the device is looked at, nothing is loaded.

    here: this machine will run it. since: see Plan.
    Raises UserError or MethodError.
    """
    plain: dict[str, Any] = _resolved(config) if isinstance(config, DictConfig) else dict(config)
    if missing := [part for part in ("task", "model") if not plain.get(part)]:
        raise UserError(
            f"experiment {plain['experiment_name']} names no {' and no '.join(missing)}: add "
            f"`- /{missing[0]}: NAME` to the defaults of its file."
        )
    method = card(json.dumps(plain["method"], sort_keys=True))
    placement = device.resolve(plain["device"], plain["precision"], here=here)
    what = identity.identity(plain, method.settings, placement.precision)
    return Plan(records.cell_id(what), plain, method, placement, command, since)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Plain values; what an experiment says nothing of is refused in its own words.

    Ranks are keys of an experiment's table: keys become text, as in the record.
    """
    try:
        return dict(json.loads(json.dumps(OmegaConf.to_container(config, resolve=True))))
    except InterpolationResolutionError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ArmError):
                raise UserError(str(cause)) from None
            cause = cause.__cause__ or cause.__context__
        raise


def done(plan: Plan) -> records.Record | None:
    """The complete record of this cell; None: there is none, or force=true and it is of before.

    A record of schema version 1, whose id hashed labels and no precision, counts where its cell is
    the same. Raises UserError for a torn or foreign file in its place.
    """
    file = plan.file if plan.file.exists() else _of_version_1(plan.folder).get(plan.cell)
    if file is None or (plan.config["force"] and file.stat().st_mtime <= plan.since):
        return None
    record = records.read(file)
    return record if record["status"] in ("ok", "diverged") else None


@lru_cache(maxsize=8)
def _of_version_1(folder: Path) -> dict[str, Path]:
    """Complete records of version 1 in the folder, by the id that their cells have today."""
    found = {}
    for file in folder.glob("*.json") if folder.is_dir() else ():
        with file.open("rb") as opened:
            if b'"schema_version": 1' not in opened.read(80):
                continue
        with suppress(UserError):  # torn: the report on the folder names it
            record = records.read(file, head_only=True)
            found[records.cell_id(identity.of_record(record))] = file
    return found


def tidy(plan: Plan) -> None:
    """Remove what a complete cell has no use for; a kill may have left it behind."""
    shutil.rmtree(plan.checkpoints, ignore_errors=True)
