"""Runs in Weights & Biases: offline by default, so that no account, network or prompt is needed."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.redact import redact
from bench.run import distributed

MODES = ("none", "offline", "online")
log = logging.getLogger(__name__)


class Tracker:
    """Tracks nothing; what a cell needs of any tracker. Left by an error, it says so and closes."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.abandon("failed" if issubclass(kind, Exception) else "stopped")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of training step ``step``."""

    def finish(self, record: Mapping[str, Any], file: Path) -> None:
        """Final metrics and the record itself; closes the run."""

    def abandon(self, status: str) -> None:
        """Closes the run of an attempt that made no complete record."""


class Wandb(Tracker):
    """One W&B run for each attempt at a cell, in group = experiment, job type = method.

    Offline runs ignore ``resume``, and a second sync of one id replaces the first: so each attempt
    is a run of its own, whose id begins with the cell's.
    """

    def __init__(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        folder, cell = Path(settings["dir"]), about["cell"]
        arguments: dict[str, Any] = {
            "project": settings["project"],
            "entity": settings["entity"],
            "dir": folder,
            "id": f"{cell}-{secrets.token_hex(4)}",
            "group": about["experiment"],
            "job_type": about["method"],
            "name": f"{about['label']}-{cell[:6]}",
            "tags": [about["method"], about["model"], about["task"], f"cell:{cell}"],
            "config": dict(about["config"]) | {"cell": cell},
            "settings": wandb.Settings(
                init_timeout=settings["init_timeout"],
                silent=True,
                console="off",
                _disable_stats=True,
            ),
        }
        mode = settings["mode"]
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            log.warning("W&B: no API key: the run is kept offline; scripts/sync_wandb.py sends it.")
            mode = "offline"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _redacted_command():
                self.run = wandb.init(mode=mode, **arguments)
        except (wandb.errors.Error, OSError) as error:
            if mode == "offline":
                raise UserError(
                    f"W&B cannot start in {folder}: {error}. Or use tracker=none."
                ) from None
            log.warning("W&B: the server was not reached (%s); the run is kept offline.", error)
            wandb.teardown()
            with _redacted_command():
                self.run = wandb.init(mode="offline", **arguments)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, record: Mapping[str, Any], file: Path) -> None:
        import wandb

        for name, metric in record["metrics"].items():
            self.run.summary[f"final/{name}"] = metric["value"]
        self.run.summary["status"] = record["status"]
        artifact = wandb.Artifact(f"record-{record['cell']}", type="record")
        # Immutable: named where it lies, not copied into a folder of the user's home.
        artifact.add_file(str(file), policy="immutable")
        self.run.log_artifact(artifact)
        self.run.finish(exit_code=0 if record["status"] == "ok" else 1)

    def abandon(self, status: str) -> None:
        self.run.summary["status"] = status
        self.run.finish(exit_code=1)


@contextmanager
def _redacted_command() -> Iterator[None]:
    """W&B takes the arguments of the command along, and has no setting that keeps it from that."""
    before = sys.argv
    sys.argv = redact(before)
    try:
        yield
    finally:
        sys.argv = before


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for tracker settings that cannot be, naming the key."""
    if settings["mode"] not in MODES:
        raise UserError(f"tracker.mode={settings['mode']} is unknown; choose {' | '.join(MODES)}.")


def start(settings: Mapping[str, Any], about: Mapping[str, Any]) -> Tracker:
    """The tracker that conf/tracker names.

    ``about``: cell (id), label, experiment, method, model, task and the whole config.
    """
    if settings["mode"] == "none" or not distributed.first():
        return Tracker()
    return Wandb(settings, about)
