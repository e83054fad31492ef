"""Make tables, figures and verdicts again from the committed records, all in one process.

    python scripts/draw_results.py        in the project's root; `make results` calls it

As `python -m bench.report` for each folder, whose imports alone take two seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.report.__main__ import main as report


def main(results: Path = Path("results")) -> int:
    """The first exit status that is not 0: what failed has said so, and the rest is not drawn."""
    study = results / "study"
    calls = [[folder, "--out", folder.parent] for folder in sorted(results.glob("*/records"))]
    calls += [
        [folder, "--claims", "--out", folder.parent] for folder in sorted(study.glob("*/records"))
    ]
    if study.is_dir():
        calls.append([study, "--claims-only", "--out", study])
    return next((status for call in calls if (status := report([*map(str, call)]))), 0)


if __name__ == "__main__":
    sys.exit(main())
