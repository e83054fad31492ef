"""The forest plot: every row can be told from the others, and none is squeezed flat by another."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest

from bench.judge.claims import Arm, Claim
from bench.judge.endpoints import Endpoint
from bench.judge.intervals import paired
from bench.judge.verdicts import EQUIVALENT, HOLDS, REVERSED, SMALLER, UNDECIDED, Judgement
from bench.report import Report, files, forest, trials, wording

CLAIM = Claim("mine", "here", "A beats B.", ("*",), Endpoint("final"), Arm("mora"), Arm("lora"),
              "better", 0.0)  # fmt: skip


def judged(middle: float, spread: float = 0.01, **known: Any) -> Judgement:
    usual: dict[str, Any] = {
        "setting": "UUID pairs on SmolLM2-135M, laptop scale, r=8",
        "protocol": "tuned",
        "arms": ("MoRA r=8, lr 1e-3", "LoRA r=8, lr 2e-3"),
        "unit": "fraction",
    }
    values = [middle - spread, middle, middle + spread]
    return Judgement(CLAIM, effect=paired(values), **usual | known)


def texts(*judgements: Judgement) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", forest.svg(judgements))


def test_rows_that_look_alike_say_where(tmp_path) -> None:
    other = "UUID pairs on SmolLM2-135M, laptop scale, pairs 64, r=8"
    maths = "Symbolic maths on SmolLM2-135M, laptop scale, r=8"
    said = texts(judged(0.1), judged(0.1, setting=other), judged(0.1, setting=maths))
    lines = [line for line in said if "mine" in line]
    assert lines[1:] == ["UUID pairs, pairs 64 · mine · tuned", "Symbolic maths · mine · tuned"]
    assert len(set(lines)) == 3
    assert [line for line in texts(judged(0.1)) if "mine" in line] == ["mine · tuned"]


def test_two_kinds_of_one_method_are_both_named() -> None:
    arms = ("MoRA (decoupling) r=8, lr 1e-3", "MoRA (truncation) r=8, lr 1e-3")
    assert "MoRA r=8, decoupling vs truncation" in texts(judged(0.1, arms=arms))
    assert "MoRA r=8 vs LoRA r=8" in texts(judged(0.1))


def test_settings_are_left_out_where_the_arms_differ_without_them() -> None:
    """They told the row apart from others of the page, and ran into the points."""
    long = "FFT (target_modules=q_proj+k_proj, max_steps=300, schedule=constant), lr 1e-3"
    assert "MoRA r=9 vs FFT" in texts(judged(0.1, arms=("MoRA (schedule=constant) r=9", long)))
    ways = ("LoRA (fused, max_steps=200) r=1, lr 1e-2", "LoRA (plain, max_steps=200) r=1, lr 1e-2")
    assert "LoRA r=1, fused vs plain" in texts(judged(0.1, arms=ways))
    alike = ("LoRA (steps=9) r=1", "LoRA (steps=8) r=1")
    assert "LoRA r=1, steps=9 vs steps=8" in texts(judged(0.1, arms=alike))


def test_small_effects_have_room_beside_large_ones() -> None:
    """One panel a unit, but two where a row would press all others flat."""
    small = [judged(0.01 * i) for i in range(1, 6)]

    def panels(*judgements: Judgement) -> int:
        return texts(*judgements).count("points")

    assert panels(*small) == 1
    assert panels(*small, judged(2.0, 0.1)) == 2
    content = forest.svg([*small, judged(2.0, 0.1)])
    marks = [float(x) for x in re.findall(r'<rect class="mark" x="([0-9.]+)"', content)]
    assert max(marks) - min(marks) > 100  # pixels


def test_ticks_are_told_apart() -> None:
    """Whatever the scale: tenths of a point are not all shown as 0.0."""
    for middle in (1e-5, 1e-3, 0.1, 3.0):
        said = [t for t in texts(judged(middle, middle / 10)) if re.fullmatch(r"[+-][\d.e-]+|0", t)]
        assert len(said) >= 3 and len(set(said)) == len(said)


def test_what_is_left_out_is_said() -> None:
    many = [judged(0.1 + i / 1000) for i in range(forest.ROWS_DRAWN + 2)]
    said = "40 of 42 comparisons are drawn; claims.csv has all of them"  # the table has not
    assert forest.left_out(many) == said
    assert forest.left_out(many[:-2]) == ""


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        ([EQUIVALENT], "MoRA does not beat LoRA by more than the margin"),
        ([SMALLER, EQUIVALENT], "MoRA does not beat LoRA by more than the margin"),
        ([SMALLER, UNDECIDED], "Nobody can say from this whether MoRA beats LoRA"),
        ([HOLDS, SMALLER], "MoRA beats LoRA in some settings"),
        ([REVERSED, SMALLER], "MoRA does not beat LoRA"),
        ([HOLDS], "MoRA beats LoRA"),
    ],
)
def test_a_likeness_that_was_decided_is_an_answer(verdicts: list[str], answer: str) -> None:
    """It is no comparison that tells nothing."""
    said = wording.headlines([judged(0.0, verdict=verdict) for verdict in verdicts])[0]
    assert said.startswith(f"{answer}: of ")
    alike = sum(verdict in (SMALLER, EQUIVALENT) for verdict in verdicts)
    assert (f"is no better by the margin in {alike}" in said) == bool(alike)
    assert said.endswith(f"and {verdicts.count(UNDECIDED)} tell neither.")


@pytest.mark.parametrize(
    ("value", "said"), [(998.0, "+998"), (1010.0, "+1,010"), (-25_300.0, "-25,300"), (0.5, "+0.5")]
)
def test_large_effects_are_written_out(value: float, said: str) -> None:
    """+998 [+981 to +1.01e+03] is no way to write an interval."""
    assert wording.size(judged(0.0, unit="B"), value) == said
    assert "e+" not in wording.amount(value, "B")


def test_an_effect_counted_from_a_number_names_it() -> None:
    """110 % lost, where a tenth was claimed, is 100 points better than that, not 100 % lost."""
    judgement = judged(1.0, unit="fraction")
    beside = replace(judgement, claim=replace(judgement.claim, b=Arm(value=0.1)))
    assert wording.effect(judgement)[0] == "+100.0 points"
    assert wording.effect(beside)[0] == "+100.0 points better than 10.0 points"


def test_the_figure_of_trials_says_how_many_it_leaves_out() -> None:
    found = {("accuracy", f"setting {i}"): {"LoRA r=8": [0.1, 0.2]} for i in range(20)}
    assert trials.left_out(found) == "6 of 20 settings are drawn; trials.csv has all of them"
    drawn = trials.figure(found)
    assert drawn is not None and drawn.get_supxlabel() == trials.left_out(found)
    few = dict([*found.items()][:6])
    assert trials.left_out(few) == ""
    judgements = [
        judged(0.1, setting=setting, best_by="accuracy", best_of=(("LoRA r=8", (0.1, 0.2)),))
        for _, setting in found
    ]
    report = Report("a command", [], judgements=judgements)
    assert f"(trials.svg): {trials.left_out(found)}." in files._claims(report)["claims.md"]
    plt.close("all")
