"""The expected best after k trials of the learning rate, for each arm: as a table and a figure.

An arm that is good after one trial needs no search; one that needs all of them is a fragile choice.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.judge.verdicts import Judgement
from bench.report import wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 6
ARMS = 8  # of a panel, as many as a legend takes
WIDE = 44  # letters of a title's or a label's line

Curves = dict[tuple[str, str], dict[str, list[float]]]  # (endpoint, setting): arm: after k trials


def curves(judgements: Sequence[Judgement]) -> Curves:
    """In units of what rates were chosen by; an arm of several claims is there once."""
    found: Curves = {}
    for j in judgements:
        if j.protocol != "tuned" or not j.claim.endpoint.of.learning:
            continue
        for arm, values in j.best_of:
            found.setdefault((j.best_by, j.setting), {}).setdefault(arm, [*values])
    return found


def as_csv(found: Curves) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["endpoint", "setting", "arm", "trials", "expected_best"])
    for (endpoint, setting), arms in found.items():
        for arm, values in arms.items():
            writer.writerows([endpoint, setting, arm, k, v] for k, v in enumerate(values, 1))
    return out.getvalue()


def left_out(found: Curves) -> str:
    """Says how many settings are drawn, where not all are; else it is empty."""
    if len(found) <= PANELS:
        return ""
    return f"{PANELS} of {len(found)} settings are drawn; trials.csv has all of them"


def figure(found: Curves) -> Figure | None:
    """A panel an endpoint and setting."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    from bench.report.figures import STYLE, literal
    from bench.report.looks import looks_of

    shown = [*found.items()][:PANELS]
    if not shown:
        return None
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    with plt.style.context(STYLE):
        drawn, grid = plt.subplots(
            lines, columns, figsize=(5.0 * columns, 3.4 * lines), squeeze=False
        )
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, ((endpoint, setting), arms) in zip(grid.flat, shown, strict=False):
            some = [*arms.items()][:ARMS]
            methods = [arm.split(" ")[0].lower().replace("+", "_plus") for arm, _ in some]
            for (arm, values), look in zip(some, looks_of(methods), strict=True):
                name = literal(wording.without_settings(arm))
                axes.plot(range(1, len(values) + 1), values, **look.keywords(), label=name)
            title = textwrap.wrap(setting.replace(", laptop scale", ""), WIDE)
            axes.set_title("\n".join(map(literal, title)), fontsize=9)
            axes.set_xlabel("learning rates tried")
            axes.set_ylabel("\n".join(map(literal, textwrap.wrap(endpoint, WIDE))))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(fontsize=8)
        if said := left_out(found):
            drawn.supxlabel(said, fontsize=9)
    return drawn
