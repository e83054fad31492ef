"""Verdicts for the terminal, as a table for Markdown and LaTeX, and as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from bench.judge.comparison import FEWEST_SEEDS
from bench.judge.rows import count
from bench.judge.verdicts import CANNOT_TELL, UNDECIDED, VERDICTS, Judgement
from bench.report import wording
from bench.report.render import DASH, Column, Table, Value

TITLE = "Claims"
REASON_SHOWN = 110  # characters of a reason in the table; the CSV has all


def preface(judgements: Sequence[Judgement]) -> list[str]:
    """How to read the verdicts, and how many are judged together."""
    judged = [j for j in judgements if j.effect is not None]
    counts = Counter(j.verdict for j in judged)
    verdicts = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
    primary = [j for j in judgements if j.primary]
    family = (
        f"{len(primary)} primary, judged together (Holm)" if primary else "no primary comparison"
    )
    claims = len({j.claim.id for j in judgements})
    known = f"{count(claims, 'claim')}, {count(len(judged), 'comparison')} with numbers: {verdicts}"
    exploratory = sum(not j.primary for j in judged)
    return [
        known,
        f"{family}; {exploratory} exploratory, each at its own level",
        *(" ".join(line.split()) for line in READING),
    ]


READING = (
    f"""interval: Student's t over {FEWEST_SEEDS} seeds or more, paired or with the pooled residual;
    the verdict is read off it and the margin, by the same level either way; where each seed is
    judged at the rate that the others choose, it is widened for the choice, and covers the truth
    in 93 to 97 of 100 simulated studies (most where the rates are alike)""",
    """effect: a / b where a ratio is compared, else by how much a is better; paper: its effect on
    the same measure, at its own scale""",
    """cannot tell: a guard fired, nothing could have shown; rates unsettled: validation would more
    likely have chosen another rate, or the arms were not tuned alike""",
)


def text(judgements: Sequence[Judgement]) -> str:
    """For the terminal: claim by claim, setting by setting."""
    lines = [TITLE, "=" * len(TITLE), *wording.headlines(judgements), "", *preface(judgements)]
    for claim_id, group in groupby(judgements, key=lambda j: j.claim.id):
        of_claim = list(group)
        claim = of_claim[0].claim
        lines += ["", f"{claim_id}: {claim.says}", f"  stated: {claim.stated}"]
        for setting, inner in groupby(of_claim, key=lambda j: (j.setting, j.measured)):
            of_setting = list(inner)
            if not setting[0]:
                lines.append(f"  {UNDECIDED}: {of_setting[0].reason}")
                continue
            lines += [f"  {setting[0]}", f"    {setting[1]}: {wording.wanted(of_setting[0])}"]
            for judgement in of_setting:
                lines += _block(judgement)
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines) + "\n"


def _block(judgement: Judgement) -> list[str]:
    said = wording.verdict(judgement).upper()
    head = f"    {judgement.protocol:<9} {said} ({wording.standing(judgement)})"
    lines = [f"{head}: a = {judgement.arms[0]}; b = {judgement.arms[1]}"]
    found = judgement.effect
    if found is not None:
        amount, interval = wording.effect(judgement)
        lines.append(
            f"{amount}, interval {interval}; {count(found.n, 'seed')}, "
            f"{count(len(judgement.cells), 'cell')}; detectable {wording.detectable(judgement)}"
        )
        if judgement.paper is not None:
            lines.append(f"the paper: {wording.paper(judgement)}")
    lines += wording.remarks(judgement)
    lines += [f"more seeds: {command}" for command in judgement.commands]
    return [lines[0], *(f"              {line}" for line in lines[1:])]


def table(judgements: Sequence[Judgement]) -> Table:
    """One row a comparison that a verdict can be had of; the others in a line a guard.

    The CSV has all of them, with all that is known.
    """
    judged = [j for j in judgements if j.effect is not None and j.verdict != CANNOT_TELL]
    columns = [
        Column("claim", numeric=False),
        Column("a against b", numeric=False),
        Column("verdict", numeric=False),
        Column("effect"),
        Column("interval"),
        Column("margin"),
        Column("paper"),
        Column("seeds"),
        Column("why", numeric=False),
    ]
    settings = {key: f"({i})" for i, key in enumerate(dict.fromkeys(map(_where, judged)), 1)}
    rows: list[list[Value]] = []
    for judgement in judged:
        amount, interval = wording.effect(judgement)
        found = judgement.effect
        label = f"{judgement.claim.id} {settings[_where(judgement)]}"
        rows.append(
            [
                Value(label, "strong" if judgement.primary else ""),
                Value(" / ".join(judgement.arms)),
                Value(wording.verdict(judgement), "strong" if judgement.decided else ""),
                Value(amount),
                Value(interval),
                Value(wording.margin(judgement.claim, judgement.unit)),
                Value(wording.paper(judgement) or DASH),
                Value(DASH if found is None else str(found.n)),
                Value("; ".join(filter(None, [_why(judgement), wording.later(judgement)]))),
            ]
        )
    notes = [f"{number} {where}" for where, number in settings.items()]
    if not judged:
        notes.append("no comparison has cells enough for a verdict")
    notes += _cannot_tell(judgements)
    known = [j for j in judgements if j.effect is not None]
    behind = [(f"{j.claim.id}, {j.setting}, {j.protocol}", list(j.cells)) for j in known]
    return Table(TITLE, preface(judgements), columns, rows, notes, behind)


def _cannot_tell(judgements: Sequence[Judgement]) -> list[str]:
    """By guard: which claims, how often each."""
    by_guard: dict[str, Counter[str]] = {}
    for j in judgements:
        if j.verdict == CANNOT_TELL and j.guards:
            by_guard.setdefault(j.guards[0].word, Counter())[j.claim.id] += 1
    return [
        f"{CANNOT_TELL}, {word}: "
        + ", ".join(f"{claim}{f' ({n} times)' if n > 1 else ''}" for claim, n in claims.items())
        for word, claims in by_guard.items()
    ]


def _where(judgement: Judgement) -> str:
    return ", ".join(
        filter(None, [wording.standing(judgement), judgement.protocol, judgement.setting])
    )


def _why(judgement: Judgement) -> str:
    return "" if judgement.verdict == UNDECIDED else _short(judgement.reason)


def _short(words: str) -> str:
    return words if len(words) <= REASON_SHOWN else f"{words[: REASON_SHOWN - 1]}…"


def waiting(judgements: Sequence[Judgement]) -> list[str]:
    """Which claims have no numbers at all; the CSV has each setting and reason."""
    shown = {j.claim.id for j in judgements if j.effect is not None}
    known: dict[str, dict[str, None]] = {}
    for j in judgements:
        if j.claim.id not in shown:
            where = j.setting or ("primary, no cells yet" if j.primary else "no cells")
            known.setdefault(where, {})[j.claim.id] = None
    return [f"{setting}: {', '.join(claims)}" for setting, claims in sorted(known.items())]


# ---------------------------------------------------------------------------- CSV

_KEY = ("claim", "setting", "protocol", "a", "b")


def as_csv(judgements: Sequence[Judgement], command: str) -> str:
    """Raw numbers: differences in units of the endpoint, ratios as logarithms."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_csv_line(judgements[0], command)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_line(judgement, command) for judgement in judgements)
    return out.getvalue()


def _csv_line(judgement: Judgement, command: str) -> dict[str, object]:
    found, claim = judgement.effect, judgement.claim

    def known(value: object) -> object:
        return "" if value is None else value

    return {
        **dict(zip(_KEY, _key(judgement), strict=True)),
        "arm_a": judgement.arms[0],
        "arm_b": judgement.arms[1],
        "standing": wording.standing(judgement),
        "endpoint": judgement.measured,
        "unit": f"log {judgement.unit}" if claim.ratio else judgement.unit,
        "direction": claim.direction,
        "margin": claim.margin,
        "verdict": judgement.verdict,
        "effect": "" if found is None else found.effect,
        "low": "" if found is None else found.low,
        "high": "" if found is None else found.high,
        "level": "" if found is None else found.level,
        "error": "" if found is None else found.error,
        "freedom": "" if found is None else found.freedom,
        "how": "" if found is None else found.how,
        "seeds": "" if found is None else found.n,
        "detectable": "" if found is None else found.detectable(claim.margin),
        "seeds_needed": known(judgement.seeds_needed),
        "p": known(judgement.p),
        "p_holm": known(judgement.p_holm),
        "p_sign_flip": known(judgement.p_flip),
        "paper": known(judgement.paper),
        "noise_sd": "" if judgement.noise is None else judgement.noise.deviation,
        "noise_largest": "" if judgement.noise is None else judgement.noise.largest,
        "guards": "; ".join(guard.word for guard in judgement.guards),
        "reason": judgement.reason,
        "later": wording.later(judgement),
        "rates": "; ".join(filter(None, judgement.rates)),
        "others": "; ".join(
            f"{label}: {other.effect:.4g} [{other.low:.4g} {other.high:.4g}]"
            for label, other in [
                *judgement.others,
                *((f"{task} ({d:g})", gap) for d, task, gap in judgement.gaps),
            ]
        ),
        "without_one_seed": judgement.without_one,
        "flags": "; ".join(judgement.flags),
        "by_seed": " ".join(f"{p.seed}:{p.a:.6g}/{p.b:.6g}" for p in judgement.pairs),
        "cells": " ".join(judgement.cells),
        "more_seeds": " && ".join(judgement.commands),
        "command": command,
    }


def _key(judgement: Judgement) -> tuple[str, ...]:
    """Names a judgement from one report to the next, whatever rates are chosen."""
    arms = [arm.rsplit(", lr ", 1)[0] for arm in judgement.arms]
    return (judgement.claim.id, judgement.setting, judgement.protocol, arms[0], arms[1])


def changes(before: str, judgements: Sequence[Judgement]) -> list[str]:
    """What an earlier CSV said otherwise: a verdict may change, but not in silence."""
    old = {
        tuple(line.get(key) or "" for key in _KEY): line
        for line in csv.DictReader(io.StringIO(before))
    }
    said = []
    for judgement in judgements:
        line = old.pop(_key(judgement), None)
        if line is None or line.get("verdict") == judgement.verdict:
            continue
        seeds = "" if judgement.effect is None else str(judgement.effect.n)
        said.append(
            f"{judgement.claim.id}, {judgement.setting}, {judgement.protocol}: "
            f"{line.get('verdict')} ({line.get('seeds') or 'no'} seeds) before, now "
            f"{judgement.verdict} ({seeds or 'no'} seeds)"
        )
    said += [
        f"{', '.join(filter(None, key[:3]))}: {line.get('verdict')} before, no longer compared"
        for key, line in old.items()
        if key[1] and line.get("verdict") != UNDECIDED
    ]
    return said
