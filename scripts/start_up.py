"""Processor time from a command to the end of its first training step, and what it is spent on.

    python scripts/start_up.py --out results/cost
    python scripts/start_up.py --beside ../other      another checkout's cells in the same rounds

Each line is a fresh process of one thread, or a sweep with its workers. Seconds are of processor
time, user and system, and lines take turns, so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
CELL = (
    "model=tiny", "task=uuid", "task.pairs=8", "trainer.batch_size=8", "trainer.max_steps=2",
    "trainer.log_every=1", "tracker=none", "threads=1", "device=cpu", "precision=fp32",
)  # fmt: skip
TRAINER = "from transformers import LlamaForCausalLM, Trainer"
# What a cell stands on, each line with what is above it, and the largest of what those import.
STAGES = {
    "Python": "pass",
    "torch": "import torch",
    "and its compiler, which its optimisers import": "import torch, torch._dynamo",
    "and transformers' base class of models": "from transformers import PreTrainedModel",
    "and its LLaMA and Trainer": TRAINER,
    "the same without looking for garbage": f"import gc; gc.disable(); {TRAINER}",
    "alone: sympy, which torch's compiler imports": "import sympy",
    "alone: scipy.optimize, which transformers' losses import": "import scipy.optimize",
    "alone: datasets, which its Trainer imports": "import datasets",
}
NOTE = (
    "Processor time grows where other work shares the cores: compare lines of one table, and take",
    "the low end of a range for a machine at rest.",
    "",
    "torch and transformers import what is alone above, and peft, wherever it is installed, and",
    "transformers reads the source of each of its models twice. Neither has a switch for it.",
)
END = "\nimport os; os._exit(0)"
# `python -m bench`, up to where the first step is reported.
FIRST_STEP = """
import os, sys
from bench.run import progress
progress.Shown.step = lambda *_: os._exit(0)
from bench.__main__ import main
main(sys.argv[1:])
sys.exit("no step was reported")
"""
CELLS = {
    "first step of `tiny`": ("-c", FIRST_STEP),
    "two cells in two workers, whole": (
        "-m", "bench", "-m", "seed=0,1", "hydra.launcher.workers=2"
    ),
}  # fmt: skip
# What trains nothing, and the status it ends with; FOLDER holds the record of CELL. What a method
# says of itself is kept in CARDS, which is empty where the method has never been seen.
DOORS = {
    "a refusal, of a setting that is misspelt": (["-m", "bench", "seedd=1"], 2),
    "a refusal, of a method's setting, which torch says": (
        ["-m", "bench", "method=lora", "method.rank=0"],
        2,
    ),
    "`bench.status`": (["-m", "bench.status", "FOLDER"], 0),
    "a cell that was done before": (["-m", "bench", *CELL, "results_dir=FOLDER"], 0),
    "`bench.dryrun --ids` of a cell": (["-m", "bench.dryrun", *CELL, "--ids"], 0),
}
UNSEEN = {
    "the same, of a method that was never seen, with torch": (
        ["-m", "bench.dryrun", *CELL, "--ids"],
        0,
    ),
}


def seconds(
    arguments: list[str], root: Path = ROOT, status: int = 0, cards: str | None = None
) -> float:
    """Processor time of Python with these arguments, and of what it starts.

    Raises SystemExit where it ends with another status.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    if cards is not None:
        environment |= {"MORA_BENCH_METHOD_CARDS": cards}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ended.returncode != status:
        sys.exit(f"{arguments}\nended with status {ended.returncode}: {ended.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commit(checkout: Path) -> str:
    """The commit of a checkout, short."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def measure(runs: int, beside: Path | None) -> dict[str, list[float]]:
    """Seconds of each line in each of ``runs`` rounds."""
    spent: dict[str, list[float]] = {}
    places = {"": ROOT} | ({} if beside is None else {f", at {commit(beside)}": beside.resolve()})
    for number in range(runs):
        for name, code in STAGES.items():
            spent.setdefault(name, []).append(seconds(["-c", code + END]))
        for place, root in places.items():
            for name, start in CELLS.items():
                with tempfile.TemporaryDirectory() as folder:
                    taken = seconds([*start, *CELL, f"results_dir={folder}"], root)
                spent.setdefault(name + place, []).append(taken)
            for name, taken in doors(root).items():
                spent.setdefault(name + place, []).append(taken)
        print(number + 1, {name: round(each[-1], 2) for name, each in spent.items()}, flush=True)
    return spent


def doors(root: Path) -> dict[str, float]:
    """Seconds of each line that trains nothing."""
    spent = {}
    with tempfile.TemporaryDirectory() as place:
        folder, cards = f"{place}/runs", f"{place}/cards"
        seconds(["-m", "bench", *CELL, f"results_dir={folder}"], root, cards=cards)
        for name, (arguments, status) in (DOORS | UNSEEN).items():
            kept = f"{place}/none" if name in UNSEEN else cards
            given = [part.replace("FOLDER", folder) for part in arguments]
            spent[name] = seconds(given, root, status, kept)
    return spent


def table(spent: dict[str, list[float]]) -> list[str]:
    """Markdown: a row a line, its median and range."""
    rows = ["| up to | median | range |", "| --- | ---: | ---: |"]
    for name, each in spent.items():
        between = f"{min(each):.2f} to {max(each):.2f}"
        rows += [f"| {name} | {statistics.median(each):.2f} | {between} |"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path, help="folder for start_up.md")
    options = parser.parse_args()
    spent = measure(options.runs, options.beside)
    import timing

    command = f"python scripts/start_up.py --runs {options.runs}"
    lines = [
        "# What the start of a cell takes",
        "",
        f"Made by `{command}{' --beside ...' if options.beside else ''}`.",
        f"Seconds of processor time, {options.runs} rounds, one thread, {timing.processor()};",
        f"torch {version('torch')}, transformers {version('transformers')}.",
        "",
        *table(spent),
        "",
        *NOTE,
    ]
    print("\n".join(lines))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "start_up.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
