"""Looking at a trained model: the spectrum and rank of delta W, and whether merging is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods import Method
from methods.base import adapted_layers
from tasks.generation import device_of, evaluating

KEPT = 512  # singular values a layer
DIGITS = 6  # of a singular value, and zero below as many of the largest: fp32 knows no more
PROBES = 4  # training examples in the merge audit


def spectrum(deltas: Mapping[str, Tensor]) -> dict[str, Any]:
    """Singular values of each delta W (d_out, d_in).

    above_0.1 counts those above 0.1, as the paper's Fig. 5 does; effective_rank is the exponential
    of the entropy of the normalised singular values (Roy and Vetterli 2007).
    """
    return {"layers": {name: _layer(name, delta) for name, delta in deltas.items()}}


def _layer(name: str, delta: Tensor) -> dict[str, Any]:
    values = torch.linalg.svdvals(delta.double() if delta.dtype == torch.float64 else delta.float())
    share = values / values.sum().clamp(min=1e-30)
    entropy = -(share * share.clamp(min=1e-30).log()).sum()
    return {
        "kind": name.rsplit(".", 1)[-1],
        "singular_values": known_digits(values[:KEPT].tolist()),
        "above_0.1": int((values > 0.1).sum()),
        "effective_rank": float(entropy.exp()) if float(values.sum()) > 0 else 0.0,
        "frobenius": float(values.square().sum().sqrt()),
    }


def known_digits(values: list[float]) -> list[float]:
    """Singular values, descending, without the digits that are noise.

    >>> known_digits([0.123456789, 1e-9])
    [0.123457, 0.0]
    """
    least = 10.0**-DIGITS * max(values, default=0.0)
    return [float(f"{value:.{DIGITS}g}") if value > least else 0.0 for value in values]


def rank_cuts(
    model: nn.Module,
    deltas: Mapping[str, Tensor],
    ranks: Sequence[int],
    score: Callable[[], Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Is it the rank? The trained model's scores with every delta W (d_out, d_in) cut to rank k.

    {"k": scores, and `energy`: the share of delta W's squared Frobenius norm within its first k
    singular values, mean over layers}. Cut by SVD, the nearest weight of that rank (Eckart and
    Young 1936). ``score`` scores ``model``, which is left as it was: each layer's output is
    corrected by what the cut takes away, so that any method's layers can be cut.
    """
    factors = {name: torch.linalg.svd(d.float(), full_matrices=False) for name, d in deltas.items()}
    found: dict[str, dict[str, float]] = {}
    for rank in ranks:
        energies = [_energy(s, rank) for _, s, _ in factors.values()]
        tails = {
            name: (u[:, rank:] * s[rank:]) @ v[rank:]
            for name, (u, s, v) in factors.items()
            if rank < len(s)
        }
        with _without(model, tails):
            scores = dict(score())
        found[str(rank)] = scores | {"energy": sum(energies) / len(energies)}
    return found


def _energy(values: Tensor, rank: int) -> float:
    """Of singular values, descending; 1 where there is nothing to lose."""
    squares = values.double().square()
    whole = float(squares.sum())
    return float(squares[:rank].sum()) / whole if whole > 0 else 1.0


@contextmanager
def _without(model: nn.Module, tails: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, each named layer computes x (W + delta W - tail)^T."""
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, output, tail=tail: (
                output - nn.functional.linear(args[0].to(output.dtype), tail.to(output.dtype))
            )
        )
        for name, tail in tails.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def merge_audit(method: Method, model: nn.Module, dataset: Any) -> dict[str, Any]:
    """Logits before and after merging, on the first training examples. Leaves the model merged.

    Before means through the plain path: the formed weight of the fused one is the merged weight.
    """
    ids = [
        torch.tensor([row["input_ids"]]) for row in dataset.select(range(min(PROBES, len(dataset))))
    ]
    width = next(model.parameters()).dtype
    for _, layer in adapted_layers(model):
        layer.compute, width = "plain", layer.base.weight.dtype
    # Norms or embeddings that train are fp32 even where the base is bf16: autocast, as in training.
    device = device_of(model)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=width == torch.bfloat16)
    with evaluating(model), autocast:
        apart = [model(input_ids=i.to(device), use_cache=False).logits for i in ids]
    merged = method.merge(model)
    with evaluating(merged), autocast:
        after = [merged(input_ids=i.to(device), use_cache=False).logits for i in ids]
    differences = torch.cat(
        [(a.float() - b.float()).abs().flatten() for a, b in zip(apart, after, strict=True)]
    )
    same = torch.cat(
        [(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(apart, after, strict=True)]
    )
    return {
        "max_abs": float(differences.max()),
        "mean_abs": float(differences.mean()),
        "dtype": str(apart[0].dtype).removeprefix("torch."),
        "same_argmax": float(same.float().mean()),
    }
