"""The cost table and figure from what scripts/time_adapters.py and time_training.py measured.

    python scripts/cost_report.py results/cost
    python scripts/cost_report.py --break-even results/cost/break_even.md

The second writes methods/break_even.json as tables, which scripts/break_even.py measures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import timing

from bench.report.figures import STYLE, save
from bench.report.looks import method_look
from methods import break_even

FLOOR = "frozen layer"
SMALL = "SmolLM2-135M's shapes and squares of 1024 and 2048"
GROUPS = {"smollm2": SMALL, "square": SMALL, "llama2_7b": "LLaMA-2 7B's shapes"}
# In the figure: the table has the rest.
DRAWN = (
    "FFT", "LoRA", "MoRA sharing", "MoRA rotation", "peft LoRA", "published MoRA rotation"
)  # fmt: skip
Row = dict[str, Any]
BREAK_EVEN = """\
# From how many tokens on forming W + delta W pays

Made by `python scripts/cost_report.py --break-even FILE` of `methods/break_even.json`, which
`python scripts/break_even.py` measures.

- tokens of a batch at which both ways take the same time, forward and backward; below, activations
  take a path of their own (`compute=auto`); 16: forming always pays, as far as was tried
- a shape that is not here takes the nearest one's number in proportion to
  d_in d_out / (d_in + d_out)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="each with an adapters.json")
    parser.add_argument("--break-even", type=Path, metavar="FILE", help="write that table here")
    options = parser.parse_args()
    for folder in options.folders:
        if not (folder / "adapters.json").exists():
            parser.error(f"{folder} has no adapters.json: scripts/time_adapters.py writes one")
        report(folder)
    if options.break_even is not None:
        table = json.loads(break_even.FILE.read_text())
        options.break_even.write_text("\n".join(break_even_tables(table)).rstrip() + "\n")
        print(options.break_even)


def report(folder: Path) -> None:
    """Write cost.md and the figure beside the measurements."""
    adapters = json.loads((folder / "adapters.json").read_text())
    lines = ["# What an adapted layer costs", "", *about_layers(adapters), ""]
    for title, rows in panels(adapters["rows"]).items():
        lines += [f"## {title}", "", *layer_table(rows), ""]
    training = folder / "training.json"
    if training.exists():
        lines += training_tables(json.loads(training.read_text()))
    (folder / "cost.md").write_text("\n".join(lines).rstrip() + "\n")
    files = [folder / "cost.md", *draw(adapters, folder)]
    print("\n".join(map(str, files)))


def break_even_tables(table: Row) -> list[str]:
    """A table a device and dtype: shapes down, methods across."""
    lines = BREAK_EVEN.splitlines()
    places = dict.fromkeys((row["device"], row["dtype"]) for row in table["rows"])
    for device, dtype in sorted(places):
        rows = of(table["rows"], device=device, dtype=dtype)
        machine = table["machines"].get(f"{device} {dtype}")
        kinds = list(dict.fromkeys(row["kind"] for row in rows))
        lines += ["", f"## {device}, {dtype}", ""]
        lines += [f"Measured on {machine}." if machine else "Not measured: guesses.", ""]
        lines += ["| inputs | outputs | " + " | ".join(kinds) + " |"]
        lines += ["| ---: | ---: |" + " ---: |" * len(kinds)]
        for d_in, d_out in sorted({(row["d_in"], row["d_out"]) for row in rows}):
            found = [of(rows, kind=kind, d_in=d_in, d_out=d_out) for kind in kinds]
            cells = [f"{one[0]['tokens']:,}" if one else "–" for one in found]
            lines.append(f"| {d_in:,} | {d_out:,} | " + " | ".join(cells) + " |")
    return lines


def panels(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by kind of shapes and number format."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{GROUPS[row['group']]}, {row['dtype']}", []).append(row)
    return found


def of(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def about_layers(adapters: Row) -> list[str]:
    machine = adapters["machine"]
    rounds = sorted({row["rounds"] for row in adapters["rows"]})
    often = " or ".join(map(str, rounds))
    times = machine.get("micro_batches", 1)
    batches = f"steps of {times} micro-batches" if times > 1 else "batches"
    older = any(row["contestant"].endswith(" before") for row in adapters["rows"])
    before = "- before: the methods of an older checkout, timed in the same rounds (`--before`)"
    return [
        "Made by `python scripts/time_adapters.py` and `python scripts/cost_report.py`.",
        "",
        f"- {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}",
        f"- rank {adapters['rank']}, forward + backward, {batches} of random numbers",
        "- time: multiple of the frozen layer's in the same round; median over a shape's rounds",
        f"  ({often}), then median over the shapes (range of the shapes)",
        "- of peft LoRA: its time over that of peft's LoRA, medians; over the shapes as before",
        "- saved: what is kept for backward, as a multiple of the layer's input",
        "- peak: what one step allocates at a time, as a multiple of the frozen layer's",
        *[before] * older,
    ]


def layer_table(rows: list[Row]) -> list[str]:
    tokens = list(dict.fromkeys(row["tokens"] for row in rows))
    head = ["contestant", *(f"{n} tokens" for n in tokens)]
    head += [*(f"of peft LoRA at {n}" for n in tokens), "saved", "peak"]
    table = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = of(rows, contestant=name)
        cells = [_spread([row["ratio"] for row in of(mine, tokens=n)]) for n in tokens]
        cells += [_spread([_against_peft(rows, row) for row in of(mine, tokens=n)]) for n in tokens]
        saved = timing.median([row["saved_bytes"] / row["input_bytes"] for row in mine])
        floors = [_same(rows, row, FLOOR)["peak_bytes"] for row in mine]
        peak = timing.median([r["peak_bytes"] / f for r, f in zip(mine, floors, strict=True)])
        table.append([name, *cells, f"{saved:.2f}", f"{peak:.2f}"])
    return [f"| {' | '.join(line)} |" for line in table]


def _against_peft(rows: list[Row], row: Row) -> float:
    """Its time over that of peft's LoRA, which took turns with it.

    The median of the rounds' ratios; that of the medians where no more was kept.
    """
    if "of_peft" in row:
        return float(row["of_peft"][0])
    return float(row["milliseconds"] / _same(rows, row, "peft LoRA")["milliseconds"])


def _same(rows: list[Row], row: Row, contestant: str) -> Row:
    """What the contestant was measured at where the row was."""
    same = {key: row[key] for key in ("d_in", "d_out", "tokens", "dtype")}
    return of(rows, contestant=contestant, **same)[0]


def _spread(values: list[float]) -> str:
    return f"{timing.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def training_tables(measured: list[Row]) -> list[str]:
    lines = [
        "## A whole training step",
        "",
        "Made by `python scripts/time_training.py`; in each table contestants take turns.",
        "Medians, of ratios within a round, with 95 % intervals.",
        "",
    ]
    for training in measured:
        lines += [*training_table(training), ""]
    return lines


def training_table(training: Row) -> list[str]:
    about = training["about"]
    compiled = ", compiled" if about["compiled"] else ""
    lines = [
        f"### {about['batch']} x {about['length']} tokens, {about['precision']}{compiled}",
        "",
        f"- {about['model']}, AdamW",
        f"- {about['processor']}, {about['threads']} threads, {about['rounds']} rounds",
        "",
        "| method | trained | s a step | of FFT's time | of peft LoRA's time | peak GiB a step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in training["rows"]:
        against = [
            _interval(row[f"against {other}"]) if f"against {other}" in row else "–"
            for other in ("FFT", "peft LoRA")
        ]
        lines.append(
            f"| {row['contestant']} | {row['trainable']:,} | {row['seconds']:.2f} | {against[0]} | "
            f"{against[1]} | {row['peak_bytes'] / 2**30:.2f} |"
        )
    return lines


def _interval(found: list[float]) -> str:
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def draw(adapters: Row, folder: Path) -> list[Path]:
    """Time against tokens, each panel the median over its shapes."""
    shown = panels(adapters["rows"])
    known = dict.fromkeys(row["contestant"] for row in adapters["rows"])
    names = [name for name in DRAWN if name in known]
    with plt.style.context(STYLE):
        columns = min(2, len(shown))
        lines = -(-len(shown) // columns)
        figure, axes = plt.subplots(
            lines, columns, figsize=(9.2, 1.4 + 3.4 * lines), sharey=True, squeeze=False
        )
        for axis, (title, rows) in zip(axes.flat, shown.items(), strict=False):
            for number, name in enumerate(names):
                points = of(rows, contestant=name)
                tokens = sorted({row["tokens"] for row in points})
                ratios = [
                    timing.median([row["ratio"] for row in of(points, tokens=n)]) for n in tokens
                ]
                axis.plot(tokens, ratios, label=name, **look(name, number))
            axis.axhline(1.0, color="#555555", linewidth=1.0)
            axis.set_xscale("log", base=2)
            axis.set_xticks(tokens, [str(n) for n in tokens])
            axis.set_title(title, fontsize="small")
            axis.set_xlabel("tokens in the batch")
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for line in axes:
            line[0].set_ylabel("forward + backward,\nmultiple of the frozen layer's")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.suptitle(
            f"Time of one adapted layer at rank {adapters['rank']}: medians over shapes, "
            f"{adapters['machine']['device']}"
        )
    return save(figure, folder / "adapters", "Cost of one adapted layer against tokens")


def look(name: str, number: int) -> dict[str, Any]:
    """The method's colour; dashes for peft and the published form; a marker a line."""
    method = next(m for m in ("fft", "dora", "lora", "mora") if m in name.lower())
    elsewhere = name.startswith(("peft", "published"))
    return {
        "color": method_look(method)[0],
        "linestyle": "--" if elsewhere else "-",
        "marker": "osDv^<>PX*hd"[number % 12],
        "markerfacecolor": "white" if elsewhere else None,
    }


if __name__ == "__main__":
    main()
