"""What the harness adds to a cell's training: a whole cell against a bare loop of its arithmetic.

    python scripts/time_overhead.py

Both load the model, tokenise the task, attach the method and take the same steps on batches of the
same shapes. The cell is run as `python -m bench` runs it: claim, Trainer, curve, checkpoints, W&B
offline, record; less the seconds of scoring that its record states.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from typing import Any

import timing
import torch
from hydra import compose, initialize_config_module
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from bench import records
from bench.run import device, models
from bench.run.batches import IGNORED, Collator, head_only_where
from bench.run.build import build
from bench.run.plan import Plan, plan
from bench.run.progress import Progress
from bench.sweep.attempt import attempt
from bench.sweep.leases import Watcher
from methods import Method
from tasks import Task


def bare(config: dict[str, Any]) -> None:
    """The steps, and nothing else."""
    settings, place = config["trainer"], device.resolve(config["device"], config["precision"])
    method: Method = build(config["method"])
    task: Task = build(config["task"])
    task.prepare()
    loaded = models.load(
        config["model"],
        dtype=torch.float32 if method.fp32_base else place.dtype,
        device=place.device,
        seed=config["seed"],
    )
    model, tokenizer = loaded.model, loaded.tokenizer
    rows = list(task.train_dataset(tokenizer))
    method.attach(model)
    model.train()
    optimizer = torch.optim.AdamW(method.parameter_groups(model), weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / settings["max_steps"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    collate = Collator(tokenizer.pad_token_id, settings["pad_to_multiple_of"])
    size = settings["batch_size"]
    random.Random(0).shuffle(rows)
    batches = itertools.cycle([rows[i : i + size] for i in range(0, len(rows), size)])
    for _, chosen in zip(range(settings["max_steps"]), batches, strict=False):
        batch = collate(chosen)
        labels = nn.functional.pad(batch.pop("labels")[:, 1:], (0, 1), value=IGNORED)
        keep = labels != IGNORED
        with head_only_where(model, keep), place.autocast():
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits
        nn.functional.cross_entropy(logits.float(), labels[keep]).backward()
        nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def harness(planned: Plan) -> float:
    """The cell, anew; its seconds of scoring."""
    planned.file.unlink(missing_ok=True)
    outcome = attempt(planned, Watcher(), Progress())
    if outcome.status != "ok":
        raise SystemExit(f"the cell ended {outcome.status}: {outcome.reason}")
    scoring: float = records.read(planned.file)["cost"]["scoring_seconds"]
    return scoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the cell, as for python -m bench")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "experiment=table2_uuid",
            f"results_dir={folder}",
            f"trainer.max_steps={options.steps}",
            "trainer.score_steps=[]",
            f"trainer.checkpoint_every={options.steps // 2}",
            "analysis.merge_audit=false",
            *options.overrides,
        ]
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("config", overrides=overrides)
            planned = plan(config, "scripts/time_overhead.py")
        scoring: list[float] = []
        seconds = timing.interleave(
            {
                "bare loop": lambda: bare(planned.config),
                "cell": lambda: scoring.append(harness(planned)),
            },
            options.rounds,
            warmup=1,
        )
        cell = [a - b for a, b in zip(seconds["cell"], scoring[1:], strict=True)]
    print(f"{options.steps} steps of {planned.title}, {timing.processor()}")
    print(f"bare loop  {timing.median(seconds['bare loop']):7.2f} s")
    print(f"cell       {timing.median(cell):7.2f} s   {timing.ratio(cell, seconds['bare loop'])}")


if __name__ == "__main__":
    main()
