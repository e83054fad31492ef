"""Verdicts as words: for the terminal, as a table for Markdown and LaTeX, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import groupby

from bench.judge.claims import Claim
from bench.judge.intervals import LEVEL
from bench.judge.verdicts import FEWEST_SEEDS, UNDECIDED, Judgement
from bench.report.render import DASH, Column, Table, Value
from bench.report.tables import count

TITLE = "Claims"
_RELATION = {
    "better": "a is better than b by more than",
    "no_worse": "a is not worse than b by more than",
    "equal": "a and b differ by no more than",
}


# ---------------------------------------------------------------------------- numbers


def amount(value: float, unit: str) -> str:
    """A difference with its unit: fractions in points, a ratio as it is."""
    if unit == "fraction":
        return f"{100 * value:.1f} points"
    if unit == "ratio":
        return f"× {value:.3f}"
    return f"{value:.3g} {unit}".strip()


def margin(claim: Claim, unit: str) -> str:
    return amount(math.exp(claim.margin) if claim.ratio else claim.margin, unit)


def wanted(judgement: Judgement) -> str:
    """What must be so for the claim to hold."""
    claim = judgement.claim
    return f"{_RELATION[claim.direction]} {margin(claim, judgement.unit)}"


def effect(judgement: Judgement) -> tuple[str, str]:
    """The effect and its interval. A ratio is a / b; a difference is how much better a is."""
    found = judgement.estimate
    if found is None:
        return DASH, DASH
    if judgement.claim.ratio:
        sign = 1 if judgement.higher_is_better else -1
        low, high = sorted(math.exp(sign * edge) for edge in (found.low, found.high))
        return f"a / b = {math.exp(sign * found.effect):.3f}", f"{low:.3f} to {high:.3f}"
    scale = 100 if judgement.unit == "fraction" else 1
    unit = "points" if judgement.unit == "fraction" else judgement.unit
    digits = ".1f" if judgement.unit == "fraction" else ".3g"

    def show(value: float) -> str:
        text = f"{scale * value:+{digits}}"
        return text[1:] if not float(text) else text

    return f"{show(found.effect)} {unit}".strip(), f"{show(found.low)} to {show(found.high)}"


def detectable(judgement: Judgement) -> str:
    found = judgement.estimate
    if found is None:
        return DASH
    if judgement.claim.ratio:
        return amount(math.exp(found.detectable), "ratio")
    return amount(found.detectable, judgement.unit)


def noise_floor(judgement: Judgement) -> str:
    noise = judgement.noise
    if noise is None:
        return DASH
    return amount(math.exp(noise) if judgement.claim.ratio else noise, judgement.unit)


# ---------------------------------------------------------------------------- words


def preface(judgements: Sequence[Judgement]) -> list[str]:
    """How to read the verdicts, and how many are judged together."""
    claims = len({j.claim.id for j in judgements})
    tested: dict[str, int] = {}
    for judgement in judgements:
        if judgement.p is not None:
            tested[judgement.protocol] = tested.get(judgement.protocol, 0) + 1
    together = ", ".join(f"{n} under '{protocol}'" for protocol, n in sorted(tested.items()))
    decided = [j for j in judgements if j.verdict != UNDECIDED]
    number = sum(tested.values())
    chance = f"at most about {0.05 * number:.1f} of them would be decided by chance alone"
    standing = sum(j.survives for j in judgements if j.verdict != UNDECIDED)
    few = f"below {FEWEST_SEEDS} paired seeds a claim is undecided"
    floors = sum(j.noise is not None for j in judgements)
    noise = f"known for {count(floors, 'comparison')}" if floors else "no cell was run twice"
    return [
        f"{count(claims, 'claim')}, {count(number, 'comparison')} judged together"
        + (f" ({together})" if together else ""),
        f"{chance}; {standing} of {len(decided)} verdicts stand after Holm's correction",
        f"interval: {LEVEL:.0%} over paired seeds (bootstrap, Student's t); {few}",
        "protocol 'paper': the best learning rate of the paper's grid; 'as run': the only one run",
        "protocol 'tuned': the best on validation seeds, after equally many trials for both arms",
        "detectable: the smallest true difference that the design would find in 8 of 10 studies",
        f"noise floor: how far one cell run twice comes to lie apart; {noise}",
        "remarks: what the verdict would be without any one seed; (!) what speaks against it",
    ]


def verdict(judgement: Judgement) -> str:
    """The verdict, and whether it stands among all comparisons."""
    if judgement.verdict == UNDECIDED:
        return UNDECIDED
    return judgement.verdict + ("" if judgement.survives else " (not after Holm)")


def remarks(judgement: Judgement) -> list[str]:
    said = [judgement.reason] if judgement.reason else []
    said += [judgement.without_one] if judgement.without_one else []
    if judgement.noise is not None:
        said.append(f"noise floor {noise_floor(judgement)}")
    return said + [f"! {flag}" for flag in judgement.flags]


def text(judgements: Sequence[Judgement]) -> str:
    """For the terminal: claim by claim, setting by setting."""
    lines = [TITLE, "=" * len(TITLE), *preface(judgements)]
    for claim_id, group in groupby(judgements, key=lambda j: j.claim.id):
        of_claim = list(group)
        claim = of_claim[0].claim
        lines += ["", f"{claim_id}: {claim.says}", f"  stated: {claim.stated}"]
        for setting, inner in groupby(of_claim, key=lambda j: (j.setting, j.measured)):
            of_setting = list(inner)
            if not setting[0]:
                lines.append(f"  {UNDECIDED}: {of_setting[0].reason}")
                continue
            lines += [f"  {setting[0]}", f"    {setting[1]}: {wanted(of_setting[0])}"]
            for judgement in of_setting:
                lines += _block(judgement)
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines) + "\n"


def _block(judgement: Judgement) -> list[str]:
    head = f"    {judgement.protocol:<9} {verdict(judgement).upper()}"
    lines = [f"{head}: a = {judgement.arms[0]}; b = {judgement.arms[1]}"]
    found = judgement.estimate
    if found is not None:
        size, interval = effect(judgement)
        lines.append(
            f"{size}, interval {interval}; {count(found.n, 'seed')}, "
            f"{count(len(judgement.cells), 'cell')}; detectable {detectable(judgement)}"
        )
    lines += remarks(judgement)
    return [lines[0], *(f"              {line}" for line in lines[1:])]


def table(judgements: Sequence[Judgement]) -> Table:
    """One row a comparison that has numbers, for Markdown and LaTeX; the remarks below, by number.

    What lacks cells to judge it is in `waiting`.
    """
    judged = [j for j in judgements if j.estimate is not None]
    columns = [
        Column("claim", numeric=False),
        Column("setting", numeric=False),
        Column("protocol", numeric=False),
        Column("a", numeric=False),
        Column("b", numeric=False),
        Column("verdict", numeric=False),
        Column("a better by"),
        Column("interval"),
        Column("margin"),
        Column("seeds"),
        Column("cells"),
        Column("detectable"),
        Column("remarks", numeric=False),
    ]
    rows: list[list[Value]] = []
    remarks_: list[str] = []
    for judgement in judged:
        said = remarks(judgement)
        if said:
            remarks_.append(f"({len(remarks_) + 1}) {'; '.join(said)}")
        found = judgement.estimate
        rows.append(
            [
                Value(judgement.claim.id),
                Value(judgement.setting),
                Value(judgement.protocol),
                Value(judgement.arms[0]),
                Value(judgement.arms[1]),
                Value(verdict(judgement), "strong" if judgement.verdict != UNDECIDED else ""),
                *(Value(words) for words in effect(judgement)),
                Value(margin(judgement.claim, judgement.unit)),
                Value(DASH if found is None else str(found.n)),
                Value(str(len(judgement.cells))),
                Value(detectable(judgement)),
                Value(f"({len(remarks_)})" if said else ""),
            ]
        )
    claims = {j.claim.id: j.claim for j in judged}.values()
    sentences = [f"{claim.id}: {claim.says} (stated: {claim.stated})" for claim in claims]
    if not judged:
        sentences.append("no comparison has cells enough for a verdict")
    behind = [(f"{j.claim.id}, {j.setting}, {j.protocol}", list(j.cells)) for j in judged]
    return Table(TITLE, preface(judgements), columns, rows, [*sentences, *remarks_], behind)


def waiting(judgements: Sequence[Judgement]) -> list[str]:
    """Why the rest is undecided: a line for each setting and protocol; the CSV has each reason."""
    known: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for j in judgements:
        if j.estimate is None:
            key = (j.setting, j.protocol) if j.setting else ("", j.reason)
            reasons, claims = known.setdefault(key, ({}, {}))
            reasons.update(dict.fromkeys(j.reason.split("; ")))
            claims[j.claim.id] = None
    return [
        f"{f'{setting}, {protocol}: ' if setting else ''}{'; '.join(reasons)}: {', '.join(claims)}"
        for (setting, protocol), (reasons, claims) in sorted(known.items(), key=lambda k: k[0])
    ]


# ---------------------------------------------------------------------------- CSV

_KEY = ("claim", "setting", "protocol", "a", "b")


def as_csv(judgements: Sequence[Judgement], command: str) -> str:
    """Raw numbers: differences in units of the measure, ratios as logarithms."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_csv_line(judgements[0], command)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_line(judgement, command) for judgement in judgements)
    return out.getvalue()


def _csv_line(judgement: Judgement, command: str) -> dict[str, object]:
    found, claim = judgement.estimate, judgement.claim
    line: dict[str, object] = {
        **dict(zip(_KEY, _key(judgement), strict=True)),
        "arm_a": judgement.arms[0],
        "arm_b": judgement.arms[1],
        "measure": judgement.measured,
        "unit": f"log {judgement.unit}" if claim.ratio else judgement.unit,
        "direction": claim.direction,
        "margin": claim.margin,
        "verdict": judgement.verdict,
        "effect": "" if found is None else found.effect,
        "low": "" if found is None else found.low,
        "high": "" if found is None else found.high,
        "detectable": "" if found is None else found.detectable,
        "seeds": "" if found is None else found.n,
        "p": "" if judgement.p is None else judgement.p,
        "p_holm": "" if judgement.p_holm is None else judgement.p_holm,
        "noise_floor": "" if judgement.noise is None else judgement.noise,
        "reason": judgement.reason,
        "without_one_seed": judgement.without_one,
        "flags": "; ".join(judgement.flags),
        "cells": " ".join(judgement.cells),
        "command": command,
    }
    return line


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
        seeds = "" if judgement.estimate is None else str(judgement.estimate.n)
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
