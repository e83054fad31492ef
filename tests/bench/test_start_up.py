"""What needs no weights starts at once: none of the heavy libraries is imported on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.run import device, installed, method_card
from bench.sweep import pool
from methods import MethodError

# What a cell needs no more than they do: of a report, a tracker, a terminal, lm-eval.
UNUSED = ("rich", "matplotlib", "wandb", "lm_eval", "sklearn", "nltk", "evaluate", "IPython")
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "peft",
    "wandb",
    "accelerate",
    "safetensors",
)
# Runs the doors one after the other; after each its status, what it printed, what is loaded, and
# how often the collector has looked for garbage so far.
DRIVER = """
import contextlib, gc, importlib, io, json, sys
for door, arguments in json.loads(sys.argv[1]):
    main = importlib.import_module(door).main
    said = io.StringIO()
    sys.argv = ["bench"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(arguments)
    loaded = [name for name in json.loads('%s') if name in sys.modules]
    assert gc.isenabled()
    looks = gc.get_stats()[0]["collections"]
    print(json.dumps([status, said.getvalue(), loaded, looks]))
""" % json.dumps(HEAVY + UNUSED)  # noqa: UP031 - braces abound


def doors(root: Path, *calls: tuple[str, list[str]]) -> list[tuple[int, str, list[str], int]]:
    """What DRIVER tells after each call, all in one fresh process."""
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(calls)],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [tuple(json.loads(line)) for line in ran.stdout.splitlines()]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and those that it starts."""
    monkeypatch.setenv("MORA_BENCH_METHOD_CARDS", str(tmp_path / "cache" / "methods"))
    method_card.card.cache_clear()
    return tmp_path / "cache"


def test_no_door_loads_what_it_does_not_need(
    root: Path, run: Callable[..., Any], tiny: list[str], tmp_path: Path, own_cache: Path
) -> None:
    assert run().status == 0
    bench, cell = "bench.__main__", list(tiny)
    *found, whole = doors(
        root,
        ("bench.status", [str(tmp_path / "runs")]),
        (bench, [*cell, "method=nope"]),
        (bench, [*cell, "seedd=1"]),
        (bench, ["experiment=nope"]),
        (bench, ["experiment=demo", "method=dora"]),
        (bench, [*cell, "trainer.max_steps=0"]),
        (bench, [*cell, "seed=-1"]),
        (bench, cell),
        (bench, ["-m", *cell]),
        ("bench.dryrun", [*cell, "--ids"]),
        (bench, [*cell, "seed=1"]),
    )
    refused = found[1:7]
    assert found[0][0] == 0 and "1 done" in found[0][1]
    assert [status for status, *_ in refused] == [2] * len(refused)
    assert [status for status, *_ in found[7:]] == [0, 0, 0]
    assert all("done before" in said for _, said, *_ in found[7:9])
    for status, said, loaded, _ in found:
        assert not loaded, (status, said)
    # A cell that runs needs torch, yet nothing that only others need, and the collector rests while
    # it is loaded: else it looks a thousand times.
    status, said, loaded, looks = whole
    assert status == 0 and "1 ok" in said
    assert "torch" in loaded and not set(UNUSED) & set(loaded)
    assert looks - found[-1][-1] < 300


def test_reports_need_no_torch(root: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    assert run().status == 0
    runs = str(tmp_path / "runs")
    ((status, said, loaded, _),) = doors(root, ("bench.report.__main__", [runs, "--claims"]))
    assert status == 0, said
    assert not {"torch", "transformers", "datasets", "safetensors"} & set(loaded)


CONFIG = json.dumps(
    {"_target_": "methods.mora.MoRA", "learning_rate": 0.1, "name": "mora", "rank": 4}
)


def test_a_card_is_kept_and_says_what_the_method_says(own_cache: Path) -> None:
    from methods import MoRA

    made = method_card.card(CONFIG)
    method = MoRA(rank=4, learning_rate=0.1)
    assert made.settings == method.settings() and made.label == "MoRA"
    (file,) = (own_cache / "methods").iterdir()
    method_card.card.cache_clear()
    assert method_card.card(CONFIG) == made
    file.write_text(file.read_text()[:-5])  # torn: the method is asked again
    method_card.card.cache_clear()
    assert method_card.card(CONFIG) == made
    assert json.loads(file.read_text())["card"]["label"] == "MoRA"


def test_other_code_is_another_card(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method_card.card(CONFIG)
    method_card.card.cache_clear()
    monkeypatch.setattr(installed, "code", lambda *_: "changed")
    method_card.card(CONFIG)
    assert len(list((own_cache / "methods").iterdir())) == 2


def test_a_refused_method_leaves_no_card(own_cache: Path) -> None:
    with pytest.raises(MethodError, match="rank"):
        method_card.card(CONFIG.replace("4", "0"))
    assert not (own_cache / "methods").exists()


def test_a_cache_that_cannot_be_written_is_done_without(own_cache: Path) -> None:
    own_cache.write_text("a file in its place")
    assert method_card.card(CONFIG).name == "mora"


def test_no_gpu_is_found_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert pool.visible_gpus() == []


# ---- where a cell runs, without torch ----------------------------------------------------------


def test_the_machine_answers_as_torch_does() -> None:
    known = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert device.fast_bf16("cpu") == known
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert device.may_have_gpu() or not there
    assert device.resolve("auto", "fp32").device.type == "cpu" or there


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\n", {"fpu", "avx2", "avx512_bf16"}),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", None),  # ARM: torch is asked
        (None, None),
    ],
)
def test_flags_of_the_cpu(tmp_path: Path, text: str | None, flags: set[str] | None) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    assert device.cpu_flags(file) == flags


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "kfd", "dxg", "nvhost-gpu"])
def test_a_device_file_is_a_reason_to_ask_torch(tmp_path: Path, name: str) -> None:
    assert not device.may_have_gpu(tmp_path)
    (tmp_path / name).touch()
    assert device.may_have_gpu(tmp_path)


@pytest.mark.parametrize(("flags", "precision"), [({"avx2"}, "fp32"), ({"amx_tile"}, "bf16")])
def test_precision_follows_the_flags(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: flags)
    assert device.resolve("cpu", "auto").precision == precision


def test_refusals_name_what_is_there(refuse: Callable[..., str]) -> None:
    assert "cpu" in refuse("tpu", "auto")
    assert "bf16" in refuse("cpu", "fp64")


@pytest.fixture
def refuse() -> Callable[..., str]:
    def words(*arguments: str) -> str:
        from bench.errors import UserError

        with pytest.raises(UserError) as caught:
            device.resolve(*arguments)
        return str(caught.value)

    return words
