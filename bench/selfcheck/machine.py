"""What the cells of a machine rest on: versions, threads, arithmetic, disk, network."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from torch.nn.functional import linear

from bench import records
from bench.errors import UserError
from bench.run import device
from bench.run.device import Placement
from bench.run.folders import cache_folder
from bench.selfcheck.bands import Finding, Kind
from bench.sweep import pool

ROOM = 2 << 30  # bytes that a study's records and a converted model take, at least
# Relative error of a layer of 256 inputs, root mean square: what rounding to the precision makes
# it. fp32 has 2e-7, TF32 and fp16 some 4e-4, bf16 2.8e-3, fp16 on a bf16 weight 1.7e-3.
ERROR = {"fp32": (0.0, 1e-5), "bf16": (2.2e-3, 4e-3)}
HUB = ("huggingface.co", 443)


def name(place: Placement) -> str:
    """The kind of machine: a GPU's name, or the CPU's instructions."""
    if place.device.type == "cuda":
        return torch.cuda.get_device_name(place.device)
    if place.device.type != "cpu":
        return f"{place.device.type} on {platform.machine()}"
    fast = ", bf16 products" if device.fast_bf16("cpu") else ""
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}{fast}"


def findings(kinds: Sequence[Kind], folder: Path) -> Iterator[Finding]:
    """All but the cells. folder: where records will be written."""
    places = [device.resolve("auto", precision) for precision in device.PRECISIONS]
    yield _machine(places[0], kinds)
    yield _versions(kinds)
    yield _threads()
    yield from map(arithmetic, places)
    yield from map(disk, (folder, cache_folder()))
    yield _network()


def _machine(place: Placement, kinds: Sequence[Kind]) -> Finding:
    here, seen = name(place), [kind.machine for kind in kinds]
    new = "" if here in seen else f"; bands were seen on {'; '.join(seen) or 'none'}"
    return Finding("machine", None, here + new)


def _versions(kinds: Sequence[Kind]) -> Finding:
    try:
        wanted = [Requirement(line) for line in requires("mora-bench") or ()]
    except PackageNotFoundError:
        return Finding("versions", False, "mora-bench is not installed", "pip install -e .")
    wrong = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one} (missing)")
            continue
        if not one.specifier.contains(have, prereleases=True):
            wrong.append(f"{one} (here: {have})")
    if wrong:
        return Finding("versions", False, f"not as required: {', '.join(wrong)}", "make venv")
    seen = sorted({kind.torch for kind in kinds})
    said = f"Python {platform.python_version()}, torch {torch.__version__}"
    if seen and torch.__version__ not in seen:
        said += f" (bands: torch {', '.join(seen)})"
    return Finding("versions", True, said)


def _threads() -> Finding:
    used, there = torch.get_num_threads(), pool.available()
    said = f"{used} threads, {there} CPUs for this process"
    if used > there:
        remedy = f"threads={there} for each cell, or OMP_NUM_THREADS={there}"
        return Finding("threads", False, said, remedy)
    return Finding("threads", True, said)


def arithmetic(place: Placement) -> Finding:
    """Whether a frozen layer, computed as in a cell, has the error of its precision."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=generator)
    w = torch.randn(64, 256, generator=generator)
    true = linear(x.double(), w.double())
    with place.products(), place.autocast():
        found = linear(x.to(place.device), w.to(place.device, place.dtype))
    error = float((found.cpu() - true).square().mean().sqrt() / true.square().mean().sqrt())
    what, (low, high) = f"arithmetic {place.precision}", ERROR[place.precision]
    said = f"relative error of a layer {error:.1e}"
    if low <= error <= high:
        return Finding(what, True, said)
    remedy = (
        f"its products have {'more' if error < low else 'fewer'} digits than {place.precision}: "
        "is it another precision, such as fp16, or TF32 (torch.backends.cuda.matmul.allow_tf32)?"
    )
    return Finding(what, False, f"{said}, not {low:g} to {high:g}", remedy)


def disk(folder: Path) -> Finding:
    """Whether the folder can be written to and has room."""
    try:
        records.prepare_folder(folder)
    except UserError as error:
        return Finding("disk", False, str(error), "another results_dir, or MORA_BENCH_CACHE")
    free = shutil.disk_usage(folder).free
    said = f"{folder}: {free / 1e9:.1f} GB free"
    if free < ROOM:
        return Finding("disk", False, said, f"make room: at least {ROOM / 1e9:.0f} GB")
    return Finding("disk", True, said)


def _network() -> Finding:
    """Nothing is asked of it: all that is measured here runs offline."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding("network", None, "HF_HUB_OFFLINE is set: models and data from the cache")
    try:
        socket.create_connection(HUB, timeout=3).close()
    except OSError as error:
        said = f"{HUB[0]} is not reached ({error}): models from folders or wheels, own data_dir"
        return Finding("network", None, said)
    return Finding("network", None, f"{HUB[0]} answers")
