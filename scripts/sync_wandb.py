"""Send the offline W&B runs of a results folder to the server, each once.

    python scripts/sync_wandb.py results/runs [--all] [--dry-run]

Of a cell that took several attempts only the last is sent: a resumed attempt begins with the curve
of those before it, so that it stands alone. --all sends every attempt. Runs that were sent before
are passed over. The API key is W&B's own business (`wandb login` or WANDB_API_KEY).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

AT_ONCE = 50  # folders in one call of wandb
# offline-run-<date>_<time>-<cell>-<attempt>, see bench/run/tracking.py
RUN = re.compile(r"offline-run-(\d{8}_\d{6})-([0-9a-f]{16})-[0-9a-f]{8}")


def runs(folder: Path, every: bool) -> list[Path]:
    """Folders of offline runs, in the order of their start; of each cell the last, or all."""
    found = [path for path in folder.glob("**/wandb/offline-run-*") if RUN.fullmatch(path.name)]
    found.sort(key=lambda path: path.name)
    if every:
        return found
    # One cell may lie in several results folders.
    last = {(path.parent, _parts(path)[1]): path for path in found}
    return sorted(last.values(), key=lambda path: path.name)


def _parts(path: Path) -> tuple[str, str]:
    match = RUN.fullmatch(path.name)
    assert match is not None
    return match[1], match[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="every attempt, not the last alone")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        print(f"{options.folder}: no such folder", file=sys.stderr)
        return 2
    found = runs(options.folder, options.all)
    if not found:
        print(f"{options.folder}: no offline runs of cells here", file=sys.stderr)
        return 2
    if options.dry_run:
        print("\n".join(map(str, found)))
        return 0
    status = 0
    for i in range(0, len(found), AT_ONCE):
        paths = [str(path) for path in found[i : i + AT_ONCE]]
        command = [sys.executable, "-m", "wandb", "sync", "--skip-synced", *paths]
        returned = subprocess.run(command).returncode
        # Negative: a signal ended it. As a shell has it, 128 and the signal.
        status = max(status, returned if returned >= 0 else 128 - returned)
    return status


if __name__ == "__main__":
    sys.exit(main())
