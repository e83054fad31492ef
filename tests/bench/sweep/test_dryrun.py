"""The dry run: what it lists, what it estimates, what it finds missing, how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import records
from bench.run import device
from bench.run.build import build
from bench.sweep import dryrun, estimate, outcomes
from methods import Method

CONF = Path(__file__).resolve().parents[3] / "conf"
TINY = ["model=tiny", "task.pairs=8", "tracker=none", "precision=fp32"]


def conf(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / group / f"{name}.yaml").read_text()))


def method(name: str, **settings: Any) -> Method:
    made: Method = build({"_target_": name, "learning_rate": 1e-3, **settings})
    return made


# ---- the dry run ------------------------------------------------------------------------------


def test_lists_each_cell_once_with_its_steps_and_tokens(tmp_path: Path) -> None:
    """FFT has no rank, so that two ranks make three cells of four combinations."""
    grid = ["method=fft,lora", "method.rank=4,8", f"results_dir={tmp_path}", "trainer.max_steps=7"]
    found = dryrun.look([*TINY, *grid])
    assert found.combinations == 4
    assert [row.group[2:] for row in found.rows] == [("FFT", 0), ("LoRA", 4), ("LoRA", 8)]
    assert {row.estimate.steps for row in found.rows} == {7}
    assert {row.estimate.tokens for row in found.rows} == {7 * 8 * estimate.EXAMPLE_TOKENS["uuid"]}
    assert found.needs.missing == []
    text = dryrun.text(found)
    assert "3 cells (4 combinations" in text
    assert all(row.plan.cell in text for row in found.rows)
    assert not any(tmp_path.iterdir())


def test_tells_what_is_complete(tmp_path: Path) -> None:
    grid = [*TINY, "method=lora,mora", f"results_dir={tmp_path}"]
    first, second = dryrun.look(grid).rows
    names = {"name": "n", "label": "l"}
    record = records.blank(
        cell=first.plan.cell,
        status="ok",
        method=names | {"rank": 8, "learning_rate": 1e-3, "settings": {}},
        model=names | {"source": "s", "revision": None},
        task=names | {"settings": {}, "data": []},
    )
    records.write(record, tmp_path)
    (tmp_path / f"{second.plan.cell}.json").write_text("{")
    states = [row.state for row in dryrun.look(grid).rows]
    assert states == ["complete", "broken record"]
    assert [row.state for row in dryrun.look([*grid, "force=true"]).rows] == ["to run", "to run"]


def test_sums_up_a_long_grid(capsys: pytest.CaptureFixture[str]) -> None:
    grid = [*TINY, "method=lora", "method.rank=4,8", f"seed={','.join(map(str, range(25)))}"]
    assert dryrun.main(grid) == 0
    short = capsys.readouterr().out
    assert "--all lists the 50 cells" in short
    assert len([line for line in short.splitlines() if line.startswith("uuid ")]) == 2
    assert dryrun.main([*grid, "--all"]) == 0
    assert len([x for x in capsys.readouterr().out.splitlines() if x.startswith("uuid ")]) == 50


def test_ids_alone(capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["experiment=table2_uuid", "method=lora,mora", "seed=0,1"]
    assert dryrun.main([*grid, "--ids"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [row.plan.cell for row in dryrun.look(grid).rows]
    assert "LoRA r=8 lr=0.003 seed=0" in lines[0] and "experiment=table2_uuid" in lines[0]


def test_names_everything_that_is_missing(tmp_path: Path) -> None:
    """A run would stop at the first set; here all are named, with a model out of reach."""
    grid = ["experiment=table4_operators", "scale=paper", "method.rank=8", "trial=0"]
    found = dryrun.look([*grid, f"data_dir={tmp_path}"])
    text = dryrun.text(found)
    for name in ("metamathqa", "gsm8k", "math", "wikitext2", "hellaswag", "meta-llama"):
        assert name in text
    assert "Put the file there" in text


def test_marks_what_is_not_in_the_paper() -> None:
    grid = ["experiment=table3_pretraining", "scale=laptop", "method=fft,lora", "seed=0"]
    assert "Added to the paper's table here: FFT" in dryrun.text(dryrun.look(grid))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=table1_main,table2_uuid"], "name one experiment a command"),
        (["experiment=table9"], "table9"),
        (["method.rnk=8"], "method.rnk"),
        (["method.rank=-1", *TINY], "rank=-1"),
        (["experiment=table1_main", "scale=paper", "task=finance", "method.rank=16"], "at rank 16"),
        (["method=8"], "method=8"),
        (["experiment=demo,cost", "--ids"], "name one experiment a command"),
        ([*TINY, f"results_dir={'x' * 300}"], "File name too long"),
    ],
)
def test_refuses_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dryrun.main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_downloads_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORA_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("MORA_BENCH_WHEEL", raising=False)
    found = dryrun.look(["method=lora"])
    assert ["fetches it" in str(problem) for problem in found.needs.missing] == [True]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["sbatch", "slurm", "parallel"])
def test_a_dry_run_for_a_cluster_needs_none_of_its_gpus(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "may_have_gpu", lambda: False)
    monkeypatch.setattr(outcomes, "_outcomes", [])
    cell = ["model=tiny", "method=lora", "device=cuda", "precision=bf16"]
    _, jobs = dryrun.compose([*cell, f"hydra/launcher={launcher}"])
    assert [job.here for job in jobs] == ([] if launcher == "parallel" else [False])
    assert len(outcomes._outcomes) == (launcher == "parallel")
