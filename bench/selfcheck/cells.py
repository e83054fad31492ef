"""The small cells: FFT, LoRA and MoRA learn 32 random facts on the small base, in both precisions.

A step sees all facts, so that the loss of one step is no noisy number: what moves it is the rate,
the operator, the optimiser, the arithmetic.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.selfcheck.bands import Band, Curve, fit

STEPS = (1, 5, 10, 20, 40)  # compared
SEEDS = (0, 1, 2)
REPEATS = 4
METHODS = {
    "fft": ("method=fft", "method.learning_rate=2e-3"),
    "lora": ("method=lora", "method.learning_rate=5e-3"),
    "mora": ("method=mora", "method.operator=rotation", "method.learning_rate=2e-2"),
}
# Of the base's weights, relative: in bf16 as much as rounding to it changes them.
NOISE = {"fp32": 1e-6, "bf16": 1e-3}
SHARED = (
    "task=facts", "task.facts=32", "task.values=256", "model=docs_1m", "tracker=none",
    "method.rank=1", "method.target_modules=[q_proj,k_proj,v_proj,o_proj]",
    f"trainer.max_steps={STEPS[-1]}", "trainer.batch_size=32", "trainer.schedule=constant",
    "trainer.pad_to_multiple_of=1", "trainer.score_batch_size=2048", "trainer.checkpoint_minutes=0",
    "analysis.merge_audit=false",
)  # fmt: skip
NAMES = tuple(f"{method} {precision}" for precision in NOISE for method in METHODS)


def curve(name: str, *, seed: int = 0, repeat: int = 0) -> Curve:
    """Training losses of a cell of NAMES at STEPS. repeat: from 1, another perturbation.

    Raises UserError where it cannot run.
    """
    from bench.run.cell import run_cell
    from bench.run.prepare import prepare
    from bench.run.progress import Progress
    from bench.sweep.dryrun import compose

    method, precision = name.split()
    overrides = [*SHARED, *METHODS[method], f"precision={precision}", f"seed={seed}"]
    if repeat:
        overrides += [f"perturb={NOISE[precision]}", f"perturb_seed={repeat}"]
    with tempfile.TemporaryDirectory() as folder:
        (job,) = compose([*overrides, f"results_dir={folder}"])[1]
        record = run_cell(prepare(job.plan()), lambda: None, Progress())
    losses = {point["step"]: point["loss"] for point in record["curves"]["train"]}
    return {step: losses[step] for step in STEPS if losses.get(step) is not None}


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, the cells share base and data."""
    from bench.run import kept

    with kept.between_cells():
        yield


def bands(name: str) -> dict[int, Band]:
    """The bands of a cell on this machine, from REPEATS perturbations and SEEDS."""
    plain = curve(name)
    repeats = [curve(name, repeat=number) for number in range(1, REPEATS + 1)]
    seeds = [curve(name, seed=seed) for seed in SEEDS[1:]]
    return fit([plain, *repeats], [plain, *seeds])
