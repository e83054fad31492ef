"""Everything about a cell that can be wrong, found before a model is loaded; the cheapest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import records
from bench.errors import UserError
from bench.run import checks, distributed, imports
from bench.run.build import build
from bench.run.device import Placement
from bench.run.plan import Plan
from tasks.rehearsal import Room

if TYPE_CHECKING:
    from methods import Method
    from tasks import Task


@dataclass(frozen=True)
class Cell:
    """A plan that has passed every check that needs no weights, with what those checks made."""

    plan: Plan
    method: Method
    task: Task

    @property
    def placement(self) -> Placement:
        """Where the cell runs and in which precision: the plan's, which its id rests on."""
        return self.plan.placement


def prepare(plan: Plan) -> Cell:
    """Check everything that can be wrong before a model is loaded.

    Raises UserError, MethodError or TaskError; nothing has been written by then.
    """
    config = plan.config
    checks.configuration(config)
    distributed.check(config["distributed"], plan.method)

    imports.ahead("bench.run.models")  # heavy, and needed from here on
    from bench.run import kept, models

    method: Method = build(config["method"])
    task = kept.task(config)
    records.prepare_folder(plan.folder)
    models.check(config["model"])
    bare = models.skeleton(config["model"])
    context, count = bare.config.max_position_embeddings, models.counter(config["model"])
    for lack in task.overlong(Room(config["model"]["name"], context, count)):
        raise UserError(str(lack))
    method.attach(bare)
    return Cell(plan, method, task)
