"""python -m methods: the table, and its mistakes."""

from __future__ import annotations

import re

import pytest

from methods.__main__ import main


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    assert main(arguments) == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) == 6}


def test_llama_layer_at_rank_8(capsys) -> None:
    table = rows(capsys, "4096", "4096", "--rank", "8")
    assert table["FFT"] == ["-", "16,777,216", "100.00 %", "4,096", "67,108,864"]
    assert table["LoRA"] == ["-", "65,536", "0.39 %", "8", "262,144"]
    assert table["MoRA truncation"] == ["256", "65,536", "0.39 %", "256", "262,144"]
    assert table["MoRA sharing"] == ["256", "65,536", "0.39 %", "256", "262,144"]
    assert table["MoRA decoupling"] == ["256", "65,536", "0.39 %", "4,096", "262,144"]
    assert table["MoRA rotation"] == ["256", "65,536", "0.39 %", "4,096", "262,144"]
    assert table["DoRA"][1] == "69,632"
    assert {"LoRA+", "AsyLoRA", "ReLoRA", "ReMoRA"} <= set(table)


def test_a_method_that_cannot_do_the_layer_is_a_note(capsys) -> None:
    assert main(["1", "1", "--rank", "1"]) == 0
    out = capsys.readouterr().out
    assert "MoRA rotation: a layer of 1 inputs and 1 outputs is too small for rotation" in out
    assert "MoRA sharing" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4096", "4096", "--rank", "0"], "rank=0 must be a whole number of at least 1"),
        (["64", "16", "--rank", "17"], "rank=17 is above the rank"),
    ],
)
def test_mistakes_have_one_line(capsys, arguments, message) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["0", "4"], ["4", "four"], ["4"], ["4", "4", "--rank", "x"]])
def test_unusable_arguments(capsys, arguments) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and "error:" in capsys.readouterr().err
