"""What can be wrong with the values of a configuration, told at once: nothing heavy is imported.

Each raises UserError, naming the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.errors import UserError
from bench.records.checks import unwritable
from bench.run import tracking
from bench.run.device import PRECISIONS
from bench.run.inputs import (
    LARGEST_SEED,
    MOST_THREADS,
    check_flag,
    check_list,
    check_number,
    check_text,
    check_whole,
    is_whole,
)
from bench.run.schedule import SCHEDULES

MOST_PROCESSES = 2**16
PERTURB_LIMIT = 0.1  # from here on it would be another model
TABLES = ("method", "task", "model", "trainer", "analysis", "distributed", "tracker")
FLAGS = ("force", "check_memory", "save_adapter", "save_model")
# Of the trainer: whole numbers of at least 1, and numbers of at least 0.
COUNTS = (
    "max_steps", "batch_size", "accumulation", "log_every", "score_batch_size",
    "pad_to_multiple_of",
)  # fmt: skip
AMOUNTS = ("warmup_steps", "min_lr_ratio", "weight_decay", "adam_epsilon", "checkpoint_minutes")
# Those that need no look into transformers' list, which takes seconds to import.
USUAL_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")


def configuration(config: Mapping[str, Any]) -> None:
    """Whether a cell's values can be; what its method, task and model say comes later."""
    for part in TABLES:
        if not isinstance(config[part], Mapping):
            said = f"{part}={config[part]!r} must be a table of settings"
            raise UserError(f"{said}: {part}.KEY=VALUE.")
    if not isinstance(config["results_dir"], str) or not config["results_dir"]:
        raise UserError(f"results_dir={config['results_dir']!r} must be the name of a folder.")
    recorded(config)
    for key in FLAGS:
        check_flag(key, config[key])
    check_whole("seed", config["seed"], 0, LARGEST_SEED)
    check_whole("trainer.data_seed", config["trainer"]["data_seed"], 0, LARGEST_SEED)
    if config["threads"] is not None:
        check_whole("threads", config["threads"], 1, MOST_THREADS)
    check_whole("distributed.processes", config["distributed"]["processes"], 1, MOST_PROCESSES)
    perturbation(config["perturb"], config["perturb_seed"])
    analysis(config["analysis"])
    saving(config)
    trainer(config["trainer"])
    tracking.check(config["tracker"])


def recorded(config: Mapping[str, Any]) -> None:
    """What the record would refuse, once the cell has been trained."""
    if wrong := unwritable(config):
        raise UserError(f"{wrong}.")
    for key in ("experiment_name", "scale_name"):
        check_text(key, config[key])
    for part in ("method", "task"):
        if "name" in config[part]:
            check_text(f"{part}.name", config[part]["name"])
    model = config["model"]
    for key in ("name", "label"):
        check_text(f"model.{key}", model[key])
    for key in ("source", "revision"):
        if model.get(key) is not None:
            check_text(f"model.{key}", model[key])


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
    for key in ("merge_audit", "spectrum", "before"):
        check_flag(f"analysis.{key}", settings[key])
    if settings["target_loss"] is not None:
        check_number("analysis.target_loss", settings["target_loss"])
    check_list("analysis.rank_cuts", settings["rank_cuts"], "whole numbers")
    for rank in settings["rank_cuts"]:
        if not is_whole(rank) or rank < 1:
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
    if settings["schedule"] not in list(SCHEDULES):
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
    for key in COUNTS:
        if not is_whole(settings[key]) or settings[key] < 1:
            raise UserError(f"trainer.{key}={settings[key]} must be a whole number of at least 1.")
    for key in AMOUNTS:
        check_number(f"trainer.{key}", settings[key])
    if settings["max_grad_norm"] is not None:
        check_number("trainer.max_grad_norm", settings["max_grad_norm"])
    for key in ("adam_beta1", "adam_beta2"):
        check_number(f"trainer.{key}", settings[key], below=1)
    if not is_whole(settings["checkpoint_every"]) or settings["checkpoint_every"] < 0:
        raise UserError(
            f"trainer.checkpoint_every={settings['checkpoint_every']} must be a whole number of "
            "steps, or 0 for none."
        )
    for key in ("gradient_checkpointing", "torch_compile"):
        check_flag(f"trainer.{key}", settings[key])
    check_list("trainer.score_steps", settings["score_steps"], "whole numbers")
    last = settings["max_steps"]
    late = [s for s in settings["score_steps"] if not is_whole(s) or not 1 <= s <= last]
    if late:
        raise UserError(
            f"trainer.score_steps holds {late[0]}, but the run has steps 1 to {last} "
            "(trainer.max_steps)."
        )
    check_list("trainer.score_at_learned", settings["score_at_learned"], "shares")
    shares = settings["score_at_learned"]
    wrong = [s for s in shares if not isinstance(s, int | float) or not 0 < s <= 1]
    if wrong:
        raise UserError(
            f"trainer.score_at_learned holds {wrong[0]}; shares of the first loss are above 0 and "
            "at most 1."
        )
