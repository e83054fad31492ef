"""Interleaved timing: contestants take turns in one process, so that a drifting machine hits all.

A ratio is taken within a round, against the floor's time in that round; its median over the rounds
is quoted, with the 95 % interval of a median (order statistics, no assumption on the noise).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """Time as a multiple of another contestant's: median and 95 % interval over ``rounds``."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    after_round: Callable[[dict[str, list[float]]], None] = lambda seconds: None,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round. The order turns, so that nobody is always first.

    ``after_round`` is given what was measured so far: a long run that is stopped is not lost.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            synchronize()
            begin = time.perf_counter()
            contestants[name]()
            synchronize()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - begin)
        if turn >= warmup:
            after_round(seconds)
    return seconds


def ratio(seconds: list[float], floor: list[float]) -> Ratio:
    """Median of the rounds' ratios, and its interval."""
    values = sorted(a / b for a, b in zip(seconds, floor, strict=True))
    n = len(values)
    half = 1.96 * math.sqrt(n) / 2
    low = max(int(n / 2 - half), 0)
    high = n - 1 - low
    return Ratio(median(values), values[low], values[high], n)


def median(values: list[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def crossing(measure: Callable[[int], float], guess: int, least: int = 16, most: int = 8192) -> int:
    """Tokens at which ``measure`` passes 0 from below; ``least`` or ``most`` where it never does.

    Tokens are doubled or halved from ``guess`` on, until the sign changes.

    Linear in the logarithm of the tokens between the two neighbours that differ.
    """
    tokens = min(max(guess, least), most)
    value = measure(tokens)
    factor = 0.5 if value > 0 else 2.0
    while True:
        following = int(tokens * factor)
        if not least <= following <= most:
            return least if value > 0 else most
        other = measure(following)
        if (other > 0) != (value > 0):
            share = value / (value - other)
            return round(tokens * factor**share)
        tokens, value = following, other


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def saved_for_backward(step: Callable[[], object], parameters: set[int]) -> int:
    """Bytes that ``step`` keeps for backward, without the storages in ``parameters``."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = step()
    del alive
    return sum(kept.values())


def peak_bytes(step: Callable[[], object]) -> int:
    """Highest sum of tensor bytes that ``step`` allocates at a time, beyond what was there."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def processor() -> str:
    """The processor's or GPU's name, and which bf16 instructions a CPU has."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = "unknown"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as info:
        name = next((li.split(":")[1].strip() for li in info if li.startswith("model name")), name)
    fast = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    return f"{name} ({', '.join(k for k, there in fast.items() if there) or 'no bf16 units'})"
