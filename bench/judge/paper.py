"""The numbers of arXiv 2405.12130v1, as data, to stand beside measured ones.

Accuracies are per cent. Curves are read off the figures (within 0.02); a dash is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

CITATION = "Jiang et al. 2024, arXiv 2405.12130v1"
STEP_TIME = 1.03  # section 6.2: a step of decoupling over that of the others, 7B, r = 8
UUID_SETTING = "LLaMA-2 7B, 10,000 pairs"

Key = tuple[str, int | None]  # method, rank

# Table 2: character-level accuracy (%) after so many steps of the 1,000.
TABLE2: dict[Key, dict[int, float]] = {
    ("fft", None): {300: 42.5, 500: 100.0, 700: 100.0, 900: 100.0},
    ("lora", 8): {300: 9.9, 500: 10.0, 700: 10.7, 900: 54.2},
    ("mora", 8): {300: 10.1, 500: 15.7, 700: 87.4, 900: 100.0},
    ("lora", 256): {300: 9.9, 500: 70.6, 700: 100.0, 900: 100.0},
    ("mora", 256): {300: 41.6, 500: 100.0, 700: 100.0, 900: 100.0},
}

# Fig. 3: training loss (nats a token) against step.
FIG3_STEPS = (200, 300, 400, 500, 600, 700, 800, 900, 985)
FIG3: dict[Key, tuple[float | None, ...]] = {
    ("fft", None): (1.67, 0.84, 0.42, 0.25, 0.18, 0.15, 0.14, 0.14, 0.135),
    ("lora", 8): (None, 2.46, 2.35, 2.02, 1.46, 0.97, 0.62, 0.42, 0.354),
    ("lora", 256): (None, 2.43, 1.91, 1.00, 0.45, 0.25, 0.18, 0.153, 0.146),
    ("mora", 8): (2.36, 1.85, 1.31, 0.84, 0.51, 0.32, 0.22, 0.174, 0.160),
    ("mora", 256): (2.00, 0.94, 0.43, 0.24, 0.18, 0.15, 0.145, 0.142, 0.139),
}

# Fig. 2: the same for more of LoRA's ranks.
FIG2_STEPS = (300, 500, 550, 630, 700, 850, 985)
FIG2: dict[Key, tuple[float | None, ...]] = {
    ("fft", None): (0.84, 0.25, 0.21, 0.17, 0.15, 0.14, 0.135),
    ("lora", 256): (2.44, 1.01, 0.66, 0.37, 0.25, 0.16, 0.145),
    ("lora", 128): (2.47, 1.60, 1.18, 0.62, 0.37, 0.19, 0.15),
    ("lora", 64): (2.47, 1.88, 1.54, 0.96, 0.57, 0.23, 0.155),
    ("lora", 32): (2.47, None, 1.64, 1.13, 0.78, 0.32, 0.19),
    ("lora", 16): (2.47, 1.96, 1.68, 1.23, 0.90, 0.44, 0.24),
    ("lora", 8): (2.47, 2.02, 1.76, 1.31, 0.97, 0.51, 0.355),
}

# Table 1.
TABLE1_COLUMNS = ("MMLU 0-shot", "MMLU 5-shot", "GSM8K", "MATH", "BioMed.", "Finance")
TABLE1: dict[Key, tuple[float | None, ...]] = {
    ("fft", None): (50.6, 51.3, 66.6, 20.1, 56.4, 69.6),
    ("lora", 8): (50.2, 51.5, 64.6, 15.1, 52.3, 64.0),
    ("lora_plus", 8): (49.2, 51.1, 64.1, 15.8, 52.2, 64.9),
    ("relora", 8): (49.3, 50.2, 61.5, 14.5, 46.3, 61.0),
    ("asylora", 8): (50.3, 52.2, 64.5, 15.0, 52.5, 63.5),
    ("dora", 8): (50.2, 51.5, 64.5, 14.6, 52.5, 63.9),
    ("mora", 8): (49.7, 51.5, 64.2, 15.4, 53.3, 67.1),
    ("lora", 256): (49.7, 50.8, 67.9, 19.9, 54.1, 67.3),
    ("lora_plus", 256): (49.2, 51.3, 68.2, 17.1, 54.2, 66.7),
    ("relora", 256): (None, None, 64.0, 18.1, 52.9, 57.9),
    ("asylora", 256): (50.1, 52.0, 66.9, 19.3, 54.1, 66.9),
    ("dora", 256): (49.6, 51.1, 67.4, 19.5, 54.2, 66.0),
    ("mora", 256): (49.9, 51.4, 67.9, 19.2, 55.4, 68.7),
}

# Table 3: perplexity on C4's validation set (rank 128; there is no full-rank row).
TABLE3_COLUMNS = ("250M", "1.3B")
TABLE3: dict[Key, tuple[float | None, ...]] = {
    ("lora", 128): (33.40, 28.56),
    ("mora", 128): (28.54, 25.25),
    ("relora", 128): (32.19, 27.80),
    ("remora", 128): (26.74, 23.34),
}

# Table 4: GSM8K by operator, ranks 8 and 256.
TABLE4: dict[str, dict[int, float]] = {
    "truncation": {8: 59.5, 256: 66.6},
    "sharing": {8: 62.5, 256: 67.9},
    "decoupling": {8: 63.6, 256: 67.8},
    "rotation": {8: 64.2, 256: 67.9},
}

# Table 6 (its LoRA r=8 average is printed as 51.9 and comes to 52.05; Table 1 prints 52.3).
TABLE6_COLUMNS = ("PubMedQA", "USMLE", "BioMMLU", "RCT", "average")
TABLE6: dict[Key, tuple[float | None, ...]] = {
    ("fft", None): (74.1, 41.2, 47.5, 62.7, 56.4),
    ("lora", 8): (73.1, 34.9, 45.3, 54.9, 51.9),
    ("mora", 8): (73.3, 34.7, 45.3, 59.9, 53.3),
    ("lora", 256): (73.8, 39.7, 46.0, 56.9, 54.1),
    ("mora", 256): (74.4, 40.4, 46.1, 60.6, 55.4),
}

# Table 7.
TABLE7_COLUMNS = ("ConvFinQA", "FiQA SA", "Headline", "NER", "FPB", "average")
TABLE7: dict[Key, tuple[float | None, ...]] = {
    ("fft", None): (44.4, 78.8, 82.3, 68.1, 74.3, 69.6),
    ("lora", 8): (44.5, 76.2, 72.4, 61.6, 65.1, 64.0),
    ("mora", 8): (45.8, 76.6, 76.3, 68.9, 68.2, 67.1),
    ("lora", 256): (41.4, 78.3, 83.0, 66.8, 66.7, 67.3),
    ("mora", 256): (47.7, 76.3, 83.4, 68.0, 68.1, 68.7),
}

# Learning-rate grids: (task family, method or "adapter" for LoRA and its kin, low or high rank).
# One value is a fixed rate. None is not stated.
LEARNING_RATES: dict[tuple[str, str, str], tuple[float, ...]] = {
    ("uuid", "fft", ""): (3e-5,),
    ("uuid", "adapter", "low"): (1e-4, 2e-4, 3e-4),
    ("uuid", "adapter", "high"): (1e-4, 2e-4, 3e-4),
    ("uuid", "mora", "low"): (5e-5, 1e-4, 2e-4),
    ("uuid", "mora", "high"): (5e-5, 1e-4, 2e-4),
    ("instruction", "fft", ""): (2e-5,),
    ("instruction", "adapter", "low"): (1e-4, 2e-4),
    ("instruction", "adapter", "high"): (1e-4, 2e-4),
    ("instruction", "mora", "low"): (2e-4, 3e-4),
    ("instruction", "mora", "high"): (3e-5, 5e-5),
    ("math", "fft", ""): (2e-5,),
    ("math", "adapter", "low"): (1e-4, 2e-4),
    ("math", "adapter", "high"): (1e-4, 2e-4),
    ("math", "mora", "low"): (2e-4, 3e-4),
    ("math", "mora", "high"): (3e-5, 5e-5),
    ("continual", "fft", ""): (3e-5,),
    ("continual", "adapter", "low"): (3e-4, 4e-4),
    ("continual", "adapter", "high"): (3e-4, 4e-4),
    ("continual", "mora", "low"): (4e-4, 5e-4),
    ("continual", "mora", "high"): (5e-5, 7e-5),
    # Only the authors' command for ReMoRA at 250M says one; the others are not stated.
    ("pretraining", "mora", "high"): (5e-4,),
}


@dataclass(frozen=True)
class Beside:
    """Columns of the paper that stand beside measured rows of one task."""

    source: str  # "Table 2"
    quantity: str  # what the numbers are
    setting: str  # model and data they were measured on
    columns: tuple[str, ...]
    rows: Mapping[Key, tuple[float | None, ...]]
    operators: Mapping[str, Mapping[int, tuple[float | None, ...]]] = field(default_factory=dict)
    digits: int = 1

    def row(
        self, method: str, rank: int | None, operator: str | None = None
    ) -> tuple[int | None, tuple[float | None, ...]]:
        """The paper's rank that is nearest (on a log scale) and its numbers; blanks if none."""
        blank = (None,) * len(self.columns)
        by_rank: Mapping[int, tuple[float | None, ...]]
        if rank is None:
            return None, self.rows.get((method, None), blank)
        if operator is not None and operator in self.operators and method == "mora":
            by_rank = self.operators[operator]
        else:
            by_rank = {r: numbers for (m, r), numbers in self.rows.items() if m == method and r}
        if not by_rank:
            return None, blank
        nearest = min(by_rank, key=lambda r: abs(math.log(r / rank)))
        return nearest, by_rank[nearest]


def _columns(
    table: Mapping[Key, tuple[float | None, ...]], names: tuple[str, ...], wanted: tuple[str, ...]
) -> dict[Key, tuple[float | None, ...]]:
    places = [names.index(name) for name in wanted]
    return {key: tuple(numbers[i] for i in places) for key, numbers in table.items()}


_UUID = Beside(
    "Table 2",
    "accuracy (%) at step",
    UUID_SETTING,
    tuple(str(step) for step in TABLE2["fft", None]),
    {key: tuple(values.values()) for key, values in TABLE2.items()},
)
_MMLU = ("MMLU 0-shot", "MMLU 5-shot")
_INSTRUCTION = Beside(
    "Table 1", "accuracy (%)", "LLaMA-2 7B, Tulu v2", _MMLU, _columns(TABLE1, TABLE1_COLUMNS, _MMLU)
)
_MATHS = ("GSM8K", "MATH")
_MATH = Beside(
    "Tables 1 and 4",
    "accuracy (%)",
    "LLaMA-2 7B, MetaMathQA",
    _MATHS,
    _columns(TABLE1, TABLE1_COLUMNS, _MATHS),
    {
        operator: {
            # MATH is known for the operators of Table 1 alone: rotation at 8, sharing at 256.
            rank: (gsm8k, {("rotation", 8): 15.4, ("sharing", 256): 19.2}.get((operator, rank)))
            for rank, gsm8k in by_rank.items()
        }
        for operator, by_rank in TABLE4.items()
    },
)
_BIOMEDICINE = Beside(
    "Table 6", "accuracy (%)", "LLaMA-2 7B, PubMed abstracts", TABLE6_COLUMNS, TABLE6
)
_FINANCE = Beside("Table 7", "score (%)", "LLaMA-2 7B, financial news", TABLE7_COLUMNS, TABLE7)
_DOMAINS = ("BioMed.", "Finance")
_DOCS = Beside(
    "Table 1",
    "average (%)",
    "LLaMA-2 7B, other domains",
    _DOMAINS,
    _columns(TABLE1, TABLE1_COLUMNS, _DOMAINS),
)
_PRETRAIN = Beside("Table 3", "perplexity", "LLaMA of 250M and 1.3B, C4", TABLE3_COLUMNS, TABLE3,
                   digits=2)  # fmt: skip

# Our tasks, by the first part of their names, and the paper's kind of task that each stands for.
FAMILIES = {
    "uuid": "uuid",
    "instruction": "instruction",
    "math": "math",
    "biomedicine": "continual",
    "finance": "continual",
    "docs": "continual",
    "pretrain": "pretraining",
}
_BESIDE = {
    "uuid": _UUID,
    "instruction": _INSTRUCTION,
    "math": _MATH,
    "biomedicine": _BIOMEDICINE,
    "finance": _FINANCE,
    "docs": _DOCS,
    "pretrain": _PRETRAIN,
}


def beside(task: str) -> Beside | None:
    """The paper's numbers for a task of ours; None where it has none."""
    return _BESIDE.get(task.split("_")[0])


def learning_rates(task: str, method: str, rank: int | None) -> tuple[float, ...]:
    """The paper's grid for the method on that kind of task; empty where it is not stated."""
    family = FAMILIES.get(task.split("_")[0], "")
    if rank is None:
        return LEARNING_RATES.get((family, "fft", ""), ())
    kind = "mora" if method in ("mora", "remora") else "adapter"
    return LEARNING_RATES.get((family, kind, "low" if is_low(rank) else "high"), ())


def is_low(rank: int) -> bool:
    """Nearer to the paper's rank 8 than to its 256."""
    return rank * rank < 8 * 256


def name(method: str, rank: int | None) -> str:
    """ "mora", 8 -> "MoRA r=8"."""
    labels = {"fft": "FFT", "lora": "LoRA", "mora": "MoRA", "relora": "ReLoRA", "remora": "ReMoRA"}
    label = labels.get(method, method)
    return label if rank is None else f"{label} r={rank}"
