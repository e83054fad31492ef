"""results/paper.md names what the paper shows, and each of its commands is one that runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from bench.judge import claims
from bench.report.__main__ import _parser as report_parser

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "results" / "paper.md").read_text()
# An experiment that is not the paper's, nor asked beyond it on this page, needs no place here.
ARTEFACTS = (
    "table1_main", "table2_uuid", "table3_pretraining", "table4_operators", "fig2_lora_ranks",
    "lr_fairness", "learn_forget", "cost",
)  # fmt: skip


def commands(module: str) -> list[str]:
    """The arguments of each indented `python -m MODULE ...` line."""
    return re.findall(rf"^ {{4}}python -m {re.escape(module)} (.+)$", PAGE, re.MULTILINE)


STUDY = (ROOT / "results" / "study" / "README.md").read_text()


def commands_of_the_study() -> list[str]:
    """The arguments of each command of its README, variables and all."""
    text = STUDY.replace("\\\n", " ")
    variables = dict(re.findall(r"^ {4}([A-Z])=\"(.+)\"$", text, re.MULTILINE))
    found = []
    for line in re.findall(r"^ {4}python (.+)$", text, re.MULTILINE):
        while "$" in line:
            line = re.sub(r"\$([A-Z])\b", lambda match: variables[match[1]], line)
        found += [line.removeprefix("-m bench ")] if line.startswith("-m bench ") else []
    return found


@cache
def composed(arguments: str) -> tuple[str, str, str]:
    """Experiment, scale and folder of a grid, from the first of the choices written out."""
    overrides = [word.split(",")[0] for word in shlex.split(arguments) if word != "-m"]
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    swept = str((config.hydra.sweeper.params or {}).get("method", config.method.name)).split(",")
    if config.method.name not in swept:
        return composed(f"{arguments} method={swept[0]}")
    with open_dict(config):
        del config["hydra"]
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return values["experiment_name"], values["scale_name"], values["results_dir"]


def sections() -> Iterator[str]:
    yield from re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("arguments", commands("bench"))
def test_each_command_composes(arguments: str) -> None:
    experiment, scale, _ = composed(arguments)
    assert f"experiment={experiment}" in arguments and f"scale={scale}" in arguments


@pytest.mark.parametrize("arguments", commands_of_the_study())
def test_each_command_of_the_study_composes(arguments: str) -> None:
    experiment, *_ = composed(arguments)
    assert f"experiment={experiment}" in arguments


def test_the_study_has_commands() -> None:
    assert len(commands_of_the_study()) > 25


def test_every_artefact_is_there_at_both_scales() -> None:
    there = {composed(arguments)[:2] for arguments in commands("bench")}
    assert there >= {(name, scale) for name in ARTEFACTS for scale in ("laptop", "paper")}


def test_every_claim_is_named() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    assert [claim.id for claim in claims.load() if claim.id not in named] == []


def test_each_section_reports_the_folder_that_its_commands_fill() -> None:
    for section in sections():
        runs = re.findall(r"^ {4}python -m bench (.+)$", section, re.MULTILINE)
        reports = re.findall(r"^ {4}python -m bench\.report (.+)$", section, re.MULTILINE)
        reported = {str(report_parser().parse_args(shlex.split(line)).path) for line in reports}
        assert reported == {composed(arguments)[2] for arguments in runs}, section[:40]


def test_dry_runs_name_experiments() -> None:
    for arguments in commands("bench.dryrun"):
        assert composed(arguments)[0] in ARTEFACTS


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            path = ROOT / "results" / target
            assert path.exists(), target
