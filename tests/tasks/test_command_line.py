"""What our path scores is what lm-eval's command line scores, question by question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tasks.harness import TASK_FILES, run

LIMITS = {"mora_mmlu": 6, "mora_lm_eval_pubmedqa": 4, "mora_gsm8k": 2}
SHOTS = 5  # for the tasks that do not fix their own


def command_line(arguments: list[str], folder: Path, data_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MORA_BENCH_DATA": str(data_dir), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stdout.txt").write_text(done.stdout)


@pytest.mark.slow  # lm-eval indexes its thousands of tasks first
def test_every_task_file_passes_lm_evals_own_checker(tmp_path: Path) -> None:
    names = ",".join(sorted(path.stem for path in TASK_FILES.glob("*.yaml")))
    command_line(
        ["validate", "--tasks", names, "--include_path", str(TASK_FILES)], tmp_path, tmp_path
    )
    assert "All tasks found and valid" in (tmp_path / "stdout.txt").read_text()


@pytest.mark.model
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", LIMITS)
def test_the_real_model_scores_the_same_both_ways(
    task: str, tmp_path: Path, data_dir: Path, root: Path
) -> None:
    from bench.run.models import load

    config: Any = yaml.safe_load((root / "conf/model/smollm2_135m_wheel.yaml").read_text())
    loaded = load(config, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    limit = LIMITS[task]
    command_line(
        [
            *("run", "--model", "hf", "--device", "cpu", "--batch_size", "2", "--log_samples"),
            *("--model_args", f"pretrained={tmp_path / 'model'},dtype=float32"),
            *("--tasks", task, "--include_path", str(TASK_FILES), "--limit", str(limit)),
            *("--num_fewshot", str(SHOTS), "--output_path", str(tmp_path / "out")),
        ],
        tmp_path,
        data_dir,
    )
    (file,) = (tmp_path / "out").rglob(f"samples_{task}_*.jsonl")
    theirs = [json.loads(line) for line in file.open()]

    shots = None if task == "mora_lm_eval_pubmedqa" else SHOTS  # its file says 0, which stands
    ours = run(
        loaded.model,
        loaded.tokenizer,
        task,
        batch_size=2,
        few_shot=shots,
        limit=limit,
        data_dir=str(data_dir),
    )["samples"][task]

    assert len(ours) == len(theirs) >= limit
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("doc_hash", "prompt_hash", "target_hash", "filter"):
            assert mine[key] == other[key]
        for metric in other["metrics"]:
            assert mine[metric] == other[metric]
        if "acc" in other:
            likelihoods = [[float(r[0][0]) for r in sample["resps"]] for sample in (mine, other)]
            assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-3)
        else:
            assert mine["resps"] == other["resps"]
