"use strict";
// Sort a table by a column: numbers by size, words by the alphabet, blanks last.
document.querySelectorAll("table.sortable").forEach((table) => {
  const number = (text) => {
    const found = /^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?/i.exec(text.trim());
    return found ? parseFloat(found[0].replaceAll(",", "")) : NaN;
  };
  const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
  Array.from(heads).forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      Array.from(heads).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim();
      const rows = Array.from(table.tBodies[0].rows);
      const numeric = rows.some((row) => !Number.isNaN(number(key(row)))) &&
        head.classList.contains("n");
      const blank = (row) => numeric ? Number.isNaN(number(key(row))) : ["", "–"].includes(key(row));
      rows.sort((a, b) => {
        if (blank(a) || blank(b)) return blank(a) - blank(b);
        const order = numeric ? number(key(a)) - number(key(b)) : key(a).localeCompare(key(b));
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
});
// Verdicts: filter by task, method and verdict, and put in order.
const rows = document.getElementById("rows");
if (rows) {
  const all = Array.from(rows.children);
  const chosen = (id) => document.getElementById(id).value;
  const keys = {
    "as listed": (row) => Number(row.dataset.place),
    verdict: (row) => row.dataset.verdict,
    effect: (row) => -Number(row.dataset.effect),
    seeds: (row) => -Number(row.dataset.seeds),
  };
  const show = () => {
    const task = chosen("by-task"), method = chosen("by-method"), verdict = chosen("by-verdict");
    let shown = 0;
    all.forEach((row) => {
      const fits = (!task || row.dataset.task === task) &&
        (!method || row.dataset.method.split(" ").includes(method)) &&
        (!verdict || row.dataset.verdict === verdict);
      row.hidden = !fits;
      shown += fits;
    });
    const key = keys[chosen("order")];
    const order = (a, b) => (key(a) > key(b)) - (key(a) < key(b)) || a.dataset.place - b.dataset.place;
    rows.append(...all.slice().sort(order));
    document.getElementById("shown").textContent = `${shown} shown`;
  };
  document.getElementById("filter").addEventListener("change", show);
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  show();  // a browser may have kept what was chosen
}
// Copy a command; where the clipboard is closed to us, select it.
document.querySelectorAll("button.copy").forEach((button) => {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = document.execCommand("copy") ? "copied" : "selected";
    }
  });
});
// A link to a cell or a verdict opens it.
const open = () => {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();
