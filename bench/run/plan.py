"""Which cell a configuration is, and whether its record is there: before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from bench import records
from bench.errors import UserError
from bench.run import checkpoints
from bench.run.build import build
from conf import ArmError
from methods import Method

# Keys of the configuration that say where, how fast or how talkative, but not what comes out.
INCIDENTAL = (
    "results_dir", "data_dir", "force", "device", "threads", "experiment_name", "scale_name",
    "arms", "trial", "variant", "validation_seeds", "tracker", "save_adapter", "analysis",
    "distributed",
)  # fmt: skip
INCIDENTAL_TRAINER = (
    "score_batch_size", "checkpoint_every", "checkpoint_minutes", "torch_compile", "log_every",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A cell: its id, its whole configuration (plain values), and the method that it trains."""

    cell: str
    config: dict[str, Any]
    method: Method
    command: str

    @property
    def folder(self) -> Path:
        return Path(self.config["results_dir"])

    @property
    def file(self) -> Path:
        return self.folder / f"{self.cell}.json"

    @property
    def lease(self) -> Path:
        return self.folder / f"{self.cell}.lease"

    @property
    def checkpoints(self) -> Path:
        return self.folder / f"{self.cell}.checkpoints"

    @property
    def title(self) -> str:
        rank = self.method.settings().get("rank")
        rank = "" if rank is None else f" r={rank}"
        return (
            f"{self.method.label}{rank} lr={self.method.learning_rate:g} seed={self.config['seed']}"
        )


def plan(config: Mapping[str, Any] | DictConfig, command: str = "") -> Plan:
    """Name the cell. Cheap: only the method is built. Raises UserError or MethodError."""
    plain: dict[str, Any] = _resolved(config) if isinstance(config, DictConfig) else dict(config)
    if missing := [part for part in ("task", "model") if not plain.get(part)]:
        raise UserError(
            f"experiment {plain['experiment_name']} names no {' and no '.join(missing)}: add "
            f"`- /{missing[0]}: NAME` to the defaults of its file."
        )
    method = _method(json.dumps(plain["method"], sort_keys=True))
    return Plan(identity(plain, method), plain, method, command)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Plain values; what an experiment says nothing of is refused in its own words."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except InterpolationResolutionError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ArmError):
                raise UserError(str(cause)) from None
            cause = cause.__cause__ or cause.__context__
        raise


@lru_cache(maxsize=256)
def _method(config: str) -> Method:
    """A method holds settings only, so that the cells of a grid can share one to be named."""
    method: Method = build(json.loads(config))
    return method


def identity(config: Mapping[str, Any], method: Method) -> str:
    """The cell's id: a hash of what determines its result."""
    what = {k: v for k, v in config.items() if k not in INCIDENTAL}
    what["trainer"] = {k: v for k, v in what["trainer"].items() if k not in INCIDENTAL_TRAINER}
    what["task"] = {k: v for k, v in what["task"].items() if k != "data_dir"}
    # What a method ignores (FFT: the rank) does not make another cell.
    what["method"] = {"_target_": config["method"]["_target_"]} | method.settings()
    if config["distributed"]["processes"] > 1:  # the batch grows with them
        what["processes"] = config["distributed"]["processes"]
    return records.cell_id(what)


def done(plan: Plan) -> records.Record | None:
    """The complete record of this cell, unless force=true or there is none.

    Raises UserError for a torn or foreign file in its place.
    """
    if plan.config["force"] or not plan.file.exists():
        return None
    record = records.read(plan.file)
    return record if record["status"] in ("ok", "diverged") else None


def tidy(plan: Plan) -> None:
    """Remove what a complete cell has no use for; a kill may have left it behind."""
    checkpoints.discard(plan.checkpoints)
