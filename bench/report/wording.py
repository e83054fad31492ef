"""A judgement in words and numbers: amounts, effects, intervals, remarks, headlines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from bench.judge.claims import Claim
from bench.judge.intervals import Effect, proportion
from bench.judge.rows import count
from bench.judge.verdicts import ALIKE, HOLDS, REVERSED, UNDECIDED, Judgement
from bench.report.render import DASH

RELATION = {
    "better": "a is better than b by more than",
    "no_worse": "a is not worse than b by more than",
    "equal": "a and b differ by no more than",
}


def amount(value: float, unit: str) -> str:
    """A difference with its unit: fractions in points, a ratio as it is."""
    if unit == "fraction":
        return f"{100 * value:.1f} points"
    if unit == "ratio":
        return f"× {value:.3g}"
    return f"{_digits(value)} {unit}".strip()


def _digits(value: float, sign: str = "") -> str:
    """Three digits that count; of large numbers all, without an exponent."""
    return f"{value:{sign},.0f}" if abs(value) >= 999.5 else f"{value:{sign}.3g}"


def margin(claim: Claim, unit: str) -> str:
    return amount(math.exp(claim.margin) if claim.ratio else claim.margin, unit)


def wanted(judgement: Judgement) -> str:
    """What must be so for the claim to hold."""
    return f"{RELATION[judgement.claim.direction]} {margin(judgement.claim, judgement.unit)}"


def size(judgement: Judgement, value: float) -> str:
    """An effect as it is told: a / b of a ratio, else how much better a is."""
    if judgement.claim.ratio:
        return f"{math.exp(_sign(judgement) * value):.3f}"
    text = f"{100 * value:+.1f}" if judgement.unit == "fraction" else _digits(value, "+")
    return text if text.strip("+-0.") else text[1:]


def _sign(judgement: Judgement) -> int:
    return 1 if judgement.higher_is_better else -1


def unit(judgement: Judgement) -> str:
    if judgement.claim.ratio:
        return "a / b"
    return {"fraction": "points"}.get(judgement.unit, judgement.unit)


def effect(judgement: Judgement) -> tuple[str, str]:
    """The effect and its interval. A ratio is a / b; a difference is how much better a is."""
    found = judgement.effect
    if found is None:
        return DASH, DASH
    said = f"{size(judgement, found.effect)} {unit(judgement)}".strip()
    return f"{said}{_beyond(judgement)}", interval(judgement, found)


def _beyond(judgement: Judgement) -> str:
    """Of a claim about a number: that the effect is counted from there on."""
    bound = judgement.claim.b.value
    if bound is None or judgement.claim.ratio:
        return ""
    return f" better than {amount(bound, judgement.unit)}"


def interval(judgement: Judgement, found: Effect) -> str:
    edges = sorted((found.low, found.high), key=lambda v: _sign(judgement) * v)
    if not judgement.claim.ratio:
        edges = [found.low, found.high]
    return " to ".join(size(judgement, edge) for edge in edges)


def detectable(judgement: Judgement) -> str:
    found = judgement.effect
    if found is None:
        return DASH
    least = found.detectable(judgement.claim.margin)
    return amount(math.exp(least) if judgement.claim.ratio else least, judgement.unit)


def paper(judgement: Judgement) -> str:
    """The paper's effect on the same measure, and whether it is excluded."""
    if judgement.paper is None:
        return ""
    said = size(judgement, judgement.paper)
    return f"{said}, excluded" if judgement.paper_excluded else said


def verdict(judgement: Judgement) -> str:
    """The verdict; of an undecided one what it would take, or what is excluded."""
    if judgement.verdict == UNDECIDED and judgement.effect is not None:
        said = []
        if judgement.paper_excluded:
            said.append("but the paper's size is excluded")
        needed = judgement.seeds_needed
        if needed is not None:
            said.append(f"{count(needed, 'seed')} to decide")
        return ", ".join([UNDECIDED, *said])
    return judgement.verdict


def standing(judgement: Judgement) -> str:
    if not judgement.primary:
        return "exploratory"
    return ", ".join(filter(None, ["primary", judgement.look]))


def later(judgement: Judgement) -> str:
    """What came after the look that decided: told, and not judged again."""
    found = judgement.later
    if found is None:
        return ""
    return f"with {count(found.n, 'seed')}: {', '.join(effect(replace(judgement, effect=found)))}"


def remarks(judgement: Judgement) -> list[str]:
    """All that is said of a comparison beside its numbers."""
    said = [judgement.reason] if judgement.reason else []
    said += [words] if (words := later(judgement)) else []
    said += [line for line in judgement.rates if line]
    found = judgement.effect
    if found is not None:
        said.append(f"interval: {1 - found.level:.3g} Student's t, {found.how}")
        if judgement.p_flip is not None:
            said.append(f"flipping signs: p = {judgement.p_flip:.2g} of no difference")
    if judgement.noise is not None:
        noise = judgement.noise
        said.append(
            f"noise floor: sd {noise_size(judgement, noise.deviation)}, "
            f"at most {noise_size(judgement, noise.largest)}"
        )
    said += [
        f"at {label}: {size(judgement, other.effect)} ({interval(judgement, other)})"
        for label, other in judgement.others
    ]
    said += [
        f"{task} (distance {at:g}): {size(judgement, gap.effect)} ({interval(judgement, gap)}, "
        f"{count(gap.n, 'seed')}, {1 - gap.level:.3g})"
        for at, task, gap in judgement.gaps
    ]
    for (k, n), arm in zip(judgement.diverged, judgement.arms, strict=False):
        if k:
            low, high = proportion(k, n)
            said.append(f"{k} of {n} of {arm} diverged ({low:.0%} to {high:.0%})")
    said += [judgement.without_one] if judgement.without_one else []
    return said + [f"! {flag}" for flag in judgement.flags]


def noise_size(judgement: Judgement, value: float) -> str:
    return amount(math.exp(value) if judgement.claim.ratio else value, judgement.unit)


def without_settings(name: str) -> str:
    """A row's name without the settings that only set it apart from others: FFT (max_steps=300)
    is FFT."""
    found = re.fullmatch(r"(.+?) \((.+)\)(.*)", name)
    if found is None:
        return name
    method, inside, rank = found.groups()
    kept = ", ".join(word for word in inside.split(", ") if "=" not in word)
    return f"{method} ({kept}){rank}" if kept else f"{method}{rank}"


# ---------------------------------------------------------------------------- headlines


def headlines(judgements: Sequence[Judgement]) -> list[str]:
    """Three sentences: whether MoRA beats LoRA here, and two comparisons with their numbers."""
    known = [j for j in judgements if j.effect is not None]
    shown = [j for j in known if j.primary] or known
    first = _mora_or_lora(judgements)
    ranked = sorted(
        shown,
        key=lambda j: (not j.primary, not j.decided, not j.claim.endpoint.of.learning,
                       j.protocol != "tuned", not _about_both(j)),
    )  # fmt: skip
    told: dict[str, str] = {}
    for judgement in ranked:
        told.setdefault(judgement.claim.id, sentence(judgement))
    more = [*told.values()][:2]
    if not more:
        more = ["No comparison has the cells for a verdict yet."]
    return [first, *more]


def _about_both(judgement: Judgement) -> bool:
    claim = judgement.claim
    return (claim.a.method, claim.b.method) == ("mora", "lora")


def _mora_or_lora(judgements: Sequence[Judgement]) -> str:
    asked = [
        j for j in judgements
        if _about_both(j) and j.claim.endpoint.of.learning and j.claim.direction == "better"
    ]  # fmt: skip
    about = [j for j in asked if j.effect is not None]
    primary = [j for j in about if j.primary]
    waiting = sum(j.primary for j in asked) - len(primary)
    kind = "primary" if primary else "exploratory"
    tuned = [j for j in about if j.protocol == "tuned"]
    about = primary or tuned or [j for j in about if j.protocol != "paper"]
    at = "" if primary else " at tuned rates" if tuned else " at untuned rates"
    if not about:
        return (
            "Whether MoRA beats LoRA can't be said here: no comparison of their learning has cells."
        )
    wins = sum(j.verdict == HOLDS for j in about)
    losses = sum(j.verdict == REVERSED for j in about)
    alike = sum(j.verdict in ALIKE for j in about)
    rest = len(about) - wins - losses - alike
    words = f"of {count(len(about), f'{kind} comparison')} of how well they learn{at}"
    if primary and waiting:
        words += f" ({waiting} more await their cells)"
    if wins and not losses:
        everywhere = wins == len(about)
        answer = "MoRA beats LoRA" if everywhere else "MoRA beats LoRA in some settings"
    elif losses and not wins:
        answer = "MoRA does not beat LoRA"
    elif wins:
        answer = "MoRA beats LoRA in some settings and loses in others"
    elif not rest:
        answer = "MoRA does not beat LoRA by more than the margin"
    else:
        answer = "Nobody can say from this whether MoRA beats LoRA"
    told = f"it wins {wins}, loses {losses}" + f", is no better by the margin in {alike}" * bool(
        alike
    )
    return f"{answer}: {words} {told}, and {rest} tell neither."


def sentence(judgement: Judgement) -> str:
    """The claim, its verdict and its number."""
    said, across = effect(judgement)
    found = judgement.effect
    seeds = "" if found is None else f", {count(found.n, 'seed')}"
    label = standing(judgement).split(",")[0]
    said = f"{size(judgement, found.effect)} times" if found and judgement.claim.ratio else said
    a, b = judgement.arms
    return (
        f"{judgement.claim.says.rstrip('.')}: {verdict(judgement)} ({label}). {a} against {b}, "
        f"{judgement.measured}: {said} [{across}]{seeds}; {judgement.setting}."
    )
