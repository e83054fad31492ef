"""Which tuners of the installed peft keep the contract: ``python -m methods.peft_tuners``.

Each is attached by the bridge (methods/peft_bridge.py) to a small random LLaMA, and the checks of
methods/contract.py, the same that this package's methods pass, are run on it.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from methods.__main__ import aligned
from methods.contract import CHECKS, ContractBroken, Subject, llama, run_llama
from methods.errors import MethodError
from methods.peft_bridge import Peft

# Settings that a model of width 32 needs; where a tuner starts at random by default, the start
# that leaves the model alone.
TUNERS: dict[str, dict[str, Any]] = {
    "LoRA": {"peft_type": "LORA"},
    "DoRA": {"peft_type": "LORA", "use_dora": True},
    "PiSSA": {"peft_type": "LORA", "init_lora_weights": "pissa"},
    "VeRA": {"peft_type": "VERA"},
    "HiRA": {"peft_type": "HIRA", "r": 8},
    "RandLoRA": {"peft_type": "RANDLORA", "r": 8},
    "LoHa": {"peft_type": "LOHA"},
    "LoKr": {"peft_type": "LOKR"},
    "OFT": {"peft_type": "OFT", "oft_block_size": 4},
    "BOFT": {"peft_type": "BOFT", "boft_block_size": 4},
    "HRA": {"peft_type": "HRA"},
    "IA3": {"peft_type": "IA3", "feedforward_modules": []},
    "FourierFT": {"peft_type": "FOURIERFT", "n_frequency": 64, "init_weights": True},
    "WaveFT": {"peft_type": "WAVEFT", "n_frequency": 64},
    "C3A": {"peft_type": "C3A", "block_size": 8, "init_weights": True},
    "MiSS": {"peft_type": "MISS", "r": 8},
    "SHiRA": {"peft_type": "SHIRA", "r": 4},
    "RoAd": {"peft_type": "ROAD", "group_size": 8},
    "DeLoRA": {"peft_type": "DELORA"},
    "GraLoRA": {"peft_type": "GRALORA", "r": 8},
    "PSOFT": {"peft_type": "PSOFT", "r": 8},
    "OSF": {"peft_type": "OSF"},
    "VB-LoRA": {"peft_type": "VBLORA", "vector_length": 8, "num_vectors": 8},
    "TinyLoRA": {"peft_type": "TINYLORA"},
    "Lily": {"peft_type": "LILY"},
}
HEADER = ("tuner", "trainable", "checks passed")


def main(argv: Sequence[str] | None = None) -> int:
    """Print how many checks each tuner passes, and why others fail. Returns 0 in any case.

    Leaves with status 2 for an unknown tuner.
    """
    parser = argparse.ArgumentParser(
        prog="python -m methods.peft_tuners", description="Check peft's tuners."
    )
    parser.add_argument(
        "tuners", nargs="*", metavar="NAME", help=f"one of {', '.join(TUNERS)} (default: all)"
    )
    names = parser.parse_args(argv).tuners or list(TUNERS)
    unknown = [name for name in names if name not in TUNERS]
    if unknown:
        parser.error(f"unknown tuner {unknown[0]}; choose {', '.join(TUNERS)}")
    _quiet()
    rows, reasons = [], []
    for name in names:
        subject = subject_of(name)
        broken = violations(subject)
        passed = f"{len(CHECKS) - len(broken)} of {len(CHECKS)}"
        rows.append((name, trainable(subject), passed))
        reasons += [f"{name}, {check}: {reason}" for check, reason in broken.items()]
    import peft

    print(f"Tuners of peft {peft.__version__} through method=peft:\n")
    print(aligned(HEADER, rows))
    print("\n" + "\n".join(reasons) if reasons else "")
    return 0


def subject_of(tuner: str) -> Subject:
    """A tuner, by its key in TUNERS, on the small LLaMA of methods/contract.py."""
    return Subject(
        lambda: Peft(peft_config=TUNERS[tuner], learning_rate=1e-2),
        llama,
        run_llama,
        tolerance=2e-5,
    )


def violations(subject: Subject, checks: Iterable[str] = CHECKS) -> dict[str, str]:
    """{check: what was found} for each check that fails."""
    found = {}
    for check in checks:
        try:
            CHECKS[check](subject)
        except (ContractBroken, MethodError) as error:
            found[check] = str(error).splitlines()[0]
    return found


def trainable(subject: Subject) -> str:
    """How many parameters the tuner trains; "-" where it cannot be attached."""
    try:
        _, model = subject.attached()
    except MethodError:
        return "-"
    return f"{_count(model):,}"


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    sys.exit(main())
