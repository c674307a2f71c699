// Sorts a table by a column: numbers by their value, texts by the alphabet, what is missing last.
"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  return cell.textContent.trim();
}

function compare(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return typeof one === "number" ? one - other : one.localeCompare(other);
}

function sort(heading) {
  const table = heading.closest("table");
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  const body = table.tBodies[0];
  const column = heading.cellIndex;
  const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
  rows.sort((one, other) => {
    const missing = one.value === null || other.value === null;
    return compare(one.value, other.value) * (rising || missing ? 1 : -1);
  });
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  body.append(...rows.map(({ row }) => row));
  document.getElementById("said").textContent =
    `Sorted by ${heading.textContent.trim()}, ${rising ? "ascending" : "descending"}`;
}

for (const heading of document.querySelectorAll("th[aria-sort]")) {
  heading.firstElementChild.addEventListener("click", () => sort(heading));
}
