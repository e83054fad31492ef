"""Runs in Weights & Biases: offline by default, so that no account, network or prompt is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

log = logging.getLogger(__name__)


class Tracker:
    """Tracks nothing; what a cell needs of any tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of training step ``step``."""

    def finish(self, record: Mapping[str, Any], file: Path | None) -> None:
        """Final metrics and the record itself; closes the run."""


class Wandb(Tracker):
    """One W&B run for each attempt at a cell, in group = experiment, job type = method.

    Offline runs ignore ``resume``, and a second sync of one id replaces the first: so each attempt
    is a run of its own, and carries the cell's id in its config, tags and name.
    """

    def __init__(self, settings: Mapping[str, Any], cell: Mapping[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        folder = Path(settings["dir"])
        folder.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, Any] = {
            "project": settings["project"],
            "entity": settings["entity"],
            "dir": folder,
            "group": cell["experiment"],
            "job_type": cell["method"],
            "name": f"{cell['label']}-{cell['cell'][:6]}",
            "tags": [cell["method"], cell["model"], cell["task"], f"cell:{cell['cell']}"],
            "config": dict(cell["config"]) | {"cell": cell["cell"]},
            "settings": wandb.Settings(
                init_timeout=settings["init_timeout"],
                silent=True,
                console="off",
                _disable_stats=True,
            ),
        }
        mode = settings["mode"]
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            log.warning("W&B: no API key, so the run is kept offline; `wandb sync` sends it later.")
            mode = "offline"
        try:
            self.run = wandb.init(mode=mode, **arguments)
        except (wandb.errors.Error, OSError) as error:
            if mode == "offline":
                raise UserError(
                    f"W&B cannot start in {folder}: {error}. Or use tracker=none."
                ) from None
            log.warning("W&B: the server was not reached (%s); the run is kept offline.", error)
            wandb.teardown()
            self.run = wandb.init(mode="offline", **arguments)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, record: Mapping[str, Any], file: Path | None) -> None:
        import wandb

        for name, metric in record["metrics"].items():
            self.run.summary[f"final/{name}"] = metric["value"]
        self.run.summary["status"] = record["status"]
        if file is not None and file.exists():
            artifact = wandb.Artifact(f"record-{record['cell']}", type="record")
            artifact.add_file(str(file))
            self.run.log_artifact(artifact)
        self.run.finish(exit_code=0 if record["status"] == "ok" else 1)


def start(settings: Mapping[str, Any], cell: Mapping[str, Any]) -> Tracker:
    """The tracker that conf/tracker names.

    ``cell``: cell (id), label, experiment, method, model, task and the whole config.
    """
    if settings["mode"] == "none":
        return Tracker()
    if settings["mode"] not in ("offline", "online"):
        raise UserError(
            f"tracker.mode={settings['mode']} is unknown; choose none, offline, online."
        )
    return Wandb(settings, cell)
