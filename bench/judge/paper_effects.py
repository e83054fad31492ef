"""The paper's effect on the same measure as a claim's, to stand beside the measured one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from bench.judge import paper
from bench.judge.claims import Claim
from bench.judge.rows import Row


def of(claim: Claim, metric: str | None, arms: Sequence[Row]) -> float | None:
    """Positive where a is better, in units of the claim's endpoint; None where it isn't stated.

    steps to a target: where Fig. 2 or 3's curve crosses the loss, between points by a straight
    line (their loss is of all tokens, keys included). Accuracies and perplexities: Tables 1 to 4,
    6 and 7, at the nearest rank; of several columns the mean.
    """
    if len(arms) < 2 or claim.trend:
        return None
    task = arms[0].cells[0].task
    match claim.endpoint.kind:
        case "to_target":
            if (
                paper.FAMILIES.get(task.split("_")[0]) != "uuid"
                or claim.endpoint.counted != "steps"
            ):
                return None
            steps = [_steps_to(claim.endpoint.judged, row) for row in arms]
            if steps[0] is None or steps[1] is None:
                return None
            return math.log(steps[1] / steps[0])
        case "final" | "curve":
            return _of_tables(claim, metric, arms, task)
        case "seconds_per_token":
            operators = {row.settings.get("operator") for row in arms}
            stated = {row.method for row in arms} == {"mora", "lora"} and claim.ratio
            return -math.log(paper.STEP_TIME) if stated and "decoupling" in operators else None
    return None


def _of_tables(claim: Claim, metric: str | None, arms: Sequence[Row], task: str) -> float | None:
    """From the table that stands beside the task's."""
    beside = paper.beside(task)
    if beside is None or (claim.endpoint.kind == "curve") != (beside.source == "Table 2"):
        return None
    example = next((c.metrics[metric] for c in arms[0].cells if metric in c.metrics), None)
    if example is None or (example.unit == "perplexity") != (beside.quantity == "perplexity"):
        return None
    if example.unit not in ("perplexity", "fraction"):
        return None
    numbers = [beside.row(row.method, row.rank, row.settings.get("operator"))[1] for row in arms]
    both = [(a, b) for a, b in zip(*numbers, strict=True) if a is not None and b is not None]
    if not both:
        return None
    sign = 1 if example.higher_is_better else -1
    if claim.ratio:
        apart = [math.log(a / b) for a, b in both]
    else:
        unit = 100 if example.unit == "fraction" else 1
        apart = [(a - b) / unit for a, b in both]
    return sign * sum(apart) / len(apart)


def _steps_to(target: float, row: Row) -> float | None:
    """Where the paper's digitised curve falls below the target."""
    for table, steps in ((paper.FIG3, paper.FIG3_STEPS), (paper.FIG2, paper.FIG2_STEPS)):
        curve = _nearest(table, row)
        if curve is None:
            continue
        known = [(s, y) for s, y in zip(steps, curve, strict=True) if y is not None]
        for (s0, y0), (s1, y1) in pairwise(known):
            if y0 >= target > y1:
                return s0 + (y0 - target) / (y0 - y1) * (s1 - s0)
    return None


def _nearest(
    table: Mapping[paper.Key, tuple[float | None, ...]], row: Row
) -> tuple[float | None, ...] | None:
    if row.rank is None:
        return table.get((row.method, None))
    ranks = [rank for method, rank in table if method == row.method and rank is not None]
    if not ranks:
        return None
    wanted = row.rank
    return table[row.method, min(ranks, key=lambda r: abs(math.log(r / wanted)))]
