"""A cell in several processes, started by torchrun or accelerate launch: DDP, FSDP2, DeepSpeed.

All processes load, train and score in step. The first alone claims the cell, writes and tells.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.run.method_card import MethodCard

ALONE: Mapping[str, Any] = {"strategy": "none", "processes": 1}  # as conf/distributed/none.yaml
STRATEGIES = ("none", "ddp", "fsdp2", "deepspeed")
# The others wait for the first, which may have a large model or its first data to fetch.
PATIENCE = timedelta(days=7)

_control: Any = None  # a group on the CPU, for words between processes


def world() -> int:
    """Processes that work at a cell together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", 0)) if world() > 1 else 0


def first() -> bool:
    """Whether this is the process that leases the cell, writes its files and prints."""
    return rank() == 0


def starter() -> list[str]:
    """What a command line begins with that starts as many processes, up to -m."""
    if world() == 1:
        return ["python"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world()))  # on this machine
    nodes = [] if here == world() else [f"--nnodes={world() // here}"]
    return ["torchrun", *nodes, f"--nproc-per-node={here}"]


def command(processes: int, overrides: Sequence[str]) -> str:
    """The command for one cell that so many processes of this machine train."""
    start = ["torchrun", f"--nproc-per-node={processes}", "-m", "bench"]
    return shlex.join([*start, *overrides])


def check(settings: Mapping[str, Any], method: MethodCard) -> None:
    """Raise UserError unless the processes that were started are those of conf/distributed."""
    strategy, processes = settings["strategy"], settings["processes"]
    if strategy not in STRATEGIES:
        raise UserError(
            f"distributed.strategy={strategy} is unknown; choose {' | '.join(STRATEGIES)}."
        )
    if strategy == "none" and max(world(), processes) > 1:
        raise UserError(
            f"distributed=none trains a cell in one process (distributed.processes={processes}, "
            f"started: {world()}). For more choose distributed=ddp or distributed=fsdp2."
        )
    if processes != world():
        started = "1 process was" if world() == 1 else f"{world()} processes were"
        chosen = [f"distributed={strategy}", f"distributed.processes={processes}"]
        raise UserError(
            f"distributed.processes={processes}, but {started} started. Start as many: "
            f"{command(processes, chosen)} ..."
        )
    if strategy == "fsdp2" and method.settings.get("compute") == "cached":
        raise UserError(
            "method.compute=cached keeps each weight whole on every device, and distributed=fsdp2 "
            "shards them: choose method.compute=fused, or auto."
        )
    if strategy != "deepspeed":
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("distributed=deepspeed needs the package deepspeed: pip install deepspeed.")
    if "restart_every" in method.settings:  # its own copy of the weights would undo them
        raise UserError(
            f"{method.label} restarts, which DeepSpeed does not let it do: choose distributed=ddp "
            "or distributed=fsdp2."
        )


def join(device: str) -> None:
    """Meet the other processes; nothing where there are none."""
    global _control
    if joined():
        return
    import torch
    from torch import distributed

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=2))
    _control = distributed.new_group(backend="gloo", timeout=PATIENCE)


def joined() -> bool:
    """Whether words can pass between the processes, or there is only one."""
    return world() == 1 or _control is not None


def tell(value: Any = None) -> Any:
    """The first process's value, in all of them."""
    if world() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def wait_for_first() -> None:
    """Return once the first process has come here as well, or is gone.

    No process exits while the first one writes: when one exits with a status other than 0, torchrun
    ends the others.
    """
    with suppress(RuntimeError):
        tell()


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the first; nothing in the others."""
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] | None = [None] * world() if first() else None
    distributed.gather_object(value, values, dst=0, group=_control)
    return values or []


def total(numbers: Sequence[float]) -> list[float]:
    """Sums over all processes."""
    if world() == 1:
        return list(numbers)
    import torch
    from torch import distributed

    sums = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(sums, group=_control)
    found: list[float] = sums.tolist()
    return found


def arguments(settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The TrainingArguments of the chosen strategy; for FSDP2 sharding.py has cut the model."""
    strategy = settings["strategy"]
    if strategy == "none":
        return {}
    found: dict[str, Any] = {
        "ddp_backend": "gloo" if device.type == "cpu" else "nccl",
        "ddp_find_unused_parameters": False,
    }
    if strategy == "deepspeed":
        found |= {"deepspeed": dict(settings["deepspeed"])}
    return found


class Shares:
    """The batches of all processes in turn: each has its share of every global batch.

    ``batch_size`` examples each, ``processes`` batches a step. An epoch's last examples are shared
    out as evenly as can be, none of them twice, so that the steps are those of one process that
    has the global batch to itself; a process may get none of them.
    """

    def __init__(self, sampler: Any, batch_size: int, processes: int) -> None:
        self.sampler = sampler  # accelerate puts a seeded one in its place
        self.examples, self.processes = batch_size * processes, processes
        self.batch_size, self.drop_last = None, False  # to accelerate: of varying size, all of them

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.examples) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        while batch := list(islice(order, self.examples)):
            bounds = [len(batch) * i // self.processes for i in range(self.processes + 1)]
            yield from (batch[begin:end] for begin, end in pairwise(bounds))


# ---- FSDP2: each process holds a part of every parameter ---------------------------------------


def shards(model: nn.Module) -> list[Any]:
    """The modules that FSDP2 has taken in hand; none where it is not in use."""
    if world() == 1:
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def reshard(model: nn.Module) -> list[Any]:
    """Leave each process its part alone; a forward pass may have left more. Gives ``shards``."""
    modules = shards(model)
    for module in modules:
        module.reshard()
    return modules


@contextmanager
def whole(model: nn.Module, *, write: bool = False) -> Iterator[None]:
    """Inside, every parameter is whole in every process.

    write: what is put into them there, the same in all processes, stays.
    """
    modules = reshard(model)
    parts = dict(model.named_parameters()) if modules else {}
    for module in modules:
        module.unshard()
    try:
        yield
        if modules and write:
            for name, parameter in model.named_parameters():
                _put(parts[name], parameter)
    finally:
        for module in modules:
            module.reshard()


def make_whole(model: nn.Module) -> None:
    """Every parameter whole in every process from now on: training is over."""
    for module in shards(model):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


class WholeOptimizer:
    """An optimiser as a method's after_step sees it inside `whole`: its state by whole parameter.

    Made before `whole`; inside, `gather` and then `scatter`: state that was dropped is dropped in
    the optimiser, moments that were changed in place are changed there.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self.optimizer, self.model = optimizer, model
        self.parts = dict(model.named_parameters())
        self.state: dict[Any, dict[str, Any]] = {}

    def gather(self) -> None:
        """Collect the state of every parameter, whole, in ``state``. For all processes to call."""
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(self.parts[name])
            if state is not None:
                self.state[parameter] = {key: _whole(value) for key, value in state.items()}

    def scatter(self) -> None:
        """Write ``state`` back into each process's part of the optimiser."""
        for name, parameter in self.model.named_parameters():
            part = self.parts[name]
            if parameter not in self.state:
                self.optimizer.state.pop(part, None)
                continue
            for key, value in self.optimizer.state[part].items():
                _put(value, self.state[parameter][key])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state_dict; in the first process whole and on the CPU where it is sharded.

    For all to call; the others, which write nothing, keep nothing either.
    """
    content: dict[str, Any] = optimizer.state_dict()
    if world() > 1:
        content["state"] = {
            number: {key: _in_first(value) for key, value in state.items()}
            for number, state in content["state"].items()
        }
    return content


def load_optimizer_state(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """Put a whole state back, into an optimiser of sharded parameters as well."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, state in content["state"].items() if world() > 1 else ():
        for key, value in state.items():
            if value.shape == parameters[number].shape:
                state[key] = _part(value, parameters[number])
    optimizer.load_state_dict(content)


def _whole(value: Any) -> Any:
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def _in_first(value: Any) -> Any:
    """A whole value on the CPU of the first process; None in the others."""
    from torch import Tensor

    value = _whole(value)
    if not first():
        return None
    return value.cpu() if isinstance(value, Tensor) else value


def _part(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, sharded as `like` is (or not)."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    value = value.detach().to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _put(target: Any, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that is sharded; one that is not holds it already."""
    import torch
    from torch.distributed.tensor import DTensor

    if isinstance(target, DTensor):
        part = _part(value, target)
        assert isinstance(part, DTensor)
        with torch.no_grad():
            target.to_local().copy_(part.to_local())
