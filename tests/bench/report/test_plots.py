"""Figures of final values: drawn where the records have the numbers, with the right numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import records, report
from bench.judge.cells import collect
from bench.judge.rows import Section, group
from bench.report import curves, figures, plots
from bench.report.looks import looks


def spectrum(values: list[float]) -> dict[str, Any]:
    def layer(kind: str, factor: float) -> dict[str, Any]:
        scaled = [factor * v for v in values]
        return {"kind": kind, "singular_values": scaled, "frobenius": 1.0,
                "above_0.1": sum(v > 0.1 for v in scaled), "effective_rank": 2.0}  # fmt: skip

    return {"layers": {"0.q_proj": layer("q_proj", 1.0), "0.up_proj": layer("up_proj", 3.0)}}


def full(make, folder: Path) -> Section:
    """MoRA and FFT at two rates, with spectra, forgetting and a diverged cell."""
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
    for seed in (1, 2):
        for method, rate, level, drop in (
            ("fft", 1e-4, 0.9, 0.30), ("fft", 2e-4, 0.8, 0.35),
            ("mora", 1e-3, 0.85, 0.10), ("mora", 2e-3, 0.7, 0.20),
        ):  # fmt: skip
            made = make(method, rate=rate, seed=seed, final=level)
            made["forgetting"] = {"mean_drop": drop, "parts": {"topics": part}}
            made["spectrum"] = spectrum([0.4, 0.2, 0.05])
            if (method, rate, seed) == ("mora", 2e-3, 2):
                made |= {"status": "diverged", "reason": "x", "metrics": {}, "examples": {}}
            records.write(made, folder)
    (section,) = group(collect(folder).cells)
    return section


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_nothing_is_drawn_without_its_numbers(study: Path) -> None:
    (section,) = group(collect(study).cells)
    assert plots.spectrum_figure(section, "accuracy") is None
    assert plots.forgetting_figure(section, "accuracy") is None
    assert plots.rate_figure(section, "accuracy") is None  # one rate a method
    assert plots.cost_figure(section, None) is None
    assert plots.cost_figure(section, "accuracy") is not None


def test_spectra_are_means_over_layers(tmp_path: Path, make) -> None:
    figure = plots.spectrum_figure(full(make, tmp_path), "accuracy")
    assert figure is not None
    curves, above, rank = figure.axes
    first = curves.lines[0].get_ydata()
    assert np.allclose(first, [0.8, 0.4, 0.1])  # of 1 and 3 times (0.4, 0.2, 0.05)
    assert np.allclose(above.lines[0].get_ydata(), [2, 3])  # q: 2 above 0.1; up: 3
    assert [tick.get_text() for tick in above.get_xticklabels()] == ["q", "up"]
    assert rank.get_ylabel() == "effective rank of ΔW, a layer"


def test_forgetting_and_its_pareto_front(tmp_path: Path, make) -> None:
    figure = plots.forgetting_figure(full(make, tmp_path), "accuracy")
    assert figure is not None
    (axes,) = figure.axes
    front = next(
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_zorder() == 1
    )
    assert np.allclose(front.get_xdata(), [85, 90]) and np.allclose(front.get_ydata(), [10, 30])
    assert "Pareto front of the means" in labels(figure)


def test_rates(tmp_path: Path, make) -> None:
    figure = plots.rate_figure(full(make, tmp_path), "accuracy")
    assert figure is not None
    axes, forgotten = figure.axes
    assert [line.get_marker() for line in axes.lines] == ["o", "^", "x"]
    assert axes.lines[2].get_xdata() == [2e-3]  # where a seed diverged
    assert forgotten.get_ylabel() == "forgotten: mean drop (% of before)"
    assert forgotten.lines[0].get_ydata() == pytest.approx([30, 35])
    assert labels(figure) == ["FFT", "MoRA r=8", "a cell diverged or failed"]


def test_what_is_forgotten_is_linear_unless_far_apart(tmp_path: Path, make) -> None:
    def scale(drops: tuple[float, float]) -> str:
        folder = tmp_path / str(drops)
        for rate, drop in zip((1e-3, 2e-3), drops, strict=True):
            made = make(rate=rate)
            part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
            records.write(
                made | {"forgetting": {"mean_drop": drop, "parts": {"topics": part}}}, folder
            )
        figure = plots.rate_figure(group(collect(folder).cells)[0], "accuracy")
        assert figure is not None
        return str(figure.axes[1].get_yscale())

    assert scale((2.0, 3.0)) == "linear"
    assert scale((0.01, 3.0)) == "symlog"


def test_seeds_scored_at_other_steps_have_one_curve_to_the_end(tmp_path: Path, make) -> None:
    """Scores taken where so much was learned lie at other steps for each seed."""
    for seed, scored in ((1, (10, 30)), (2, (20, 40))):
        records.write(make(seed=seed, scored=scored, final=0.8), tmp_path)
    (row,) = group(collect(tmp_path).cells)[0].rows
    found = figures.curve(row, "scores", "step", "metrics.accuracy")
    assert found is not None
    assert found.x.tolist() == [20, 30, 40, 60]  # from where both were scored
    assert found.mean[-1] == pytest.approx(0.8)  # the final score


@pytest.mark.parametrize(
    ("higher", "front"),
    [
        ((True, True), [(1, 5), (2, 4), (4, 2)]),
        ((True, False), [(1, 1), (4, 2)]),
        ((False, True), [(1, 5)]),
        ((False, False), [(1, 1)]),
    ],
)
def test_pareto(higher: tuple[bool, bool], front: list[tuple[int, int]]) -> None:
    points = [(1, 5), (2, 4), (2, 3), (4, 2), (3, 2), (1, 1)]
    assert plots.pareto(points, higher=higher) == front


def test_a_legend_names_every_method(tmp_path: Path, make) -> None:
    """However many there are; MoRA is the seventh."""
    methods = ("fft", "lora", "lora_plus", "relora", "asylora", "dora", "mora")
    for method in methods:
        for rank in (8, 16):
            records.write(make(method, None if method == "fft" else rank), tmp_path)
    section = group(report.collect(tmp_path).cells)[0]
    said = [label for _, label in figures.named(section.rows, looks(section.rows))]
    assert len(said) == len(methods)
    assert said[-1].startswith("MoRA")


def test_a_line_of_fewer_seeds_says_so(tmp_path: Path, make) -> None:
    """The mean is over those that came to the end; a cross and the legend tell of the other."""
    train = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]
    lost = {"status": "diverged", "reason": "not finite", "metrics": {}}
    for seed in (1, 2, 3):
        record = make(seed=seed)
        curves = {"curves": {"train": train, "scores": []}}
        records.write(record | lost | curves if seed == 3 else record, tmp_path)
    (row,) = group(report.collect(tmp_path).cells)[0].rows
    found = figures.curve(row, "train", "step", "loss")
    assert found is not None and found.broke_off and found.x[-1] == 60
    ((_, label),) = figures.named([row], looks([row]))
    assert label.endswith("(1 of 3 diverged)")


@pytest.mark.parametrize(("higher", "edge"), [(True, 0.0), (False, 1.0)])
def test_a_rate_at_which_all_diverged_lies_at_the_worse_edge(
    tmp_path: Path, make, higher: bool, edge: float
) -> None:
    """Of the axes, wherever the data lie; of what is forgotten the worse edge is the upper one."""
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
    for rate, final in ((1e-3, 0.5), (2e-3, 0.9), (4e-3, None)):
        made = make(rate=rate, final=final)
        made["forgetting"] = {"mean_drop": 0.1, "parts": {"topics": part}}
        made["metrics"]["accuracy"]["higher_is_better"] = higher
        if final is None:
            made |= {"status": "diverged", "reason": "x", "metrics": {}, "forgetting": None}
        records.write(made, tmp_path)
    figure = plots.rate_figure(group(collect(tmp_path).cells)[0], "accuracy")
    assert figure is not None
    for axes, at in zip(figure.axes, (edge, 1.0), strict=True):
        (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
        assert [*cross.get_ydata()] == [at]
        assert cross.get_transform() == axes.get_xaxis_transform()


@pytest.mark.parametrize("draw", [plots.forgetting_figure, plots.cost_figure])
def test_cells_that_are_not_drawn_are_counted(tmp_path: Path, make, draw) -> None:
    """However the legend names the rows; here MoRA's eight rates share an entry."""
    part = {"before": 0.5, "after": 0.4, "drop": 0.1, "n": 5, "unit": "fraction"}
    for i in range(8):
        for seed in (1, 2):
            made = make(rate=1e-3 * (i + 1), seed=seed)
            made["forgetting"] = {"mean_drop": 0.1, "parts": {"topics": part}}
            if i > 5 and seed == 2:
                made |= {"status": ("failed", "diverged")[i - 6], "reason": "x", "metrics": {}}
            records.write(made, tmp_path)
    figure = draw(group(collect(tmp_path).cells)[0], "accuracy")
    assert figure is not None
    assert "2 cells diverged or failed: not drawn" in labels(figure)


def test_a_title_says_what_sets_the_section_apart(tmp_path: Path, make) -> None:
    """In lines that fit the figure, also where an arm has a panel of its own."""
    for pairs in (32, 64):
        for rate in (5e-4, 1e-3, 2e-3, 4e-3):
            for method in ("fft", "lora", "mora"):
                made = make(method, rate=rate, pairs=pairs)
                made["task"]["label"] = "Pairs of identifiers of thirty-two digits in a long prompt"
                records.write(made, tmp_path)
    for section in group(collect(tmp_path).cells):
        for drawn in (curves.loss_figure(section, None), plots.cost_figure(section, "accuracy")):
            assert drawn is not None
            title = drawn.get_suptitle()
            assert section.detail in " ".join(title.split())
            drawn.canvas.draw()
            assert drawn._suptitle is not None  # type: ignore[attr-defined]
            box = drawn._suptitle.get_window_extent()  # type: ignore[attr-defined]
            assert box.x0 >= 0 and box.x1 <= drawn.bbox.width
