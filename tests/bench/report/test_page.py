"""The HTML page: complete, self-contained, harmless whatever a record says; and a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import records
from bench.judge import claims
from bench.judge.rows import group
from bench.report import collect, files, page, page_cells
from bench.report import make as make_report
from bench.report.__main__ import main
from tests.bench.report import chromium
from tests.bench.studies import make_record

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
    links = {value[1:] for name, value in built.attributes if name == "href" and value}
    linked = {link for link in links if link.startswith("cell-")}
    assert linked and linked <= set(built.ids)  # what is not shown is named, and no link


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    executable = chromium.found()
    if executable is None:
        pytest.skip("no Chromium on the PATH")
    with chromium.tab(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


SHOWN = "[...document.querySelectorAll('#rows > details')].filter((row) => !row.hidden)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, make_study) -> Path:
    """A page without figures, with a comparison that more seeds would decide."""
    folder = make_study(tmp_path_factory.mktemp("seen") / "runs")
    for seed, (a, b) in enumerate(((0.9, 0.6), (0.5, 0.7), (0.7, 0.5)), 1):
        records.write(make_record("dora", seed=seed, final=a), folder)
        records.write(make_record("lora_plus", seed=seed, final=b), folder)
    noisy = claims.parse({
        "id": "noisy", "stated": "here", "says": "DoRA learns better than LoRA+.", "task": "uuid",
        "endpoint": "final", "a": {"method": "dora"}, "b": {"method": "lora_plus"},
        "direction": "better", "margin": 0.02,
    })  # fmt: skip
    made = folder.parent / "page.html"
    built = make_report(collect(folder), claims=[*claims.load(), noisy])
    made.write_text(page.page(built, {}))
    return made


@pytest.mark.parametrize("width", [1366, 683])
def test_in_a_real_browser(browser: chromium.Tab, file: Path, width: int) -> None:
    """A table is sorted, verdicts filtered and put in order, and nothing is cut off."""
    browser.show(file, width)
    everything = browser.run(f"{SHOWN}.length")
    choose = "const e = document.getElementById(id); e.value = value;"
    choose = (
        f"(id, value) => {{ {choose} e.dispatchEvent(new Event('change', {{bubbles: true}})) }}"
    )
    browser.run(f"({choose})('by-method', 'fft')")
    methods = browser.run(f"{SHOWN}.map((row) => row.dataset.method.split(' '))")
    assert 0 < len(methods) < everything and all("fft" in arms for arms in methods)
    assert browser.run("document.getElementById('shown').textContent") == f"{len(methods)} shown"
    browser.run(f"({choose})('by-method', '')")
    browser.run(f"({choose})('order', 'effect')")
    effects = browser.run(f"{SHOWN}.map((row) => Number(row.dataset.effect))")
    assert len(effects) == everything and effects == sorted(effects, reverse=True)
    if width > 1000:  # on a narrow screen each row is a card, without headings
        find = "[...document.querySelectorAll('table.sortable th button')].find("
        names = (
            "[...document.querySelector('table.sortable tbody').rows].map("
            "(row) => row.cells[0].innerText)"
        )
        for place in (0, -1):  # FFT's 1,282 tokens/s are the fewest: up, then down
            browser.run(f"{find}(b) => b.textContent.includes('tokens/s')).click()")
            assert browser.run(names)[place] == "FFT"
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    cut = "(box) => box.scrollWidth > box.clientWidth + 1"
    assert browser.run(f"[...document.querySelectorAll('.wide')].filter({cut}).length") == 0
    assert browser.complaints == []


def test_by_the_keyboard_alone(browser: chromium.Tab, file: Path) -> None:
    """Filters and rows are reached by Tab, chosen by a letter, opened by Enter; focus is seen."""
    browser.show(file, 1366)
    reached = []
    for _ in range(80):
        browser.press("Tab", 9)
        where = browser.run("document.activeElement.id || document.activeElement.tagName")
        reached.append(where)
        if where == "by-method":
            browser.press("f", 70, "f")
        if where == "SUMMARY" and "order" in reached:
            break
    for wanted in ("by-task", "by-method", "by-verdict", "order"):
        assert wanted in reached
    assert browser.run("document.getElementById('by-method').value") == "fft"
    assert browser.run(f"{SHOWN}.every((row) => row.dataset.method.includes('fft'))")
    browser.press("Enter", 13, "\r")
    assert browser.run("document.activeElement.parentElement.open") is True
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_command_is_copied(browser: chromium.Tab, file: Path) -> None:
    """A click on the button behind an undecided row: the clipboard holds the command."""
    browser.show(file, 1366)
    permitted = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.ask("Browser.grantPermissions", permissions=permitted)
    browser.run(
        "const row = document.querySelector('#rows button.copy').closest('details');"
        "row.open = true; row.id = 'undecided'"
    )
    command = browser.run("document.querySelector('#undecided code').textContent")
    browser.click("#undecided button.copy")
    said = "document.querySelector('#undecided button.copy').textContent"
    for _ in range(50):
        if browser.run(said) == "copied":
            break
        browser.run("new Promise((done) => setTimeout(done, 20))")
    assert browser.run(said) == "copied"
    assert browser.run("navigator.clipboard.readText()") == command
    assert command.startswith("python -m bench -m ") and "seed=4" in command


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_the_ground(browser: chromium.Tab, file: Path, dark: bool) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2 AA) for words, in both schemes; the schemes differ."""
    browser.show(file, 1366, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    poor = browser.run(CONTRAST)
    assert poor == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark


# Of each element with words of its own: its colour against the nearest ground that is not clear.
CONTRAST = """
(() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((c) => c / 255).map(
      (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = (colour) => parts(colour)[3] === 0 || colour === "transparent";
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("figure.drawn") || ["SCRIPT", "STYLE", "title"].includes(e.tagName)) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e);
    const ink = e.ownerSVGElement ? style.fill : style.color;
    let ground = e;
    while (ground.parentElement && clear(getComputedStyle(ground).backgroundColor)) {
      ground = ground.parentElement;
    }
    const a = light(ink), b = light(getComputedStyle(ground).backgroundColor);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.className} ${ink}: ${ratio.toFixed(1)}`);
  }
  return [...new Set(poor)];
})()
"""
