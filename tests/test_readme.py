"""README.md's "MoRA in your trainer", run as it stands there: here, and from an installed wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import load_adapter
from methods.contract import llama, run_llama
from tests.test_packaging import wheel  # noqa: F401 - a fixture

README = Path(__file__).resolve().parent.parent / "README.md"
SECTION = "## MoRA in your trainer\n"
DATA = 'data = [{"input_ids": row, "labels": row} for row in torch.arange(96).reshape(12, 8)]\n'
# What the examples take for granted, and then what they leave behind.
SETUP = "import torch\nfrom methods.contract import llama\nmodel = llama()\n" + DATA


def blocks() -> list[str]:
    """The indented blocks of the section, as code."""
    text = README.read_text().split(SECTION)[1].split("\n## ")[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(SETUP + code, names)
    return names


def test_the_trainers_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = run(blocks()[0])
    assert trained["trainer"].state.global_step == 4
    merged = run_llama(trained["model"].eval())["logits"]
    read = llama()
    load_adapter(read, "adapter")
    assert torch.allclose(run_llama(read)["logits"], merged, atol=1e-5)
    assert not torch.allclose(run_llama(llama())["logits"], merged, atol=1e-3)
    again = type(llama()).from_pretrained("merged")
    assert torch.equal(run_llama(again)["logits"], merged)


def test_pefts_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = run(blocks()[1])
    assert type(left["model"]) is type(llama())
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


SFT = """
import importlib.util
if importlib.util.find_spec("trl") is not None:
    from datasets import Dataset
    from transformers import ByT5Tokenizer
    from trl import SFTConfig, SFTTrainer
    from methods.peft_tuner import MoraConfig

    rows = Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in data])
    args = SFTConfig("sft", max_steps=2, report_to="none", bf16=False)
    config = MoraConfig(r=4, task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        llama(), args, train_dataset=rows, processing_class=ByT5Tokenizer(), peft_config=config
    )
    trainer.train()
    trainer.save_model("sft/final")
    print("sft")
"""


@pytest.mark.slow
def test_examples_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:  # noqa: F811
    """In an environment of its own that has this one's packages, but not this checkout."""
    environment, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(environment)})
    # A .pth file adds the folder alone, not the links to checkouts that lie in it.
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for number, block in enumerate([*blocks(), SFT]):
        code = SETUP + block + "import methods\nprint(methods.__file__)\n"
        script = elsewhere / f"example_{number}.py"
        script.write_text(code)
        done = subprocess.run(
            [str(python), "-I", str(script)],
            cwd=elsewhere, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(Path(site) / "methods" / "__init__.py")
    for folder in ("adapter", "merged"):
        assert (elsewhere / folder).is_dir()
