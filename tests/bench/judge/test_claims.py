"""Claims as data: the built-in ones are sound, a wrong one is refused with file and key."""

import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import UserError
from bench.judge import claims, primary

GOOD = {
    "id": "mine",
    "stated": "here",
    "says": "A beats B.",
    "task": "uuid",
    "measure": "final",
    "a": {"method": "mora", "operator": "rotation"},
    "b": {"method": "lora"},
    "direction": "better",
    "margin": 0.02,
}


def load(folder: Path, **changed: object) -> claims.Claim:
    data = {k: v for k, v in {**GOOD, **changed}.items() if v != "left out"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    (claim,) = claims.load(folder)
    return claim


def test_the_built_in_claims_are_sound() -> None:
    found = claims.load()
    assert len(found) >= 15
    for subject in ("uuid", "instruction", "math", "continual", "pretraining", "spectrum", "time",
                    "operators", "merging", "lora_learns_less", "lora_forgets_less"):  # fmt: skip
        assert any(claim.id.startswith(subject) for claim in found), subject
    tasks = ["uuid", "math", "math_symbolic", "math_gsm8k_train", "instruction_standin",
             "biomedicine", "finance_standin", "docs", "text_docs", "pretrain", "facts",
             "facts_text",
             ]  # fmt: skip
    for claim in found:
        assert any(claim.of_task(task) for task in tasks), claim.id
        assert claim.says.endswith(".") and claim.stated


def test_a_claim_is_read(tmp_path: Path) -> None:
    claim = load(tmp_path, says="A\n  beats B.", metric=["accuracy", "main"], rank="low")
    assert claim.says == "A beats B."
    assert claim.a == claims.Arm("mora", (("operator", "rotation"),))
    assert claim.endpoint.metrics == ("accuracy", "main") and claim.tasks == ("uuid",)
    assert not claim.ratio and claim.equal_budget
    ratio = load(tmp_path, scale="ratio", margin=1.0)
    assert ratio.ratio and ratio.margin == 0.0
    assert load(tmp_path, b={"value": 3}).b.value == 3.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("direction", "bigger", "direction is 'bigger'; it must be 'better' or 'no_worse'"),
        ("measure", "loss", "endpoint is {'kind': 'loss'}; its kind must be one of: final"),
        ("a", "left out", "a is None; it must name a method"),
        ("a", {"value": 1}, "it must name a method"),
        ("b", {"operator": "sharing"}, "it must name a method, or a value"),
        ("margin", -1, "margin is -1; it must be a number, 0 or more"),
        ("margin", "2 points", "margin is '2 points'"),
        ("margin", float("nan"), "margin is nan"),
        ("scale", "ratio", "margin is 0.02; with scale: ratio it must be 1 or more"),
        ("says", "left out", "says is missing"),
        ("task", [], r"task is \[\]"),
        ("id", "yours", "id is 'yours'; it must be the file's name, mine"),
        ("methric", "x", "unknown key methric"),
        ("first_seed", -1, "first_seed is -1; it must be a seed, 0 or more"),
        ("rank", 8, "rank is 8; it must be 'low' or 'high' or 'any'"),
        ("equal_budget", "no", "equal_budget is 'no'; it must be True or False"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"claim mine\.yaml: .*{message}"):
        load(tmp_path, **{key: value})


def test_an_endpoint_is_data(tmp_path: Path) -> None:
    steps = {"kind": "to_target", "targets": [2.0, 1.5], "judged": 1.5, "counted": "tokens"}
    claim = load(tmp_path, measure="left out", endpoint=steps, margin=1.05)
    assert claim.ratio and claim.margin == pytest.approx(math.log(1.05))
    assert claim.endpoint.judged == 1.5 and claim.endpoint.others == (2.0,)
    assert claim.endpoint.words(None) == "tokens to a value loss of 1.5 (mean of 8 steps)"
    cut = load(tmp_path, measure="left out", endpoint={"kind": "lost_by_cut", "metric": "bits"})
    assert cut.endpoint.rank is None and cut.endpoint.metrics == ("bits",)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ({"kind": "to_target"}, "needs targets"),
        ({"kind": "to_target", "targets": [1, -2]}, "a list of positive numbers"),
        ({"kind": "to_target", "targets": [1, 2], "judged": 3}, "judged is 3; it must be one of"),
        ({"kind": "to_target", "targets": [1], "counted": "days"}, "counted is 'days'"),
        ({"kind": "final", "targets": [1]}, "endpoint final knows no key targets"),
        ({"kind": "final", "floor": 1.5}, "floor is 1.5; it must be a share"),
        ({"kind": "lost_by_cut", "rank": "all"}, "rank is 'all'"),
        ({"kind": ["final"]}, "its kind must be one of"),
        ({"kind": "to_target", "targets": [1], "judged": None}, "judged is None"),
        ({"kind": "to_target", "targets": [1], "judged": [1]}, r"judged is \[1\]"),
    ],
)
def test_a_wrong_endpoint_is_named(tmp_path: Path, endpoint: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"claim mine\.yaml: .*{message}"):
        load(tmp_path, measure="left out", endpoint=endpoint, margin=1.05)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"endpoint": "curve"}, "scale is 'ratio'; curve is compared by differences"),
        ({"endpoint": "good_range"}, "good_range is compared by differences"),
        ({"endpoint": "forgetting_at_learned"}, "forgetting_at_learned is compared by diff"),
        ({"endpoint": "final", "b": {"value": 0}}, "b: value is 0; with scale: ratio"),
    ],
)
def test_what_no_ratio_can_be_taken_of(tmp_path: Path, known: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"claim mine\.yaml: .*{message}"):
        load(tmp_path, measure="left out", scale="ratio", margin=1.05, **known)


def test_keys_of_a_setting_may_be_numbers(tmp_path: Path) -> None:
    found = load(tmp_path, setting={8: 1, "facts": 2}, a={"method": "mora", 1: 2, "x": 3})
    assert found.setting == (("8", (1,)), ("facts", (2,)))


def test_the_primary_comparisons_are_sound() -> None:
    family = primary.load()
    assert 6 <= len(family.claims) <= 8 and family.level == pytest.approx(0.05)
    others = {claim.id for claim in claims.load()}
    assert "primary" not in others and not others & {claim.id for claim in family.claims}


def family(folder: Path, **changed: object) -> primary.Family:
    data = {"comparisons": [GOOD | {"setting": {"model": "tiny"}}]} | changed
    (folder / "primary.yaml").write_text(yaml.safe_dump(data))
    return primary.load(folder)


def test_a_family_is_read(tmp_path: Path) -> None:
    assert primary.load(tmp_path).claims == ()
    assert family(tmp_path).looks == (primary.Look(None, 0.05),)
    looks = [{"seeds": 6, "level": 0.01}, {"seeds": 12, "level": 0.04}]
    assert family(tmp_path, looks=looks).looks[1] == primary.Look(12, 0.04)
    assert family(tmp_path).claims[0].setting == (("model", ("tiny",)),)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("looks", [{"seeds": 6, "level": 0.03}, {"seeds": 9, "level": 0.03}], "more than the fam"),
        ("looks", [{"seeds": 6, "level": 0.01}, {"seeds": 6, "level": 0.01}], "more seeds than"),
        ("looks", [{"seeds": 6}], "each is {seeds: number, level: number}"),
        ("level", 5, "level is 5"),
        ("comparisons", [GOOD, GOOD], "comparison mine is there twice"),
        ("comparisons", [GOOD | {"direction": "up"}], "comparison mine: direction is 'up'"),
        ("seeds", 3, "unknown key seeds"),
    ],
)
def test_a_wrong_family_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"primary\.yaml: .*{message}"):
        family(tmp_path, **{key: value})


def test_no_claims_and_no_yaml(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no claims here"):
            claims.load(folder)
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"claim x\.yaml"):
        claims.load(tmp_path)
    (tmp_path / "x.yaml").write_text("- a")
    with pytest.raises(UserError, match="a claim is a mapping of keys"):
        claims.load(tmp_path)


def test_the_guides_example_is_a_claim(root: Path, tmp_path: Path) -> None:
    guide = (root / "CONTRIBUTING.md").read_text()
    example = guide[guide.index("    id: dora_over_lora") : guide.index("Try it on records")]
    lines = (line.removeprefix("    ") for line in example.splitlines())
    (tmp_path / "dora_over_lora.yaml").write_text("\n".join(lines))
    (found,) = claims.load(tmp_path)
    assert (found.a.method, found.b.method, found.margin) == ("dora", "lora", 0.01)


def test_arms_and_tasks_exist(root: Path) -> None:
    """A mistyped method or task would be undecided for ever."""
    conf = root / "conf"
    methods = {file.stem for file in (conf / "method").glob("*.yaml")}
    files = [*(conf / "task").glob("*.yaml")]
    tasks = {yaml.safe_load(file.read_text()).get("name", file.stem) for file in files}
    for claim in claims.load():
        assert claim.a.method in methods and claim.b.method in methods | {""}, claim.id
        for pattern in claim.tasks:
            assert any(fnmatchcase(task, pattern) for task in tasks), (claim.id, pattern)
