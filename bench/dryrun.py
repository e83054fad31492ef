"""``python -m bench.dryrun KEY=VALUE ...``: what a grid would run, or with --claims, decide.

See bench/sweep/dryrun.py, and bench/judge/foresight.py for what could be decided.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import quiet
from bench.sweep import dryrun, outcomes

if TYPE_CHECKING:
    from bench.judge.primary import Family


@quiet
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the dry run. Returns 0, whatever could be decided, or 2 for a mistake."""
    parser = dryrun.parser()
    parser.add_argument("--claims", action="store_true", help="tell what the grid could decide")
    parser.add_argument("--claims-from", type=Path, metavar="DIR", help="of claims of your own")
    parser.add_argument(
        "--records", type=Path, metavar="PATH", help="earlier records: how far seeds lie apart"
    )
    options = parser.parse_intermixed_args(arguments)
    if not (options.claims or options.claims_from):
        return dryrun.run(options)
    try:
        said = _foreseen(options)
    except dryrun.MISTAKES as error:
        return dryrun.refused(error)
    print(said)
    return outcomes.conclude()


def _foreseen(options: argparse.Namespace) -> str:
    """What each claim could come to, primary comparisons first."""
    # Judging needs scipy, which a dry run without claims does not.
    from bench.judge import cells, claims, foresight, primary
    from bench.judge.rows import count
    from bench.run.build import build
    from bench.sweep.estimate import trainable

    judged, family = claims.load(options.claims_from), primary.load(options.claims_from)
    earlier = cells.collect(options.records) if options.records else None
    plans = [job.plan() for job in dryrun.compose(options.overrides)[1]]
    numbers = [trainable(plan.config, build(plan.config["method"])) for plan in plans]
    said = foresight.foresee(judged, [p.config for p in plans], earlier, family, numbers)
    lines = [f"What {count(len(plans), 'cell')} could decide"]
    for heading, kind in ((_family(family), True), ("Exploratory claims", False)):
        found = [line for line in said if line.primary == kind]
        lines += ["", heading, ""] if found else []
        for one in found:
            for line in str(one).split("\n"):
                indent = "  " + line[: len(line) - len(line.lstrip())]
                lines += textwrap.wrap(line.strip(), 100, initial_indent=indent,
                                       subsequent_indent=indent)  # fmt: skip
    others = [c.id for c in family.claims if all(f.claim is not c for f in said)]
    if others:
        lines += ["", *textwrap.wrap(f"Primary, but of other cells: {', '.join(others)}", 100)]
    never = sum(not one.possible for one in said)
    total = f"{count(len(said), 'comparison')}, of which {never} can never be decided"
    return "\n".join([*lines, "", total if said else "No claim is about these cells."])


def _family(family: Family) -> str:
    from bench.judge.rows import count

    looks = " and ".join(
        f"{count(look.seeds, 'seed')} (level {look.level:g})" for look in family.looks if look.seeds
    )
    return f"Primary comparisons: Holm over {len(family.claims)}" + f"; looks at {looks}" * bool(
        looks
    )


if __name__ == "__main__":
    sys.exit(main())
