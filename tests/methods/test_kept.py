"""compute=cached: formed weights that are kept while training, and never a stale one."""

from __future__ import annotations

import copy
import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import AdapterMethod, kept, memory
from methods.base import adapted_layers
from methods.contract import llama
from methods.dora import DoRA
from methods.layer import AdapterLinear
from methods.lora import LoRA
from methods.mora import MoRA, Square
from methods.relora import ReLoRA
from methods.remora import ReMoRA
from methods.sparse import Sparse

SHARED: dict[str, Any] = {"rank": 4, "learning_rate": 1e-2}
RESTARTS = {"restart_every": 2, "restart_warmup": 1}
METHODS = {
    "lora": lambda **more: LoRA(**SHARED, **more),
    "dora": lambda **more: DoRA(**SHARED, **more),
    "sparse": lambda **more: Sparse(**SHARED, **more),
    "relora": lambda **more: ReLoRA(**SHARED, **RESTARTS, **more),
    "remora": lambda **more: ReMoRA(**SHARED, **RESTARTS, **more),
    "decoupling": lambda **more: MoRA(operator="decoupling", **SHARED, **more),
    "rotation": lambda **more: MoRA(**SHARED, **more),
}
OPTIMIZERS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
IDS = torch.arange(4 * 2 * 80).reshape(4, 2, 80) * 7 % 256  # tokens above the break-even of 32


def attached(method: AdapterMethod) -> nn.Module:
    model = llama()
    if hasattr(model.config, "max_position_embeddings"):
        model.config.max_position_embeddings = 128
    torch.manual_seed(1)
    method.attach(model)
    return model.train()


def trained(method: AdapterMethod, optimizer: dict[str, Any], steps: int = 3) -> list[Tensor]:
    """Losses and last weights of a few steps, each of two micro-batches and an evaluation."""
    model = attached(method)
    adam = torch.optim.AdamW(method.parameter_groups(model), **optimizer)
    found = []
    for step in range(1, steps + 1):
        for ids in IDS[:2]:
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            found.append(loss.detach())
        adam.step()
        adam.zero_grad()
        method.after_step(model, adam, step)
        with torch.no_grad():
            found.append(model.eval()(input_ids=IDS[2], labels=IDS[2]).loss)
        model.train()
    return found + [p.detach() for _, layer in adapted_layers(model) for p in layer.tensors]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, "fused") for n in METHODS] + [("rotation", k) for k in ("loop", "foreach")],
)
def test_cached_and_auto_train_as_fused_does_bit_for_bit(name, kind, monkeypatch) -> None:
    """torch's fused AdamW changes parameters without counting it."""
    optimizer = OPTIMIZERS[kind]
    expected = trained(METHODS[name](compute="fused"), optimizer)
    assert not torch.equal(expected[0], expected[3])
    for compute, share in (("cached", 0.0), ("auto", 0.5), ("auto", 0.0)):
        monkeypatch.setattr(kept, "SHARE", share)
        found = trained(METHODS[name](compute=compute), optimizer)
        assert all(map(torch.equal, found, expected)), (compute, share)


def formings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each weight that MoRA forms."""
    made, form = [], Square.form

    def counting(self: Square, *arguments: Any) -> Any:
        made.append(1)
        return form(self, *arguments)

    monkeypatch.setattr(Square, "form", counting)
    return made


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("compute", "often"), [("cached", 1), ("fused", 2 * 4)])
def test_each_weight_is_formed_once_a_step(compute, often, checkpointing, monkeypatch) -> None:
    """With four micro-batches of a forward and a backward pass each, and recomputation."""
    method = METHODS["rotation"](compute=compute)
    model = attached(method)
    layers = len(list(adapted_layers(model)))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        often = often if often == 1 else 3 * 4
    optimizer = torch.optim.AdamW(method.parameter_groups(model), fused=True)
    made = formings(monkeypatch)
    for step in range(1, 3):
        for ids in IDS:
            model.train()  # as transformers' Trainer does before each micro-batch
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert len(made) == step * often * layers


def layer_of(compute: str) -> AdapterLinear:
    model = nn.Sequential(nn.Linear(64, 96, bias=False))
    MoRA(rank=8, target_modules=["0"], compute=compute).attach(model)
    layer = model[0]
    assert isinstance(layer, AdapterLinear)
    return layer.train()


X = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))


SIZE = 64 * 96 * 4  # bytes of a kept weight of layer_of


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the bytes that may be kept with a share; nothing is kept before."""
    monkeypatch.setattr(kept, "_granted", type(kept._granted)())

    def room(size: float, share: float) -> None:
        def free(device: torch.device) -> int:
            held = sum(n for _, n in kept._granted.values())
            return round(size / share) - held

        monkeypatch.setattr(memory, "free", free)

    return room


def optimised(layer: AdapterLinear) -> torch.optim.Optimizer:
    """An optimiser of the layer's parameters that has made a step, of no size."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    optimizer.step()
    return optimizer


def test_auto_keeps_as_much_as_the_share_of_the_free_memory(room) -> None:
    room(2.5 * SIZE, kept.SHARE)
    layers = [layer_of("auto") for _ in range(4)]
    optimizers = [optimised(layer) for layer in layers]
    for layer in layers:
        layer(X)
    assert [layer.kept_bytes > 0 for layer in layers] == [True, True, False, False]
    layers[0] = layer_of("auto")  # the first one is gone, and its memory free again
    optimizers[0] = optimised(layers[0])
    layers[0](X)
    assert layers[0].kept_bytes
    layers[1].eval().train()  # gives back what it had, and is the last to ask
    layers[3].eval().train()
    layers[3](X)
    layers[1](X)
    assert layers[3].kept_bytes and not layers[1].kept_bytes
    torch.testing.assert_close(layers[1](X), layers[1].base(X))


@torch.no_grad()
def test_evaluation_keeps_a_share_of_its_own_and_says_the_same_without(room) -> None:
    room(1.5 * SIZE, kept.SHARE_IN_EVALUATION)
    for compute in ("auto", "fused"):
        torch.manual_seed(0)
        first, second = (layer_of(compute).eval() for _ in range(2))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(X), second(X))
        assert first.kept_bytes == SIZE and not second.kept_bytes
        assert not first.train().kept_bytes


def test_auto_keeps_nothing_of_what_is_trained_past_torch_optim() -> None:
    """A loop that writes through .data leaves no trace that a kept weight could be told old by."""
    ends = []
    for compute in ("fused", "auto"):
        torch.manual_seed(0)
        layer = layer_of(compute)
        optimised(layer_of("auto"))  # another's optimiser says nothing of this one
        for _ in range(3):
            layer(X).square().mean().backward()
            assert layer.M.grad is not None
            layer.M.data.sub_(layer.M.grad)
            layer.M.grad = None
        ends.append(layer(X))
        assert not layer.kept_bytes
    assert torch.equal(*ends)


@pytest.mark.parametrize("compute", ["auto", "fused", "cached"])
def test_weights_that_are_swapped_between_training_and_evaluation_count(compute) -> None:
    """As averaged weights (EMA) are, through .data; and in between, where one says so."""
    torch.manual_seed(0)
    layer = layer_of(compute)
    optimised(layer)
    found = []
    with torch.no_grad():
        for value in (0.0, 1.0, 2.0):
            layer.train()(X)
            layer.M.data.fill_(value)
            found.append(layer.eval()(X))
        layer.M.data.fill_(3.0)
        kept.changed()
        found.append(layer(X))
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert steps[0].abs().max() > 0.1
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compute", ["auto", "fused", "cached"])
def test_tensors_that_come_and_go_at_one_address_count(compute) -> None:
    """Those of functional_call live as long as the call: the next ones take their place."""
    layer = nn.Sequential()
    layer.add_module("q_proj", nn.Linear(256, 256, bias=False))
    MoRA(**SHARED, compute=compute, target_modules=["q_proj"]).attach(layer)
    layer.eval()
    x, m = torch.randn(4, 256), layer.q_proj.M
    with torch.no_grad():
        for scale in range(6):
            own = {"q_proj.M": torch.full_like(m, float(scale))}
            got = torch.func.functional_call(layer, own, (x,))
            del own
            m.data = torch.full_like(m, float(scale))
            layer.q_proj.compute = "plain"
            expected = layer(x)
            layer.q_proj.compute = compute
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_replicas_and_captured_graphs_keep_nothing(monkeypatch) -> None:
    """nn.DataParallel's live for one pass, in threads; a graph would hold the weight as it is."""
    layer = layer_of("cached")
    replica = layer._replicate_for_data_parallel()
    replica.M, replica.base = layer.M, layer.base
    assert torch.equal(replica(X), layer(X))
    assert layer.kept_bytes and not replica.kept_bytes
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    captured = layer_of("cached")
    captured(X)
    assert not captured.kept_bytes


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("compute", ["auto", "cached"])
def test_a_traced_graph_forms_its_own(compute) -> None:
    layer = layer_of(compute)
    layer(X)  # the tables of cos and sin are made once a process: not while tracing
    layer.eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, (X,))  # traces twice, and compares
        torch.testing.assert_close(traced(X), layer(X))
        traced.M.mul_(2)
        torch.testing.assert_close(traced(X), layer(X))


def test_a_kept_weight_is_no_part_of_the_layer(tmp_path: Path) -> None:
    """Neither of its state, nor of copies and pickles; and it does not outlive a conversion."""
    layer = layer_of("cached")
    before = io.BytesIO()
    torch.save(layer, before)
    layer(X)
    assert layer.kept_bytes == 64 * 96 * 4 and "keeps 24,576 bytes" in repr(layer)
    after = io.BytesIO()
    torch.save(layer, after)
    assert len(after.getvalue()) == len(before.getvalue())
    assert not copy.deepcopy(layer).kept_bytes
    assert not layer.double().kept_bytes


def test_merging_after_training_with_a_kept_weight() -> None:
    method = METHODS["rotation"](compute="cached")
    model = attached(method)
    optimizer = torch.optim.AdamW(method.parameter_groups(model), fused=True)
    model(input_ids=IDS[0], labels=IDS[0]).loss.backward()
    optimizer.step()
    with torch.no_grad():
        expected = model.eval()(input_ids=IDS[0]).logits
        merged = method.merge(model)(input_ids=IDS[0]).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from methods import MethodError
from tests.methods.test_kept import X, layer_of

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
results = {}
for compute in ("fused", "auto"):
    torch.manual_seed(0)
    layer = fully_shard(layer_of(compute), mesh=mesh)
    optimizer = torch.optim.AdamW([layer.M], lr=1e-2)
    for _ in range(3):
        y = layer(X)
        y.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    results[compute] = y
    assert not layer.kept_bytes
    with torch.no_grad():
        layer.eval()(X)
    assert not layer.kept_bytes
assert torch.equal(results["fused"], results["auto"])
try:
    fully_shard(layer_of("cached"), mesh=mesh)(X)
except MethodError as error:
    assert "use compute=fused" in str(error)
else:
    raise AssertionError("not refused")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_fsdp2_is_refused_in_words(root: Path, tmp_path: Path) -> None:
    """Its gathered parameters change without a trace; auto goes on without keeping anything."""
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path / "meeting")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
