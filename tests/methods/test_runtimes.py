"""The fused layer where training runs: compiled, checkpointed, under autocast, in two processes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from methods import FFT, AdapterLinear, AdapterMethod, Method, ReMoRA, load_adapter
from methods.asylora import AsyLoRA
from methods.base import adapted_layers
from methods.contract import llama
from methods.dora import DoRA
from methods.lora import LoRA
from methods.lora_plus import LoRAPlus
from methods.mora import MoRA
from methods.relora import ReLoRA
from methods.sparse import Sparse
from tests.methods.conftest import Shapes, inputs

SHARED: dict[str, Any] = {"rank": 8, "learning_rate": 1e-3, "compute": "fused"}
METHODS: dict[str, AdapterMethod] = {
    "lora": LoRA(**SHARED),
    "asylora": AsyLoRA(freeze_a=True, **SHARED),
    "dora": DoRA(**SHARED),
    "sparse": Sparse(**SHARED),
    "lora_cached": LoRA(**SHARED | {"compute": "cached"}),
    "rotation_cached": MoRA(**SHARED | {"compute": "cached"}),
    "rotation_auto": MoRA(**SHARED | {"compute": "auto"}),
    **{
        operator: MoRA(operator=operator, **SHARED)
        for operator in ("truncation", "sharing", "decoupling", "rotation")
    },
}
FAST = ("dora", "rotation_auto")  # to compile the others is slow
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def nudged(method: AdapterMethod, model: nn.Module) -> nn.Module:
    """``model`` with the method attached, away from its start."""
    method = copy.copy(method)
    if isinstance(model, Shapes):
        method.target_modules = ("layers.*",)
    torch.manual_seed(1)
    method.attach(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    return model.train()


def layers() -> Shapes:
    torch.manual_seed(0)
    return Shapes(torch.float32)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        assert value is not None and value.abs().max() > 0, name
        error = (found[name].float() - value.float()).abs().max() / value.float().abs().max()
        assert error <= tolerance, (name, float(error))


def step(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return gradients(model) | {"logits": logits.detach()}


IDS = torch.arange(24).reshape(2, 12) * 7 % 256


def compiled_means_the_same(method: AdapterMethod, backend: str) -> None:
    method = copy.copy(method)
    method.target_modules = ("0", "2")
    torch.manual_seed(0)
    model = nudged(method, nn.Sequential(nn.Linear(50, 70), nn.GELU(), nn.Linear(70, 50)))
    x = torch.randn(40, 50)
    outputs, found = [], []
    torch._dynamo.reset()
    # Compiled first: an eager run would fill caches that the graph has to do without.
    for run in (torch.compile(model, backend=backend, fullgraph=True), model):
        model.zero_grad()
        outputs.append(run(x))
        outputs[-1].square().mean().backward()
        found.append({n: g.clone() for n, g in gradients(model).items()})
    same({"y": outputs[0].detach()}, {"y": outputs[1].detach()}, 1e-5)
    same(found[0], found[1], 1e-5)


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, id=name, marks=() if name in FAST else pytest.mark.slow)
     for name, method in METHODS.items()],
)  # fmt: skip
def test_compiled(method: AdapterMethod) -> None:
    """The graph is captured without a break, forward and backward."""
    compiled_means_the_same(method, "aot_eager")


@pytest.mark.slow
@every_method
def test_compiled_to_machine_code(method: AdapterMethod) -> None:
    compiled_means_the_same(method, "inductor")


@every_method
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(method: AdapterMethod, reentrant: bool) -> None:
    model = nudged(method, llama())
    expected = step(model, IDS)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    if reentrant:  # it needs an input with a gradient, which frozen embeddings do not give
        model.enable_input_require_grads()
    same(step(model, IDS), expected, 1e-6)


@every_method
def test_autocast(method: AdapterMethod) -> None:
    """fp32 weights under bf16 autocast: bf16 outputs, fp32 gradients near those of fp32."""
    model = nudged(method, layers())
    xs = inputs(64)

    def run() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model.zero_grad()
        ys = model(xs)
        torch.stack([y.float().square().mean() for y in ys.values()]).sum().backward()
        return {n: y.detach() for n, y in ys.items()}, gradients(model)

    ys, expected = run()
    expected = {n: g.clone() for n, g in expected.items()}
    with torch.autocast("cpu", torch.bfloat16):
        narrow, found = run()
    assert all(y.dtype == torch.bfloat16 for y in narrow.values())
    assert all(g.dtype == torch.float32 for g in found.values())
    same(narrow, ys, 2e-2)
    same(found, expected, 3e-2)


@every_method
@pytest.mark.parametrize("compute", ["cached", "fused"])
def test_nothing_but_the_input_is_kept_for_backward(method: AdapterMethod, compute: str) -> None:
    """And DoRA's y, apart from the output, which the next module may change in place."""
    method = copy.copy(method)
    method.compute = compute
    model = nudged(method, layers())
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    for name, x in inputs(5).items():
        layer = model.layers[name]
        found, y = kept(layer, x)
        beside = [p for p in found if p not in own]
        assert beside[0] == x.data_ptr() and y.data_ptr() not in beside
        assert len(beside) == 1 + layer.delta.needs_output


@pytest.mark.parametrize("tokens", [4, 4000])  # below and above the break-even
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [LoRA, DoRA, MoRA])
def test_the_output_may_be_changed_in_place(kind: Any, bias: bool, tokens: int) -> None:
    def gradient(inplace: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 70, bias=bias), nn.ReLU(inplace), nn.Linear(70, 50))
        nudged(kind(rank=4, target_modules=["0"]), model)
        model(torch.randn(tokens, 50)).square().mean().backward()
        return gradients(model)

    same(gradient(True), gradient(False), 1e-6)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
@pytest.mark.parametrize(
    "method", [LoRA(rank=4, learning_rate=1e-2), MoRA(rank=4, also_train=["*norm"]), FFT(),
               ReMoRA(rank=4, restart_every=1, restart_warmup=0)], ids=lambda m: m.name
)  # fmt: skip
def test_a_wrapper_s_prefix_is_in_no_name(method: Any, wrap: Any, tmp_path: Path) -> None:
    model = llama()
    method.attach(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    wrapped = wrap(model.train())
    method.after_step(wrapped, torch.optim.SGD(model.parameters()), 1)
    assert method.state(wrapped).keys() == method.state(model).keys()
    assert method.delta_weights(wrapped).keys() == method.delta_weights(model).keys()
    method.save(wrapped, tmp_path)
    plain, ids = llama(), {"input_ids": IDS}
    load_adapter(plain, tmp_path)
    if method.name == "lora":
        assert torch.equal(
            PeftModel.from_pretrained(llama(), tmp_path)(**ids).logits, plain(**ids).logits
        )
    method.load(wrapped, tmp_path)
    with torch.no_grad():
        expected = model.eval()(**ids).logits
        assert torch.equal(plain.eval()(**ids).logits, expected)
    method.merge(wrapped)
    assert not any(True for _ in adapted_layers(model))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
def test_full_fine_tuning_of_a_model_that_is_wrapped_already(wrap: Any) -> None:
    method, model = FFT(), llama()
    wrapped = wrap(model)
    method.attach(wrapped)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight += 1
    for named in (wrapped, model):
        delta = method.delta_weights(named)["model.layers.0.self_attn.q_proj"]
        assert torch.allclose(delta, torch.ones_like(delta))


def kept(layer: nn.Module, x: Tensor) -> tuple[list[int], Tensor]:
    """Addresses of what autograd saves for the backward pass of ``layer``, and its output."""
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x.requires_grad_())
    return saved, y


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_method
def test_cuda_agrees_with_the_cpu(method: AdapterMethod) -> None:
    model = nudged(method, llama())
    expected = {n: t.clone() for n, t in step(model, IDS).items()}
    found = step(model.cuda(), IDS.cuda())
    same({n: t.cpu() for n, t in found.items()}, expected, 1e-3)


FAKE = FakeTensorMode()  # one for all: operators keep tables of indices by device
# Sparse draws its places by `unique`, whose size nobody knows without numbers.
PLACED: dict[str, Method] = {name: m for name, m in METHODS.items() if name != "sparse"} | {
    "fft": FFT(learning_rate=1e-4),
    "lora_plus": LoRAPlus(**SHARED),
    "relora": ReLoRA(restart_every=2, restart_warmup=0, **SHARED),
    "remora": ReMoRA(restart_every=2, restart_warmup=0, **SHARED),
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("method", PLACED.values(), ids=PLACED)
def test_nothing_is_made_on_another_device(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers tell devices apart: a stray one is seen without a GPU."""
    for draw in ("uniform_", "normal_"):  # a fake tensor would look for its device's generator
        monkeypatch.setattr(Tensor, draw, lambda tensor, *_, **__: tensor)
    model, method = llama(), copy.copy(method)
    with FAKE:
        for module in model.modules():
            for name, p in [*module.named_parameters(recurse=False)]:
                setattr(module, name, nn.Parameter(torch.empty(p.shape, device="meta")))
            for name, buffer in [*module.named_buffers(recurse=False)]:
                setattr(module, name, torch.empty(buffer.shape, device="meta"))
        method.attach(model)
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
        ids = torch.zeros(2, 12, dtype=torch.long, device="meta")
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            model.model.layers[0].self_attn.q_proj(torch.zeros(2, 32))
        optimizer = torch.optim.AdamW(method.parameter_groups(model))
        for number in range(1, 4):
            model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(model, optimizer, number)
        with torch.no_grad():
            model.eval()(input_ids=ids, use_cache=False)
            if isinstance(method, AdapterMethod):
                assert {d.device.type for d in method.delta_weights(model).values()} == {"meta"}
            method.merge(model)(input_ids=ids, use_cache=False)


def test_in_evaluation_the_formed_weight_is_kept_until_something_changes(tmp_path) -> None:
    method = MoRA(rank=8, learning_rate=1e-3, target_modules=["layers.*"])
    model = nudged(method, layers()).eval()
    _, layer = next(iter(adapted_layers(model)))
    assert isinstance(layer, AdapterLinear)
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        first = layer(x)
        assert layer._kept(x.dtype) is layer._kept(x.dtype) is not None
        method.save(model, tmp_path)
        layer.M.mul_(2)
        doubled = layer(x)
        assert not torch.equal(doubled, first)
        method.load(model, tmp_path)
        assert torch.equal(layer(x), first)
        layer.merge_into_base()
        layer.M.zero_()
        torch.testing.assert_close(layer(x), first)
        layer.base.weight.zero_()
        assert not layer(x).any()


PROCESS = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.methods.test_runtimes import METHODS, gradients, inputs, layers, nudged, same

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for name, method in METHODS.items():
    alone, model = (nudged(method, layers()) for _ in range(2))
    together = DistributedDataParallel(model)

    def run(model, half):
        ys = model({n: x[half] for n, x in inputs(5).items()})
        torch.stack([y.square().mean() for y in ys.values()]).sum().backward()

    optimizers = [torch.optim.SGD(m.parameters(), lr=0.03, fused=True) for m in (alone, model)]
    for step in range(3):
        run(alone, slice(None))
        run(together, slice(rank, rank + 1))
        same(gradients(model), gradients(alone), 1e-5 * 10**step)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_average_their_gradients(root: Path, tmp_path: Path) -> None:
    """At three steps: a weight that is kept from one to the next would show."""
    command = [sys.executable, "-c", PROCESS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            env=environment,
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
