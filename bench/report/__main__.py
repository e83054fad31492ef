"""python -m bench.report PATH: tables, figures and verdicts from records, or from a table (CSV)."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from bench import report
from bench.errors import UserError, quiet
from bench.judge import claims, primary
from bench.report import export, files


@quiet
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 some files were refused, the report is of the rest; 2 nothing to report."""
    options = _parser().parse_args(arguments)
    wants = (options.claims, options.claims_from, options.claims_only, options.html)
    options.claims = any(wants)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        found = report.collect(options.path)
        judged = claims.load(options.claims_from) if options.claims else None
        made = report.make(
            found, options.metric, judged, options.claims_from,
            family=primary.load(options.claims_from) if options.claims else None,
            claims_only=options.claims_only,
        )  # fmt: skip
        out = options.out or _beside(options.path)
        changes = files.changes(made, out)
        wrote = files.write(made, out, options.html)  # before printing, whose reader may go
        if options.export:
            wrote += export.write(found, options.export)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.text(made, _width()))
    for change in changes:
        print(f"CHANGED since the last report: {change}")
    for file in wrote:
        print(f"wrote {file}")
    return 1 if found.refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "path", type=Path, help="a folder of records, one record, a table.csv, or peft's results"
    )
    parser.add_argument("--out", type=Path, help="folder for tables and figures (PATH/report)")
    parser.add_argument("--metric", help="final metric to compare by (the task's own)")
    parser.add_argument("--claims", action="store_true", help="judge the claims of conf/claims")
    parser.add_argument("--claims-from", type=Path, metavar="DIR", help="judge claims of your own")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the cells as such a CSV and as peft's JSON",
    )
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--claims-only", action="store_true", help="verdicts, no tables or figures")
    whole.add_argument("--html", type=Path, metavar="FILE", help="one page with all of it")
    return parser


def _beside(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / "report"


def _width() -> int | None:
    """Columns of the terminal; a file or a pipe takes lines of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


if __name__ == "__main__":
    sys.exit(main())
