"""Models: what `check` refuses and how, and what `load` gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from bench.errors import UserError
from bench.run import models, wheel
from methods.lora import LoRA
from methods.mora import MoRA
from tests.bench.run.small_models import ROOT, conf, load, refusal

NAMES = sorted(file.stem for file in (ROOT / "conf/model").glob("*.yaml"))


# ---- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_complete(name: str) -> None:
    cfg = OmegaConf.load(ROOT / f"conf/model/{name}.yaml")
    assert cfg.name == name
    assert {"label", "kind", "source", "revision", "attention", "note"} <= set(cfg)
    assert set(models.REQUIRED[cfg.kind]) <= set(cfg)


def test_unknown_kind_names_the_allowed_ones() -> None:
    assert "Allowed: wheel, hub, scratch" in refusal(conf("tiny", kind="onnx"))


def test_value_left_open_is_named() -> None:
    assert "model.source=" in refusal(conf("hub"))


def test_missing_key_is_named() -> None:
    cfg = OmegaConf.to_container(conf("tiny"), resolve=True)
    del cfg["architecture"]
    assert "architecture" in refusal(cfg)


# ---- random weights ---------------------------------------------------------------------------


def test_tiny_is_small_awkward_and_in_the_dtype_asked_for() -> None:
    models.check(conf("tiny"))
    loaded = load(conf("tiny"), dtype=torch.bfloat16)
    layer = loaded.model.model.layers[0]
    assert loaded.card["parameters"] == sum(p.numel() for p in loaded.model.parameters()) < 1e6
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.card["dtype"] == "bfloat16"
    assert layer.self_attn.k_proj.weight.shape == (32, 64)
    assert layer.mlp.down_proj.weight.shape == (64, 172)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert not loaded.model.training
    json.dumps(loaded.card)


def test_tiny_tokenizer_reads_any_text() -> None:
    tokenizer = load(conf("tiny")).tokenizer
    ids = tokenizer("1f:é\n", add_special_tokens=False).input_ids
    assert len(ids) == len("1f:é\n".encode())
    assert tokenizer.decode(ids) == "1f:é\n"
    specials = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert None not in specials
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_seed_is_a_model_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (load(conf("tiny"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [loaded.model.state_dict() for loaded in (first, again, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])
    rounded = load(conf("tiny"), dtype=torch.bfloat16, seed=1).model.lm_head.weight
    assert torch.equal(rounded, weights[0]["lm_head.weight"].bfloat16())


def test_tiny_memorises_within_seconds() -> None:
    model = load(conf("tiny")).model
    ids = torch.randint(3, 259, (8, 24), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    recalled = model.generate(
        ids[:, :4], attention_mask=torch.ones(8, 4), max_new_tokens=20, do_sample=False
    )
    assert torch.equal(recalled, ids)


@pytest.mark.parametrize(("name", "millions"), [("llama_250m", 247.5), ("llama_1b3", 1339.5)])
def test_pretraining_models_have_the_published_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(models.architecture(conf(name)))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_scratch_takes_the_tokenizer_of_a_folder(folder: Path) -> None:
    cfg = conf("tiny", tokenizer=str(folder))
    models.check(cfg)
    assert load(cfg).tokenizer("ab").input_ids == load(conf("tiny")).tokenizer("ab").input_ids


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hiden_size", 64, "unknown hiden_size"),
        ("hidden_size", 65, "not a multiple of the number of attention heads"),
        ("num_key_value_heads", 3, "must divide num_attention_heads=4"),
        ("hidden_size", "wide", "hidden_size"),
    ],
)
def test_wrong_architecture_is_refused(key: str, value: Any, expected: str) -> None:
    message = refusal(conf("tiny", **{f"architecture.{key}": value}))
    assert expected in message
    assert "tiny" in message


def test_vocabulary_below_the_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match="vocab_size=300 is below the 384"):
        load(conf("tiny", **{"architecture.vocab_size": 300}))


@pytest.mark.parametrize("name", ["tiny", "llama_250m"])
def test_skeleton_has_the_names_and_shapes_without_the_weights(name: str) -> None:
    bare = models.skeleton(conf(name))
    assert {p.device.type for p in bare.parameters()} == {"meta"}
    assert bare.config.num_hidden_layers == conf(name).architecture.num_hidden_layers
    if name == "tiny":
        shapes = {key: value.shape for key, value in load(conf(name)).model.state_dict().items()}
        assert shapes == {key: value.shape for key, value in bare.state_dict().items()}


# ---- folders and hub ids ----------------------------------------------------------------------


def test_local_folder_is_read_as_saved(folder: Path) -> None:
    cfg = conf("hub", source=str(folder))
    models.check(cfg)
    loaded = load(cfg)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in loaded.model.state_dict().items())
    assert loaded.card["checksum"] == f"sha256:{wheel.sha256(folder / 'model.safetensors')}"
    assert loaded.card["source"] == loaded.card["label"] == str(folder)
    assert loaded.card["revision"] is None


def test_sharded_folder_has_a_checksum_and_misses_no_shard(folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    tiny = load(conf("hub", source=str(folder)))
    tiny.model.save_pretrained(sharded, max_shard_size="200KB")
    tiny.tokenizer.save_pretrained(sharded)
    cfg = conf("hub", source=str(sharded))
    models.check(cfg)
    assert load(cfg).card["checksum"].startswith("sha256:")
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    shard.unlink()
    assert shard.name in refusal(cfg)


def test_a_stated_checksum_is_verified(folder: Path) -> None:
    right = wheel.sha256(folder / "model.safetensors")
    for stated in (right, f"sha256:{right}"):
        models.check(conf("hub", source=str(folder), sha256=stated))
    wrong = conf("hub", source=str(folder), sha256="0" * 64)
    message = refusal(wrong)
    assert right in message and "0" * 64 in message and "model.sha256=null" in message
    with pytest.raises(UserError, match="damaged or of another model"):
        load(wrong)


def test_a_relative_folder_is_found_from_anywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the current directory, or else in the checkout."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "bases").mkdir(parents=True)
    monkeypatch.setattr("bench.run.hub.ROOT", tmp_path)
    monkeypatch.chdir(elsewhere)
    (tmp_path / "results" / "bases").mkdir(parents=True)
    here = folder.rename(tmp_path / "results" / "bases" / "docs_1m")
    cfg = conf("hub", source="results/bases/docs_1m")
    models.check(cfg)
    assert load(cfg).card["checksum"] == f"sha256:{wheel.sha256(here / 'model.safetensors')}"
    assert models.skeleton(cfg).config.hidden_size == 64
    (elsewhere / "results").symlink_to(tmp_path / "none")
    message = refusal(conf("hub", source="results/bases/none"))
    assert f"results/bases/none does not exist in {elsewhere}, nor in {tmp_path}" in message


def test_a_folder_of_weights_alone_takes_the_byte_tokenizer(folder: Path) -> None:
    for file in [*folder.glob("*token*"), *folder.glob("special*"), *folder.glob("*chat*")]:
        file.unlink()
    assert "tokenizer" in refusal(conf("hub", source=str(folder)))
    cfg = conf("hub", source=str(folder), tokenizer="bytes")
    models.check(cfg)
    loaded = load(cfg)
    ids = loaded.tokenizer("1f:", add_special_tokens=False).input_ids
    assert ids == load(conf("tiny")).tokenizer("1f:", add_special_tokens=False).input_ids
    assert loaded.tokenizer.bos_token_id is not None
    assert loaded.card["tokenizer"]["source"] == "bytes"


@pytest.mark.parametrize(
    ("name", "ranks"), [("docs_1m_scratch", (1, 4, 9, 16)), ("docs_5m_scratch", (2, 8, 18))]
)
def test_small_bases_give_lora_and_mora_one_budget(name: str, ranks: tuple[int, ...]) -> None:
    """Exactly, rotation included, as their configurations promise."""
    for rank in ranks:
        counts = set()
        for method in (LoRA(rank=rank, learning_rate=1e-3), MoRA(rank=rank, learning_rate=1e-3)):
            model = models.skeleton(conf(name))
            method.attach(model)
            counts.add(sum(p.numel() for p in model.parameters() if p.requires_grad))
        assert len(counts) == 1


def test_tokenizer_without_pad_token_gets_one(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"pad_token": None}))
    assert load(conf("hub", source=str(folder))).tokenizer.pad_token is not None


def test_missing_folder_is_refused() -> None:
    assert "/no/such/model does not exist" in refusal(conf("hub", source="/no/such/model"))


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_incomplete_folder_is_refused(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    assert lost in refusal(conf("hub", source=str(folder)))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    assert "Only safetensors are read" in refusal(conf("hub", source=str(folder)))


def test_code_in_a_model_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(mark)!r}, 'w')\n")
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    settings |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.C"}}
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="can't read the model"):
        load(conf("hub", source=str(folder)))
    assert not mark.exists()


@pytest.mark.parametrize("harm", ["torn", "lacking"])
def test_damaged_weights_are_refused(folder: Path, harm: str) -> None:
    file = folder / "model.safetensors"
    if harm == "torn":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        weights = load_file(file)
        del weights["model.norm.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"can't read|lack 1 tensors, such as model\.norm\.weight"):
        load(conf("hub", source=str(folder)))


@pytest.mark.parametrize("name", ["smollm2_135m", "llama2_7b", "llama_250m"])
def test_hub_out_of_reach_is_one_message(name: str) -> None:
    message = refusal(conf(name))
    assert "model hub" in message
    assert "HF_HUB_OFFLINE" in message


@pytest.mark.slow
def test_hub_that_refuses_connections_is_one_message() -> None:
    """Online, but nobody there: no stack of retries."""
    code = (
        "from bench.run import models\n"
        "try:\n"
        "    models.check({'name': 'x', 'label': 'x', 'kind': 'hub', 'source': 'a/b',"
        " 'attention': 'sdpa'})\n"
        "except models.UserError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.startswith("can't reach a/b on the model hub"), done.stderr
    assert "refused" in done.stdout


def test_cached_hub_model_needs_no_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache laid out as the hub's client does it: blobs by hash, links from the snapshot."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub"
    repo = home / "models--someone--small"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        blob = repo / "blobs" / wheel.sha256(file)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    cfg = conf("hub", source="someone/small")
    models.check(cfg)
    card = load(cfg).card
    assert card["revision"] == commit
    assert card["checksum"] == f"sha256:{wheel.sha256(folder / 'model.safetensors')}"
    (snapshot / "model.safetensors").unlink()
    assert "no complete copy" in refusal(cfg)
    assert "no complete copy" in refusal(conf("hub", source="someone/small", revision="v2"))


def test_malformed_hub_id_is_refused() -> None:
    assert "neither a folder nor a hub id" in refusal(conf("hub", source="not an id"))
