"""Many claims at once: the primary family, looks, repeats, and what changed."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path

import pytest

from bench import records, report
from bench.judge import claims
from bench.judge.cells import collect
from bench.judge.judging import judge
from bench.judge.primary import Family, Look
from bench.judge.verdicts import Judgement
from bench.report import render, verdict_sheet, wording
from bench.report.__main__ import main
from tests.bench.judge.hand import HIGH, LOW, Make, claim, fill, verdict


def test_all_but_the_primary_ones_are_exploratory(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.70, 0.72, 0.74, 0.71))
    fill(tmp_path, make, "lora", (0.66, 0.65, 0.70, 0.69))
    one = claim(margin=0.0)
    (alone,) = [j for j in judge([one], collect(tmp_path)) if j.effect]
    assert alone.p is not None and 0.005 < alone.p < 0.05 and alone.verdict == "holds"
    assert wording.standing(alone) == "exploratory" and alone.p_holm is None

    def family(size: int) -> list[Judgement]:
        claims_ = tuple(claim(id=f"c{i}", margin=0.0) for i in range(size))
        return judge([one], collect(tmp_path), Family(claims_))

    first, *_ = family(1)
    assert first.primary and first.verdict == "holds" and first.p_holm == pytest.approx(first.p)
    many = family(20)
    assert [j.verdict for j in many if j.primary] == ["undecided"] * 20
    assert many[0].reason == "holds by itself, not after Holm's correction over 20"
    assert many[0].p_holm == pytest.approx(min(1.0, 20 * alone.p))
    assert [j.verdict for j in many if not j.primary and j.effect] == ["holds"]
    text = verdict_sheet.text(many)
    assert "20 primary, judged together (Holm); 1 exploratory" in text


def test_a_planned_second_look(tmp_path: Path, make: Make) -> None:
    looks = (Look(3, 0.01), Look(5, 0.04))
    family = Family((claim(margin=0.0),), looks)
    fill(tmp_path, make, "mora", (0.71, 0.72))
    fill(tmp_path, make, "lora", (0.66, 0.65))
    fill(tmp_path, make, "mora", (0.74, 0.71, 0.73, 0.90), first_seed=3)
    for seeds, said in ((2, "2 of the 3 seeds of the first look"), (3, "look 1 of 2, level 0.01")):
        fill(tmp_path, make, "lora", [0.70] * (seeds - 2), first_seed=3)
        (found, *_) = judge([], collect(tmp_path), family)
        assert found.verdict == "undecided" and said in f"{found.reason} {found.look}"
    fill(tmp_path, make, "lora", (0.70, 0.66, 0.67, 0.10), first_seed=3)
    (found, *_) = judge([], collect(tmp_path), family)
    assert found.verdict == "holds" and found.look == "look 2 of 2, level 0.04"
    assert found.effect is not None and found.effect.n == 5 and found.effect.level == 0.04
    assert "1 seed beyond the last look left out" in found.flags


def test_seeds_after_a_decision_are_told_and_not_judged(tmp_path: Path, make: Make) -> None:
    family = Family((claim(margin=0.0),), (Look(3, 0.01), Look(5, 0.04)))
    fill(tmp_path, make, "mora", (0.71, 0.72, 0.715, 0.50))
    fill(tmp_path, make, "lora", (0.66, 0.67, 0.664, 0.80))
    (found, *_) = judge([], collect(tmp_path), family)
    assert found.verdict == "holds" and found.later is None  # a seed short of the second look
    fill(tmp_path, make, "mora", (0.51,), first_seed=5)
    fill(tmp_path, make, "lora", (0.80,), first_seed=5)
    (found, *_) = judge([], collect(tmp_path), family)
    assert found.verdict == "holds" and found.look == "look 1 of 2, level 0.01"
    assert found.effect is not None and found.effect.n == 3
    assert found.later is not None and found.later.effect == pytest.approx(-0.0878)
    row = verdict_sheet.table([found]).rows[0]
    assert row[-1].text.startswith("with 5 seeds: -8.8 points, ")


def test_what_a_seed_fewer_would_say(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.80, 0.82, 0.84, 0.81))
    fill(tmp_path, make, "lora", (0.50, 0.52, 0.53, 0.52))
    assert verdict(tmp_path).without_one == "the same without any one seed"
    fill(tmp_path, make, "lora", (0.755, 0.765, 0.77, 0.78))
    found = verdict(tmp_path)
    assert found.verdict == "holds"
    said = re.fullmatch(r"without seed ([\d or]+) it would be: undecided", found.without_one)
    assert said is not None
    arms = {"mora": (0.80, 0.82, 0.84, 0.81), "lora": (0.755, 0.765, 0.77, 0.78)}
    for seed in (1, 2, 3, 4):  # word for word: take the seed away and ask again
        fewer = tmp_path / f"without-{seed}"
        for name, values in arms.items():
            for other, value in enumerate(values, 1):
                if other != seed:
                    records.write(make(name, seed=other, final=value), fewer)
        expected = "undecided" if str(seed) in said[1].split(" or ") else "holds"
        assert verdict(fewer).verdict == expected


def test_cells_of_version_1_run_twice_tell_a_noise_floor(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", (0.805, 0.815, 0.825))
    fill(tmp_path, make, "lora", (0.800, 0.810, 0.820))
    again = make("lora", seed=1, final=0.83) | {"schema_version": 1}
    records.write(again, tmp_path / "again")
    small = verdict(tmp_path, margin=0.0)
    assert small.flags == ("no larger than the noise floor",)
    assert "noise floor: sd 2.1 points, at most 3.0 points" in wording.remarks(small)
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", (0.5, 0.51, 0.52))
    again = make("lora", seed=1, final=0.53) | {"schema_version": 1}
    records.write(again, tmp_path / "again")
    large = verdict(tmp_path)
    assert large.flags == ()


def test_perturbed_cells_are_never_seeds(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    plain = verdict(tmp_path)
    for i, value in enumerate((0.79, 0.84, 0.85)):
        record = make("mora", seed=1, final=value)
        record["config"] = record["config"] | {"perturb": 1e-6, "perturb_seed": i}
        record["cell"] = f"{i:016x}"
        records.write(record, tmp_path)
    found = verdict(tmp_path)
    assert plain.noise is None and found.noise is not None and found.effect == plain.effect
    assert found.noise.largest == pytest.approx(0.06) and found.noise.freedom == 3


def test_a_copy_of_a_record_is_no_second_run(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    shutil.copytree(tmp_path, tmp_path / "copy")
    found = verdict(tmp_path)
    assert found.noise is None and found.flags == () and len(found.cells) == 6


def test_a_changed_verdict_is_said(tmp_path: Path, make: Make, capsys, no_figures) -> None:
    fill(tmp_path / "runs", make, "mora", HIGH)
    fill(tmp_path / "runs", make, "lora", LOW)
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "id: mine\nstated: here\nsays: A beats B.\ntask: uuid\nmeasure: final\n"
        "a: {method: mora}\nb: {method: lora}\ndirection: better\n"
    )
    command = [str(tmp_path / "runs"), "--claims-from", str(folder)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert (
        "HOLDS (exploratory): a = MoRA r=8, lr 1e-3; b = LoRA r=8, lr 1e-3" in out
        and "CHANGED" not in out
    )
    folder = tmp_path / "runs" / "report"
    lines = list(csv.DictReader(io.StringIO((folder / "claims.csv").read_text())))
    assert [line["verdict"] for line in lines] == ["undecided", "undecided", "holds"]
    assert len(lines[2]["cells"].split()) == 6
    assert lines[2]["command"].endswith(f" --claims-from {command[2]}")
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(command) == 0 and "CHANGED" not in capsys.readouterr().out
    assert first == {p.name: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "runs" / f"{lines[2]['cells'].split()[0]}.json").unlink()
    main(command)
    assert (
        "CHANGED since the last report: mine, UUID pairs on SmolLM2-135M-Instruct, laptop scale, "
        "r=8, as run: holds (3 seeds) before, now undecided (no seeds)"
    ) in capsys.readouterr().out


def test_claims_are_tables_too(study: Path) -> None:
    made = report.make(collect(study), claims=claims.load())
    table = verdict_sheet.table(made.judgements)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    for rendered in (render.markdown(table), render.latex(table)):
        assert "lora" in rendered and "cannot tell" in rendered
    ids = {j.claim.id for j in made.judgements}
    assert ids == {claim.id for claim in claims.load()}  # none is passed over in silence
    said = "\n".join(
        [*(row[0].text for row in table.rows), *table.notes,
         *verdict_sheet.waiting(made.judgements)]
    )  # fmt: skip
    assert [i for i in ids if i not in said] == []


def test_many_folders_are_judged_together(tmp_path: Path, make: Make, capsys) -> None:
    """One sheet over a study, whose experiments have folders of their own."""
    fill(tmp_path / "study" / "one" / "records", make, "mora", HIGH)
    fill(tmp_path / "study" / "two" / "records", make, "lora", LOW)
    out = tmp_path / "out"
    assert main([str(tmp_path / "study"), "--claims-only", "--out", str(out)]) == 0
    assert "UUID pairs on" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "claims.csv", "claims.md", "claims.tex", "forest.svg",
    ]  # fmt: skip
    sheet = (out / "claims.md").read_text()
    assert "| uuid\\_mora\\_learns\\_faster |" not in sheet  # rotation, which these are not
    assert "### Without numbers, for want of cells" in sheet and "forest.svg" in sheet
    assert "--claims --claims-only`" in sheet and len(sheet.splitlines()) <= 60


def test_a_verdict_that_goes_missing_is_said(tmp_path: Path, make: Make) -> None:
    fill(tmp_path, make, "mora", HIGH)
    fill(tmp_path, make, "lora", LOW)
    before = verdict_sheet.as_csv([verdict(tmp_path)], "a command")
    assert verdict_sheet.changes(before, [verdict(tmp_path)]) == []
    (said,) = verdict_sheet.changes(before, [])
    assert said.endswith(", r=8, as run: holds before, no longer compared")
