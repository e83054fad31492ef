"""What can be wrong with the values of a configuration, told at once: nothing heavy is imported.

Each raises UserError, naming the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.errors import UserError
from bench.run import tracking
from bench.run.device import PRECISIONS
from bench.run.inputs import LARGEST_SEED, MOST_THREADS, check_whole
from bench.run.schedule import SCHEDULES

PERTURB_LIMIT = 0.1  # from here on it would be another model
# Those that need no look into transformers' list, which takes seconds to import.
USUAL_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")


def configuration(config: Mapping[str, Any]) -> None:
    """Whether a cell's values can be; what its method, task and model say comes later."""
    check_whole("seed", config["seed"], 0, LARGEST_SEED)
    check_whole("trainer.data_seed", config["trainer"]["data_seed"], 0, LARGEST_SEED)
    if config["threads"] is not None:
        check_whole("threads", config["threads"], 1, MOST_THREADS)
    perturbation(config["perturb"], config["perturb_seed"])
    analysis(config["analysis"])
    saving(config)
    trainer(config["trainer"])
    tracking.check(config["tracker"])


def perturbation(perturb: Any, seed: Any) -> None:
    """See perturbation.py."""
    number = isinstance(perturb, int | float) and not isinstance(perturb, bool)
    if not number or not 0 <= perturb < PERTURB_LIMIT:
        raise UserError(
            f"perturb={perturb} must be a number of at least 0 (no perturbation) and below "
            f"{PERTURB_LIMIT}."
        )
    check_whole("perturb_seed", seed, 0, LARGEST_SEED)


def analysis(settings: Mapping[str, Any]) -> None:
    """See analysis.py."""
    for rank in settings["rank_cuts"]:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise UserError(
                f"analysis.rank_cuts holds {rank}; ranks are whole numbers of at least 1."
            )


def saving(config: Mapping[str, Any]) -> None:
    """See saving.py."""
    if config["save_dtype"] not in PRECISIONS:
        raise UserError(
            f"save_dtype={config['save_dtype']} is unknown; choose {' | '.join(PRECISIONS)}."
        )
    strategy = config["distributed"]["strategy"]
    if config["save_model"] and strategy not in ("none", "ddp"):
        raise UserError(
            f"save_model=true needs the whole model in one process, which distributed={strategy} "
            "does not hold; choose distributed=none or distributed=ddp."
        )


def trainer(settings: Mapping[str, Any]) -> None:
    """See training.py."""
    if settings["schedule"] not in SCHEDULES:
        raise UserError(
            f"trainer.schedule={settings['schedule']} is unknown; choose {' | '.join(SCHEDULES)}."
        )
    if settings["optimizer"] not in USUAL_OPTIMIZERS:
        from transformers.training_args import OptimizerNames

        if settings["optimizer"] not in list(OptimizerNames):
            raise UserError(
                f"trainer.optimizer={settings['optimizer']} is unknown; choose "
                f"{' | '.join(OptimizerNames)}."
            )
    for key in ("max_steps", "batch_size", "accumulation", "log_every", "score_batch_size"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise UserError(f"trainer.{key}={settings[key]} must be a whole number of at least 1.")
    if not isinstance(settings["checkpoint_every"], int) or settings["checkpoint_every"] < 0:
        raise UserError(
            f"trainer.checkpoint_every={settings['checkpoint_every']} must be a whole number of "
            "steps, or 0 for none."
        )
    if not settings["checkpoint_minutes"] >= 0:
        raise UserError(
            f"trainer.checkpoint_minutes={settings['checkpoint_minutes']} must be 0 (none) or more."
        )
    late = [s for s in settings["score_steps"] if not 1 <= s <= settings["max_steps"]]
    if late:
        raise UserError(
            f"trainer.score_steps holds {late[0]}, but the run has steps 1 to "
            f"{settings['max_steps']} (trainer.max_steps)."
        )
    shares = settings["score_at_learned"]
    wrong = [s for s in shares if not isinstance(s, int | float) or not 0 < s <= 1]
    if wrong:
        raise UserError(
            f"trainer.score_at_learned holds {wrong[0]}; shares of the first loss are above 0 and "
            "at most 1."
        )
