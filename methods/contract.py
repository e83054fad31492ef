"""What every method promises, as checks that run on any method and any small model.

The tests run them for every YAML of conf/method, ``python -m methods.peft_tuners`` for the tuners
of peft. Each check trains on fresh copies and raises ContractBroken with what was found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from methods.base import AdapterMethod, Method, adapted_layers
from methods.layer import Compute
from methods.loading import load_adapter
from methods.targets import target_layers

Outputs = dict[str, Tensor]


class ContractBroken(AssertionError):
    """A method does not do what methods/base.py promises."""


@dataclass(frozen=True)
class Subject:
    """A method and a model to check it on.

    make_model: gives the same weights at each call.
    run: the model's outputs on fixed inputs, by name, in the dtype of the model.
    tolerance: of outputs, relative to the largest entry.
    """

    make_method: Callable[[], Method]
    make_model: Callable[[], nn.Module]
    run: Callable[[nn.Module], Outputs]
    tolerance: float = 1e-5

    def attached(self) -> tuple[Method, nn.Module]:
        """A new method attached to a new model, always with the same random start."""
        method, model = self.make_method(), self.make_model()
        torch.manual_seed(1)
        method.attach(model)
        return method, model

    def outputs(self, model: nn.Module, *, training: bool = False) -> Outputs:
        """``run``'s outputs, detached. training: in training mode and with gradients enabled."""
        model.train(training)
        with torch.set_grad_enabled(training):
            return {name: y.detach() for name, y in self.run(model).items()}

    def plain_outputs(self, model: nn.Module) -> Outputs:
        """Outputs of adapted layers through activations, where no weight W + delta W is formed.

        Merging forms that weight, so that it is compared with these.
        """
        computes = {layer: layer.compute for _, layer in adapted_layers(model)}
        for layer in computes:
            layer.compute = "plain"
        found = self.outputs(model)
        for layer, compute in computes.items():
            layer.compute = compute
        return found

    def loss(self, model: nn.Module) -> Tensor:
        """A loss with a gradient for every output."""
        generator = torch.Generator().manual_seed(2)
        terms = []
        for y in self.run(model).values():
            target = torch.randn(y.shape, generator=generator, dtype=torch.float64)
            terms.append((y - target.to(y)).square().mean())
        return torch.stack(terms).sum()

    def train(
        self, method: Method, model: nn.Module, steps: range, optimizer: torch.optim.Optimizer
    ) -> None:
        """Optimiser steps with these numbers (from 1) on ``loss``, each followed by after_step."""
        model.train()
        for step in steps:
            self.loss(model).backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(model, optimizer, step)

    def trained(self, steps: int = 3) -> tuple[Method, nn.Module]:
        """A new method and its model after ``steps`` steps of AdamW."""
        method, model = self.attached()
        self.train(method, model, range(1, steps + 1), optimizer_of(method, model))
        return method, model


def llama() -> nn.Module:
    """A random LLaMA with grouped queries and tied embeddings, of under 50,000 parameters.

    Needs transformers; always the same weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def run_llama(model: nn.Module) -> Outputs:
    """Logits on fixed tokens."""
    ids = torch.arange(24).reshape(2, 12) * 7 % 256
    return {"logits": model(input_ids=ids).logits}


def optimizer_of(method: Method, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW on the method's parameter groups, without weight decay."""
    return torch.optim.AdamW(method.parameter_groups(model), weight_decay=0.0)


def identity(subject: Subject) -> None:
    """Attaching changes no output, neither in training nor in evaluation."""
    expected = subject.outputs(subject.make_model())
    _, model = subject.attached()
    for training in (True, False):
        found = subject.outputs(model, training=training)
        _same(found, expected, subject.tolerance, f"after attach, training={training}")


def frozen(subject: Subject) -> None:
    """An optimiser step leaves what is frozen bit-equal, and moves something else."""
    method, model = subject.attached()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    subject.train(method, model, range(1, 2), optimizer_of(method, model))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    allowed = {n for n, p in model.named_parameters() if p.requires_grad}
    _require(moved <= allowed, f"frozen parameters moved: {sorted(moved - allowed)}")
    _require(bool(moved), "a step moved no parameter")


def delta_weights(subject: Subject) -> None:
    """The original weights plus delta_weights give the outputs."""
    method, model = subject.trained()
    found, deltas = subject.plain_outputs(model), method.delta_weights(model)
    _require(set(deltas) == set(_targets(subject)), f"delta_weights names {sorted(deltas)}")
    rebuilt = subject.make_model()
    beside = method.merge(model).state_dict()
    for name, value in rebuilt.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in deltas and name.endswith(".weight"):
            _require(deltas[layer].shape == value.shape, f"delta W of {layer} has another shape")
            _require(deltas[layer].dtype in (torch.float32, torch.float64), "delta W is narrow")
            value.copy_(value.to(deltas[layer].dtype) + deltas[layer])
        else:
            value.copy_(beside[name])
    _same(subject.outputs(rebuilt), found, subject.tolerance, "W + delta W")


def merge(subject: Subject) -> None:
    """Merging keeps the outputs, gives the plain modules back, and merging twice merges once."""
    method, model = subject.trained()
    expected = subject.plain_outputs(model)
    merged = method.merge(model)
    _same(subject.outputs(merged), expected, subject.tolerance, "merged")
    plain = subject.make_model()
    kinds = {n: type(m) for n, m in plain.named_modules()}
    _require({n: type(m) for n, m in merged.named_modules()} == kinds, "not a plain model")
    once = {n: t.clone() for n, t in merged.state_dict().items()}
    _require(set(once) == set(plain.state_dict()), "the merged model has other weights")
    again = method.merge(merged).state_dict()
    _require(all(torch.equal(again[n], t) for n, t in once.items()), "merging twice adds twice")


def saves_pretrained(subject: Subject) -> None:
    """The merged model, where it is a transformers one, is saved and read like any other."""
    method, model = subject.trained()
    expected = subject.plain_outputs(model)
    merged = method.merge(model)
    if not hasattr(merged, "save_pretrained"):
        return
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder)  # type: ignore[operator]
        again = type(merged).from_pretrained(folder)  # type: ignore[attr-defined]
    _same(subject.outputs(again), expected, subject.tolerance, "after from_pretrained")


def save_and_load(subject: Subject) -> None:
    """A saved adapter gives the same outputs and delta W on a fresh model, by either way."""
    method, model = subject.trained()
    expected, deltas = subject.outputs(model), method.delta_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        _require(method.save(model, folder).is_file(), "save names no file")
        other, fresh = subject.attached()
        other.load(fresh, folder)
        found = subject.make_model()
        torch.manual_seed(3)
        loaded = load_adapter(found, Path(folder))
    kind = type(loaded)
    _require(kind is type(method), f"load_adapter took it for {kind.__name__}")
    for own, restored in ((other, fresh), (loaded, found)):
        _same(subject.outputs(restored), expected, subject.tolerance, "loaded")
        _same(own.delta_weights(restored), deltas, subject.tolerance, "loaded delta W")


def parameter_groups(subject: Subject) -> None:
    """The groups hold every trainable parameter exactly once, each with a learning rate."""
    method, model = subject.attached()
    groups = method.parameter_groups(model)
    listed = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    _require(len(listed) == len(set(listed)), "a parameter is in two groups")
    _require(set(listed) == trainable, "the groups are not the trainable parameters")
    _require(all(group["lr"] > 0 for group in groups), "a group has no learning rate")


def counts(subject: Subject) -> None:
    """trainable_parameters(d_in, d_out) is what each layer trains."""
    method, model = subject.attached()
    for name, (d_in, d_out) in _targets(subject).items():
        inside = {
            p: n
            for n, p in model.named_parameters()
            if n.startswith(f"{name}.") and p.requires_grad
        }
        found = sum(p.numel() for p, n in inside.items() if n != f"{name}.bias")
        formula = method.trainable_parameters(d_in, d_out)
        _require(found == formula, f"{name}: {formula} by formula, {found} by count")


def gradients(subject: Subject) -> None:
    """In float64 the gradients of formed weights are autograd's through the plain path."""
    method, model = subject.attached()
    if not isinstance(method, AdapterMethod):
        return  # its gradients are autograd's own
    _nudge(model.double())
    found: dict[str, Outputs] = {}
    computes: tuple[Compute, ...] = ("fused", "cached", "plain")
    for compute in computes:
        for _, layer in adapted_layers(model):
            layer.compute, layer.dropout = compute, 0.0
        model.train()
        model.zero_grad()
        subject.loss(model).backward()
        found[compute] = {
            n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None
        }
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    _require(set(found["fused"]) == trainable, "a trainable parameter has no gradient")
    for compute in computes:
        _same(found[compute], found["plain"], 1e-9, f"gradient, compute={compute}")


def max_rank(subject: Subject) -> None:
    """delta W with random parameters has a rank of at most max_rank."""
    method, model = subject.attached()
    _nudge(model.double())
    shapes = _targets(subject)
    for name, delta in method.delta_weights(model).items():
        rank, highest = int(torch.linalg.matrix_rank(delta)), method.max_rank(*shapes[name])
        _require(0 < rank <= highest, f"{name}: rank {rank}, max_rank {highest}")


def resume(subject: Subject) -> None:
    """A run that was interrupted at any step ends bit for bit as the uninterrupted one."""
    last = 4
    method, model = subject.attached()
    subject.train(method, model, range(1, last + 1), optimizer_of(method, model))
    expected, deltas = subject.outputs(model), method.delta_weights(model)
    for cut in range(1, last):
        method, model = subject.attached()
        optimizer = optimizer_of(method, model)
        subject.train(method, model, range(1, cut + 1), optimizer)
        weights = {n: t.clone() for n, t in method.state(model).items()}
        moments, generator = optimizer.state_dict(), torch.get_rng_state()

        torch.manual_seed(4)
        method, model = subject.attached()
        method.load_state(model, weights)
        optimizer = optimizer_of(method, model)
        optimizer.load_state_dict(moments)
        torch.set_rng_state(generator)
        subject.train(method, model, range(cut + 1, last + 1), optimizer)
        _same(subject.outputs(model), expected, 0.0, f"resumed after step {cut}")
        _same(method.delta_weights(model), deltas, 0.0, f"resumed after step {cut}, delta W")


CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        identity,
        frozen,
        delta_weights,
        merge,
        saves_pretrained,
        save_and_load,
        parameter_groups,
        counts,
        gradients,
        max_rank,
        resume,
    )
}


def _targets(subject: Subject) -> dict[str, tuple[int, int]]:
    layers = target_layers(subject.make_model(), subject.make_method().target_modules)
    return {name: (m.in_features, m.out_features) for name, m in layers.items()}


def _nudge(model: nn.Module) -> None:
    """Move every trainable parameter away from its start, where much is zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))


def _same(found: Outputs, expected: Outputs, tolerance: float, what: str) -> None:
    _require(set(found) == set(expected), f"{what}: {sorted(found)} for {sorted(expected)}")
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=torch.finfo(value.dtype).tiny)
        error = float((found[name].to(value) - value).abs().max() / scale)
        _require(error <= tolerance, f"{what}: {name} is off by {error:.1e} of its largest entry")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractBroken(message)
