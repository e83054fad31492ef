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
// A link to a cell opens it.
const open = () => {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", open);
open();
