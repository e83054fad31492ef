"""The HTML page: complete, self-contained, harmless whatever a record says; and a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import records
from bench.judge import claims
from bench.judge.rows import group
from bench.report import collect, files, page, page_cells
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
    assert built.words.index("Verdicts") < built.words.index("Contents: 1 table")
    answer = "beats LoRA"  # the first thing that it says
    assert answer in content.split("<h1>")[1][:400]
    assert "LoRA learns less than full fine-tuning" in built.words
    assert "Without numbers, for want of cells" in built.words
    assert "paper, accuracy (%) at step:" in built.words
    assert built.tags.count("figure") == 4  # the forest plot is the first
    cells = [value for value in built.ids if value.startswith("cell-")]
    assert cells == [f"cell-{c.cell}" for s in group(collect(study).cells) for c in s.cells]
    assert '"max_steps": 60' in built.words and "torch 2.13.0" in built.words
    assert built.tags.count("polyline") == 9 + 2 * built.words.count("detectable in 8 of")
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
    monkeypatch.setattr(page_cells, "CELLS_SHOWN", 4)
    _, built = build(study, figures=False)
    assert "9 records; the first 4 are shown" in built.words
    assert sum(value.startswith("cell-") for value in built.ids) == 4


SCRIPT = """<script>
addEventListener("load", async () => {
  const told = {};
  document.querySelectorAll("table.sortable").forEach((table) => {
    const head = [...table.tHead.rows[table.tHead.rows.length - 1].cells].find(
      (cell) => cell.textContent.includes("tokens/s"));
    if (head) { head.firstChild.click(); head.firstChild.click(); }
    told.sorted = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  });
  const rows = [...document.querySelectorAll("details.row")];
  const pick = (id, value) => {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const shown = () => rows.filter((row) => !row.hidden).length;
  told.all = shown();
  pick("by-method", "fft");
  told.fft = shown();
  pick("by-method", "");
  pick("order", "effect");
  told.effects = [...document.querySelectorAll("details.row")].map((r) => +r.dataset.effect);
  location.hash = "#" + rows[0].id;
  await new Promise((done) => setTimeout(done, 200));
  told.opened = rows[0].open;
  const button = document.querySelector("button.copy");
  if (button) {
    button.click();
    await new Promise((done) => setTimeout(done, 200));
    told.copied = button.textContent;
  }
  told.wide = document.documentElement.scrollWidth > innerWidth;
  told.cut = [...document.querySelectorAll(".wide")].filter(
    (box) => box.scrollWidth > box.clientWidth + 1).length;
  document.title = "told " + JSON.stringify(told);
});
</script></body>"""


@pytest.mark.parametrize("width", [1366, 683])
def test_in_a_real_browser(whole: tuple[str, Page], tmp_path: Path, width: int) -> None:
    """Chromium sorts a table, filters and orders the verdicts, opens a row and copies a command."""
    names = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH")
    driven = tmp_path / "driven.html"
    driven.write_text(whole[0].replace("</body>", SCRIPT))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},768",
        "--virtual-time-budget=5000", "--dump-dom", driven.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    found = re.search(r"<title>told (.*?)</title>", done.stdout)
    assert found is not None, done.stderr[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert told["sorted"] == ["LoRA", "MoRA", "FFT"]  # 1,815 tokens/s twice, then 1,282
    assert 0 < told["fft"] < told["all"]
    assert told["effects"] == sorted(told["effects"], reverse=True)
    assert told["opened"] is True
    assert told.get("copied", "copied") in ("copied", "selected")
    assert not told["wide"] and told["cut"] == 0
    assert "Content Security Policy" not in done.stderr
