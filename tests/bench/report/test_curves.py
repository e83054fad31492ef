"""Curves along the run: an arm with many rates has a panel of its own; nothing hides the rest."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from bench import records, report
from bench.judge import parallel
from bench.judge.cells import collect
from bench.judge.rows import Section, group
from bench.report import curves, files
from tests.bench.studies import Factory

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
MOST = 8  # entries that a legend may have


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def arms(folder: Path, make: Factory, rates: tuple[float, ...]) -> Section:
    for method in ("fft", "lora", "mora"):
        for rate in rates:
            records.write(make(method, rate=rate), folder)
    (section,) = group(collect(folder).cells)
    return section


@pytest.mark.parametrize("figure", [curves.loss_figure, curves.score_figure])
def test_many_rates_are_told_apart_by_arm(tmp_path: Path, make: Factory, figure) -> None:
    drawn = figure(arms(tmp_path, make, RATES), "accuracy")
    assert drawn is not None
    titled = [axes for axes in drawn.axes if "lr 5e-4 to 4e-3" in axes.get_title()]
    assert [axes.get_title().split("\n")[0] for axes in titled] == ["FFT", "LoRA r=8", "MoRA r=8"]
    for axes in titled:
        lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
        assert len(lines) == len(RATES)
        assert len({line.get_color() for line in lines}) == len(RATES)
        assert (axes.get_xlim(), axes.get_ylim()) == (titled[0].get_xlim(), titled[0].get_ylim())


@pytest.mark.parametrize("rates", [RATES, RATES[:2]], ids=["many", "few"])
def test_a_legend_is_short(tmp_path: Path, make: Factory, rates: tuple[float, ...]) -> None:
    section = arms(tmp_path, make, rates)
    for figure in (curves.loss_figure, curves.score_figure):
        drawn = figure(section, "accuracy")
        assert drawn is not None
        assert all(len(legend.get_texts()) <= MOST for legend in drawn.legends)


def test_a_loss_that_shoots_up_hides_no_other(tmp_path: Path, make: Factory) -> None:
    wild = make("lora", rate=1e-2)
    wild["curves"]["train"][20]["loss"] = 400.0
    records.write(wild, tmp_path)
    section = arms(tmp_path, make, RATES[:1])
    drawn = curves.loss_figure(section, "accuracy")
    assert drawn is not None
    axes = drawn.axes[0]
    start = max(line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) > 2)
    assert axes.get_ylim() == (0, pytest.approx(1.5 * start))
    assert "cut off: up to 400" in [text.get_text() for text in axes.texts]


def test_several_processes_draw_what_one_draws(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report.make(collect(study))
    alone = files.write(made, tmp_path / "alone")
    monkeypatch.setattr(files, "MANY_FIGURES", 1)
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 2)
    together = files.write(made, tmp_path / "together")
    assert [path.name for path in together] == [path.name for path in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
