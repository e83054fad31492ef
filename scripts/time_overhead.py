"""What the harness adds to a cell's training: a whole cell against a bare loop of its arithmetic.

    python scripts/time_overhead.py --out results/cost
    python scripts/time_overhead.py --steps 300 --out results/cost model=tiny

Both load the model, tokenise the task, attach the method and take the same steps on batches of the
same shapes. The cell is run as `python -m bench` runs it: claim, Trainer, curve, checkpoints, W&B
offline, record; less the seconds of scoring that its record states. On tiny a step costs little, so
that what the harness adds is not lost among the seconds by which runs of one command differ.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from pathlib import Path
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
    parser.add_argument("--out", type=Path, help="folder for overhead.md, beside what is printed")
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
    title = f"{planned.title} on {planned.config['model']['label']}"
    made = report(title, options.steps, seconds["bare loop"], cell)
    print(made)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        model = planned.config["model"]["name"]
        name = "overhead" if model == MODEL else f"overhead_{model}"
        (options.out / f"{name}.md").write_text(HEAD + made + "\n")


MODEL = "smollm2_135m_wheel"  # of the experiment
FIVE_MINUTES = 300
HEAD = """# What the harness adds to a cell

Made by `python scripts/time_overhead.py`: a whole cell as `python -m bench` runs it (claim,
Trainer, curve, checkpoints, W&B offline, record), without the seconds of scoring, against a bare
loop of the same steps, in turn in one process. Both load the base and the task.

"""


def report(title: str, steps: int, bare_loop: list[float], cell: list[float]) -> str:
    """What was measured, in Markdown; seconds a round of each."""
    more = [a - b for a, b in zip(cell, bare_loop, strict=True)]
    rows = {
        "bare loop, s": bare_loop,
        "cell, s": cell,
        "more, s": more,
        "more, % of the bare loop": [100 * a / b for a, b in zip(more, bare_loop, strict=True)],
        "more, % of five minutes": [100 * a / FIVE_MINUTES for a in more],
    }
    about = (
        f"{steps} steps of {title}; {timing.processor()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {len(cell)} rounds in turn."
    )
    return "\n".join(
        [about, "", "| | median | range |", "| --- | ---: | ---: |"]
        + [
            f"| {what} | {timing.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |"
            for what, values in rows.items()
        ]
    )


if __name__ == "__main__":
    main()
