"""``hydra/launcher=sbatch``: write the list of cells, submit an array over it, and return."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.redact import redact
from bench.sweep import together
from bench.sweep.grid import Job
from bench.sweep.local import split

LARGEST = 1000  # tasks in one array: SLURM's MaxArraySize is 1001 unless a site raised it
# Keys of conf/hydra/launcher/sbatch.yaml that are options of sbatch.
OPTIONS = (
    "partition", "account", "qos", "constraint", "gres", "time", "cpus_per_task", "mem",
)  # fmt: skip


def run(jobs: list[Job], settings: Mapping[str, Any]) -> None:
    """Submit the cells that are not complete."""
    per_task = settings["cells_per_task"]
    todo = split(jobs)
    refuse_several_arrays(len(todo), settings)
    print(f"{len(jobs)} cells, {len(jobs) - len(todo)} done before", file=sys.stderr)
    folder = None
    for first in range(0, len(todo), LARGEST * per_task):
        part = todo[first : first + LARGEST * per_task]
        folder = folder or new_folder(part[0].plan().folder / "slurm")
        file = folder / f"cells-{first // (LARGEST * per_task) + 1}.jsonl"
        file.write_text("".join(line(job) for job in part))
        with as_file(files("bench.sweep") / "array.sbatch") as script:
            options = notice(part) | settings["options"]
            command = sbatch(
                script, file, -(-len(part) // per_task), {**settings, "options": options}
            )
            submit(command, len(part), folder, settings["submit"])


def refuse_several_arrays(cells: int, settings: Mapping[str, Any]) -> None:
    """Raise UserError where array_parallelism would count for each of several arrays."""
    if settings["array_parallelism"] and cells > LARGEST * settings["cells_per_task"]:
        raise UserError(
            f"{cells} cells make several arrays of {LARGEST} tasks, and hydra.launcher."
            f"array_parallelism={settings['array_parallelism']} would count for each of them. Say "
            f"hydra.launcher.cells_per_task={-(-cells // LARGEST)} or more."
        )


def new_folder(parent: Path) -> Path:
    """For this submission. The parent lies beside the records, since nodes share that folder."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = parent.absolute() / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from None
    return folder


def notice(jobs: Sequence[Job]) -> dict[str, str]:
    """sbatch's option where the script's own two minutes before the time limit are too few."""
    spread = any(together.needed(json.loads(job.config)) for job in jobs)
    return {"signal": f"B:USR1@{together.NOTICE}"} if spread else {}


def line(job: Job) -> str:
    """A cell in the list: its overrides, which the job composes again."""
    refuse_secrets(job)
    return json.dumps(job.overrides) + "\n"


def refuse_secrets(job: Job) -> None:
    """Raise UserError where an override, which a file will hold, has a secret in it."""
    overrides = list(job.overrides)
    if redact(overrides) != overrides:
        raise UserError(
            "an override holds a secret of this environment, which would lie in a file: "
            f"{redact(job.command)}. Give it as ${{oc.env:NAME}} instead."
        )


def sbatch(script: Path, cells: Path, tasks: int, settings: Mapping[str, Any]) -> list[str]:
    """The command that submits an array over the cells."""
    limit = settings["array_parallelism"]
    logs = str(cells.parent / "%A_%a.out").replace("%", "%%").replace("%%A_%%a", "%A_%a")
    named = {key: settings[key] for key in OPTIONS if settings[key] is not None}
    options = [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
        for key, value in (named | settings["options"]).items()
    ]
    return [
        "sbatch",
        "--parsable",
        f"--array=1-{tasks}{f'%{limit}' if limit else ''}",
        f"--output={logs}",
        *options,
        str(script),
        str(cells),
        sys.executable,
        str(settings["cells_per_task"]),
    ]


def submit(command: Sequence[str], cells: int, folder: Path, really: bool) -> None:
    """Submit it, or say how. Raises UserError with what sbatch says."""
    if not really:
        print(shlex.join(command))
        return
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on this machine: submit from a login node of the cluster.")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused the job: {done.stderr.strip()}")
    job = done.stdout.strip().split(";")[0]
    print(
        f"submitted job {job}: {cells} cells; logs in {folder}\n"
        f"  how far: python -m bench.status {shlex.quote(str(folder.parent.parent))}\n"
        f"  stop:    scancel {job}   (the same command submits what is left)"
    )
