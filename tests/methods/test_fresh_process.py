"""Any method's merged model is a plain one: a process that knows only transformers reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from methods.contract import Subject, llama, run_llama
from tests.methods.test_contract import NAMES, RESTARTS, build

READER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ids = torch.arange(24).reshape(2, 12) * 7 % 256
logits = {}
for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), (folder, report)
    with torch.no_grad():
        logits[folder.name] = model.eval()(input_ids=ids).logits
assert "methods" not in sys.modules
save_file(logits, Path(sys.argv[1]) / "logits.safetensors")
"""


@pytest.mark.slow
def test_transformers_reads_every_merged_model(tmp_path: Path) -> None:
    expected = {}
    for name in NAMES:
        restarts = RESTARTS if name.startswith("re") else {}
        subject = Subject(lambda n=name, r=restarts: build(n, **r), llama, run_llama)
        method, model = subject.trained()
        expected[name] = subject.outputs(model)["logits"]
        method.merge(model).save_pretrained(tmp_path / name)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READER, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=120)
    found = load_file(tmp_path / "logits.safetensors")
    assert set(found) == set(NAMES)
    for name, logits in expected.items():
        assert (found[name] - logits).abs().max() <= 1e-5 * logits.abs().max(), name
    assert not torch.equal(expected["lora"], expected["mora"])
