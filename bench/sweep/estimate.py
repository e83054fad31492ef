"""What a cell will take, by arithmetic from its configuration: tokens, time and memory.

Nothing is loaded. The formulas are the usual ones and are stated in `FORMULAS`; they are good for
choosing a machine and a grid, not for reporting. Memory is in footprint.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.run.device import fast_bf16
from bench.sweep import footprint
from bench.sweep.shapes import Shape, shape_of, trained
from methods import memory
from tasks.packing import LARGE

if TYPE_CHECKING:
    from methods import Method

FORMULAS = f"""\
tokens   steps x examples a step x tokens an example (a packed row's length; else a usual length)
time     training alone: 6 FLOPs a token for each weight that trains, 4 for each that is frozen, 2
         more where activations are computed again; attention scores, the adapters' own products
         and scoring are left out
{footprint.FORMULAS}"""


@dataclass(frozen=True)
class Device:
    """`rate`: FLOPs a second that training sustains; `floor`: seconds that no step goes below.

    memory: bytes; None: of this machine.
    """

    label: str
    rate: float
    floor: float = 0.0
    memory: int | None = None


DEVICES = {
    "a100": Device("one A100 at 40 % of its 312 TFLOP/s in bf16", 0.4 * 312e12, memory=80 << 30),
    "h100": Device("one H100 at 40 % of its 989 TFLOP/s in bf16", 0.4 * 989e12, memory=80 << 30),
    # SmolLM2-135M takes 1.7 to 2.6 s for a LoRA step of 576 tokens on two cores.
    "cpu": Device("two CPU cores at 0.15 TFLOP/s", 0.15e12, 0.25),
}

# A usual number of tokens in an example, by task.name. What is packed has task.block instead.
EXAMPLE_TOKENS = {
    "uuid": 67,  # LLaMA-2 about 66, SmolLM2 68
    "facts": 3,  # of one-token entities, as everywhere in conf/experiment
    "facts_text": 6,
    "math": 261,  # MetaMathQA: 103 million in 395,000 (Biderman et al., arXiv 2405.09673)
    "math_gsm8k_train": 220,
    "math_symbolic": 50,
    "instruction": 600,  # Tulu v2, assumed: the paper gives no number
    "instruction_standin": 150,
}


TOKEN = 8  # bytes of one in memory: its id and its label (tasks/examples.py)
LONGER = 1.1  # the longest example of a batch, of the usual one, where nothing cuts them


@dataclass(frozen=True)
class Estimate:
    """Of one cell. None where the model's or the examples' size is not known."""

    steps: int
    tokens: int | None
    hours: float | None  # of one device, however many share the work
    bytes: int | None  # of one process, on its device
    trainable: int | None
    host: int | None = None  # bytes of the machine's own memory, of all processes together
    refused: str | None = None  # why it cannot fit into the device's memory, and what would


def estimate(config: Mapping[str, Any], method: Method, device: Device) -> Estimate:
    """The cell's tokens, device hours and bytes; config as plain values, resolved."""
    trainer = config["trainer"]
    steps, processes = trainer["max_steps"], config["distributed"]["processes"]
    length = example_tokens(config["task"])
    shape = shape_of(config["model"])
    if length is None:
        return Estimate(steps, None, None, None, None)
    step = trainer["batch_size"] * trainer["accumulation"] * processes * length
    if shape is None:
        return Estimate(steps, steps * step, None, None, None)
    adapters, base = trained(shape, method)
    again = trainer["gradient_checkpointing"]
    seconds = max(step * flops(shape, base, again) / device.rate, device.floor)
    most, cpu = longest(config["task"]), device.memory is None
    if cpu and config["precision"] == "auto":
        config = {**config, "precision": "bf16" if fast_bf16("cpu") else "fp32"}
    assert most is not None
    free = device.memory or memory.limit() or 0
    data = held(config["task"])
    found = footprint.footprint(shape, method, config, most, cpu=cpu, free=free, data=data)
    return Estimate(
        steps=steps,
        tokens=steps * step,
        hours=steps * seconds / 3600,
        bytes=found.peak,
        trainable=adapters + sum(base.values()),
        host=found.host,
        refused=refused(config, method, "cpu" if cpu else "cuda", device.memory),
    )


def trainable(config: Mapping[str, Any], method: Method) -> int | None:
    """Parameters that the cell trains; None where the model's shape is not known."""
    shape = shape_of(config["model"])
    if shape is None:
        return None
    adapters, base = trained(shape, method)
    return adapters + sum(base.values())


def refused(
    config: Mapping[str, Any], method: Method, device: str, available: int | None = None
) -> str | None:
    """Why the cell cannot fit into a device's memory, with the settings that would; None: it may.

    available: bytes; None: of that device on this machine, where it says.
    """
    shape, length = shape_of(config["model"]), longest(config["task"])
    available = footprint.room(device) if available is None else available
    if shape is None or length is None or available is None:
        return None
    cell = (shape, method, config, length)
    cpu = device == "cpu"
    if footprint.fits(*cell, available, cpu=cpu):
        return None
    peak, processes = footprint.footprint(*cell, cpu=cpu).peak, config["distributed"]["processes"]
    each = f" in each of {processes} processes" if processes > 1 else ""
    found = footprint.remedy(*cell, available, cpu=cpu)
    workers = footprint.sharers(device)
    shared = f" for each of {workers} workers (hydra.launcher.workers)" if workers > 1 else ""
    return (
        f"needs about {_gb(peak)} of memory{each}, and the {'machine' if cpu else 'device'} has "
        f"{_gb(available)}{shared}: "
        + (f"try {found}." if found else "take a larger one, or a smaller model.")
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def example_tokens(task: Mapping[str, Any]) -> int | None:
    """Tokens in an example of the task, by its configuration."""
    if task.get("block"):
        return int(task["block"])
    usual = EXAMPLE_TOKENS.get(str(task.get("name")))
    most = task.get("max_tokens")
    return usual if usual is None or most is None else min(usual, int(most))


def longest(task: Mapping[str, Any]) -> int | None:
    """Tokens that an example may have at most: memory is that of the longest."""
    most = task.get("block") or task.get("max_tokens")
    usual = EXAMPLE_TOKENS.get(str(task.get("name")))
    return int(most) if most else usual and int(LONGER * usual)


def held(task: Mapping[str, Any]) -> int:
    """Bytes of the tokenised examples in a process's memory; 0 where their number isn't stated."""
    count = task.get("max_examples") or 0
    return TOKEN * count * (example_tokens(task) or 0) if count <= LARGE else 0


def flops(shape: Shape, base: Mapping[str, int], again: bool) -> float:
    """FLOPs a token of training; base: the model's own weights that train; again: recomputation."""
    learnt = sum(size for name, size in shape.multiplied.items() if name in base)
    total = sum(shape.multiplied.values())
    return 4 * total + 2 * learnt + (2 * total if again else 0)
