"""The HTML page: complete, self-contained, harmless whatever a record says; and a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import records
from bench.judge import claims
from bench.report import collect, files, page
from bench.report import make as make_report
from bench.report.__main__ import main

VOID = {"meta", "br", "use", "path", "rect", "polyline", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects elements and attributes, and checks that they nest."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words += data


def build(folder: Path, *, figures: bool = True) -> tuple[str, Page]:
    report = make_report(collect(folder), claims=claims.load())
    if figures:
        files.write(report, folder / "report", folder / "report" / "page.html")
        content = (folder / "report" / "page.html").read_text()
    else:
        content = page.page(report, {})
    return content, Page(content)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, make_study) -> Path:
    return make_study(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture(scope="module")
def whole(study: Path) -> tuple[str, Page]:
    return build(study)


def test_the_page_has_everything(study: Path, whole: tuple[str, Page]) -> None:
    content, built = whole
    assert built.words.index("Verdicts") < built.words.index("UUID pairs on SmolLM2")
    assert "MoRA memorises random pairs in fewer steps than LoRA" in built.words
    assert "claims undecided: no cells here" in built.words
    assert "paper, accuracy (%) at step:" in built.words
    assert built.tags.count("figure") == 3
    cells = [value for value in built.ids if value.startswith("cell-")]
    assert cells == [f"cell-{c.cell}" for s in collect(study).sections() for c in s.cells]
    assert '"max_steps": 60' in built.words and "torch 2.13.0" in built.words
    assert built.tags.count("polyline") == 9
    links = {value[1:] for name, value in built.attributes if name == "href" and value}
    assert {link for link in links if link.startswith("cell-")} <= set(built.ids)
    assert f"python -m bench.report {study} --claims" in content


def test_the_page_needs_no_network(whole: tuple[str, Page]) -> None:
    content, built = whole
    for name, value in built.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value is not None and value.startswith("#"), (name, value)
    assert built.tags.count("script") == 1 and "link" not in built.tags
    assert "@import" not in content and not re.search(r"url\((?!#)", content)
    assert "default-src 'none'" in content
    assert len(built.ids) == len(set(built.ids))


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onclick=alert(3) & $x^$"
)


def test_a_record_is_text_whatever_it_says(tmp_path: Path, make) -> None:
    record = make(status="failed", reason=HOSTILE, experiment=HOSTILE, command=HOSTILE)
    for part in ("method", "model", "task"):
        record[part] = record[part] | {"label": HOSTILE, "name": HOSTILE}
    record["config"] = record["config"] | {HOSTILE: HOSTILE}
    record["environment"] = record["environment"] | {"device": HOSTILE, "versions": {HOSTILE: "1"}}
    record["metrics"] = {HOSTILE: record["metrics"]["accuracy"]}
    record["task"]["data"] = [{"name": HOSTILE, "revision": HOSTILE}]
    records.write(record, tmp_path)
    good = {**record, "status": "ok", "cell": "f" * 16, "seed": 2}
    records.write(good, tmp_path)
    content, built = build(tmp_path)
    assert built.tags.count("script") == 1 and "img" not in built.tags
    assert not [name for name, _ in built.attributes if name.startswith("on")]
    assert content.count("alert(1)") == content.count("&lt;script&gt;alert(1)")
    assert HOSTILE in built.words


def test_same_records_same_page(study: Path) -> None:
    first, _ = build(study, figures=False)
    assert first == build(study, figures=False)[0]


def test_command(study: Path, tmp_path: Path, capsys, no_figures) -> None:
    target = tmp_path / "deep" / "page.html"
    assert main([str(study), "--html", str(target)]) == 0
    assert f"wrote {target}" in capsys.readouterr().out
    Page(target.read_text())
    (tmp_path / "file").write_text("")
    assert main([str(study), "--html", str(tmp_path / "file" / "page.html")]) == 2
    assert "cannot write page.html" in capsys.readouterr().err


def test_many_cells_are_not_all_shown(study: Path, monkeypatch) -> None:
    monkeypatch.setattr(page, "CELLS_SHOWN", 4)
    _, built = build(study, figures=False)
    assert "9 records; the first 4 are shown" in built.words
    assert sum(value.startswith("cell-") for value in built.ids) == 4


def test_in_a_real_browser(whole: tuple[str, Page], tmp_path: Path) -> None:
    """Chromium runs the page's script: two clicks on a heading sort it downwards."""
    names = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH")
    click = (
        "<script>document.querySelectorAll('table.sortable').forEach(t => {"
        "const b = [...t.tHead.rows[t.tHead.rows.length - 1].cells].find("
        "c => c.textContent.includes('tokens/s'));"
        "if (b) { b.querySelector('button').click(); b.querySelector('button').click(); } });"
        "</script></body>"
    )
    clicked = tmp_path / "clicked.html"
    clicked.write_text(whole[0].replace("</body>", click))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
        clicked.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert 'aria-sort="descending"' in done.stdout, done.stderr[-2000:]
    table = done.stdout[done.stdout.index('aria-sort="descending"') :]
    order = re.findall(r"<td class=\"\">(FFT|LoRA|MoRA)</td>", table)
    assert order == ["LoRA", "MoRA", "FFT"]  # 1,815 tokens/s twice, then 1,282
    assert "Content Security Policy" not in done.stderr
