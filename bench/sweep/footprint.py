"""The memory that a cell needs, in its parts, by arithmetic; whether it fits, and what would.

Held to within 15 % of measured peaks by tests/bench/sweep/test_estimate.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.sweep.shapes import Shape, adapted, trained
from methods import memory

if TYPE_CHECKING:
    from methods import Method

FORMULAS = """\
memory   of one process at its fullest: weights (fp32 where the base trains or is merged into), two
         Adam moments of what trains, weights that adapters keep formed, and the larger of two:
         what a forward pass keeps (activations, the logits and their gradient, bf16 copies of fp32
         weights), or fp32 gradients and what the optimiser's step takes. fsdp2 divides weights,
         gradients and moments, and holds one layer whole; on a CPU the libraries come on top
host     of the machine, all processes together: libraries, weights as they are read (fsdp2: once),
         as many tokenised examples as task.max_examples states (a large set lies on disk), and a
         checkpoint's values and moments in the first process"""

LIBRARIES = 540_000_000  # resident bytes of Python with torch, transformers and datasets, on Linux
TOKENIZER = 2_000  # bytes an entry of the vocabulary
SLACK = 1.15  # what is above this times the room is refused: the estimate is no better
PROCESSES = (1, 2, 4, 8, 16)
# By a device's kind, in the environment of a sweep's workers: how many of them share its memory.
SHARERS = {"cpu": "MORA_BENCH_WORKERS", "cuda": "MORA_BENCH_WORKERS_A_GPU"}


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process, by part, and of the machine that all of them run on."""

    libraries: int
    data: int  # tokenised examples
    weights: int
    start: int  # a copy of the weights that delta W counts from
    moments: int
    formed: int  # W + delta W, where adapters keep it within a step
    gradients: int
    kept: int  # by a forward pass, for the backward pass
    step: int  # beside gradients, by the optimiser's step
    host: int  # in the machine's own memory, by all processes together

    @property
    def peak(self) -> int:
        """All that is held at once at the fullest moment of a step."""
        held = self.libraries + self.data + self.weights + self.start + self.moments + self.formed
        return held + max(self.kept, self.gradients + self.step)


def footprint(
    shape: Shape,
    method: Method,
    config: Mapping[str, Any],
    length: int,
    *,
    cpu: bool,
    free: int = 0,
    data: int = 0,
) -> Footprint:
    """Of a cell whose longest example has ``length`` tokens; cpu: on a CPU, else on a GPU.

    free: bytes of which adapters with compute=auto may take a share for weights that they form.
    data: bytes of tokenised examples that each process holds.
    """
    trainer, spread = config["trainer"], config["distributed"]
    fp32 = config["precision"] == "fp32"
    narrow = 4 if fp32 else 2  # bytes of a value in matrix products
    wide = 4 if method.fp32_base else narrow  # of a weight, and between layers
    adapters, base = trained(shape, method)
    learnt = adapters + sum(base.values())
    weights = wide * shape.parameters + 4 * adapters
    if not method.trains_base:
        weights += (4 - wide) * sum(base.values())
    gradients, moments = 4 * learnt, 8 * learnt
    whole = 0
    processes = spread["processes"]
    if spread["strategy"] == "fsdp2":
        weights, gradients, moments = (n // processes for n in (weights, gradients, moments))
        # A layer's weights and gradients whole, and again as they are gathered and scattered.
        whole = 2 * shape.unit * (wide + (4 if method.trains_base else 0))
    elif spread["strategy"] == "deepspeed":  # stage 2
        gradients, moments = gradients // processes, moments // processes
    elif spread["strategy"] == "ddp":
        whole = gradients  # the buckets that are averaged
    step = trainer["pad_to_multiple_of"]
    tokens = trainer["batch_size"] * math.ceil(length / step) * step
    kept = tokens * _a_token(shape, method, config, tokens // trainer["batch_size"], narrow, wide)
    if cpu and narrow < 4:  # matrix products there are of fp32 copies: the logits' gradient, twice
        kept += 6 * shape.vocabulary * tokens
    kept += 4 * base.get(shape.head, 0)  # its gradient is there before the layers' are
    if wide > narrow:
        kept += narrow * sum(size for name, size in shape.multiplied.items())
    if trainer["accumulation"] > 1:
        kept += gradients
    looks = config["analysis"]["spectrum"] or config["analysis"]["rank_cuts"]
    start = 4 * sum(a * b for a, b in shape.linears.values()) if looks else 0
    libraries = LIBRARIES + TOKENIZER * shape.vocabulary
    sharded = spread["strategy"] == "fsdp2"
    start = start if method.trains_base and not sharded else 0
    largest = max([*base.values(), 0])
    found = Footprint(
        libraries=libraries if cpu else 0,
        data=data if cpu else 0,
        weights=weights,
        start=start if cpu else 0,
        moments=moments,
        formed=0 if sharded else _formed(shape, method, narrow, free),
        gradients=gradients,
        kept=kept + whole,
        step=4 * largest if cpu else gradients + whole,  # GPUs update all parameters at once
        host=0,
    )
    # The first process writes checkpoints, in which what trains and its moments are whole.
    saved = 12 * learnt if trainer["checkpoint_every"] or trainer["checkpoint_minutes"] else 0
    if cpu:
        return replace(found, host=processes * found.peak + (saved if sharded else 0))
    read = wide * shape.parameters  # by each process; mapped, and so shared, where it is sharded
    each = libraries + data + start + (0 if sharded else read)
    return replace(found, host=processes * each + (read if sharded else 0) + saved)


def _formed(shape: Shape, method: Method, narrow: int, free: int) -> int:
    """Bytes of the weights that adapters keep formed, as methods/kept.py grants them."""
    from methods.kept import SHARE

    compute = None if method.trains_base else getattr(method, "compute", None)
    if compute not in ("auto", "cached"):
        return 0
    size = narrow * sum(a * b for a, b in adapted(shape, method).values())
    return size if compute == "cached" else min(size, int(SHARE * free))


def _a_token(
    shape: Shape, method: Method, config: Mapping[str, Any], length: int, narrow: int, wide: int
) -> int:
    """Bytes that a forward pass keeps for each token: of layers as LLaMA's, and of the head."""
    norms_train = method.trains_base or any("norm" in n for n in getattr(method, "also_train", ()))
    # An RMSNorm keeps its input in fp32, and its output before the weight where that trains.
    layer = 2 * 4 * shape.hidden * (2 if norms_train else 1)
    # Seven linear layers keep their inputs, which q, k, v and gate, up share unless each casts its.
    layer += narrow * shape.hidden * (5 if wide > narrow else 2)
    layer += narrow * (2 * shape.query + 2 * shape.key_value + 4 * shape.intermediate)
    if config["model"]["attention"] == "eager":
        layer += 2 * shape.heads * length * narrow  # scores and probabilities
    if config["trainer"]["gradient_checkpointing"]:
        layers = layer + shape.layers * shape.hidden * wide
    else:
        layers = layer * shape.layers
    # The logits' logarithm, its gradient and theirs, all fp32.
    return layers + 12 * shape.vocabulary


# ---- does it fit? ------------------------------------------------------------------------------


def room(device: str) -> int | None:
    """Bytes that a cell may take of the device it will run on: ``cuda``, ``cuda:0``, ``cpu``."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory) // sharers(device)
    whole = memory.limit() if device == "cpu" else None
    return None if whole is None else whole // sharers(device)


def sharers(device: str) -> int:
    """Workers of one sweep that share the device's memory, this process among them."""
    return int(os.environ.get(SHARERS.get(device.partition(":")[0], ""), 1))


def fits(
    shape: Shape,
    method: Method,
    config: Mapping[str, Any],
    length: int,
    available: int,
    *,
    cpu: bool,
) -> bool:
    """Whether the cell may fit into so many bytes, which on a CPU all its processes share."""
    found = footprint(shape, method, config, length, cpu=cpu)
    return (found.host if cpu else found.peak) <= SLACK * available


def remedy(
    shape: Shape,
    method: Method,
    config: Mapping[str, Any],
    length: int,
    available: int,
    *,
    cpu: bool,
) -> str | None:
    """The settings nearest to the cell's with which it fits, as overrides; None: there are none.

    The examples of a step stay as many as they are. More processes are more devices.
    """
    for changes in _nearest(config, cpu):
        changed = {
            **config,
            "trainer": {**config["trainer"], **changes["trainer"]},
            "distributed": changes["distributed"],
        }
        if fits(shape, method, changed, length, available, cpu=cpu):
            return " ".join(_overrides(config, changed))
    return None


def _nearest(config: Mapping[str, Any], cpu: bool) -> Iterator[dict[str, Any]]:
    """Checkpointing first, then smaller batches, then fsdp2 over more and more devices."""
    trainer, now = config["trainer"], config["distributed"]
    examples = trainer["batch_size"] * trainer["accumulation"] * now["processes"]
    for processes in (1,) if cpu else PROCESSES:
        if processes < now["processes"] or examples % processes:
            continue
        same = processes == now["processes"]
        spread = now if same else {"strategy": "fsdp2", "processes": processes}
        batch = min(trainer["batch_size"], examples // processes)
        while batch:
            for again in dict.fromkeys((trainer["gradient_checkpointing"], True)):
                if examples % (processes * batch) == 0:
                    yield {
                        "distributed": spread,
                        "trainer": {
                            "batch_size": batch,
                            "accumulation": examples // (processes * batch),
                            "gradient_checkpointing": again,
                        },
                    }
            batch //= 2


def _overrides(config: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[str]:
    strategy, processes = (changed["distributed"][key] for key in ("strategy", "processes"))
    if processes != config["distributed"]["processes"]:
        yield f"distributed={strategy} distributed.processes={processes}"
    for key, value in changed["trainer"].items():
        if value != config["trainer"][key]:
            yield f"trainer.{key}={str(value).lower()}"
