// Sorts the table of the cases by the column whose name is pressed; cases without a value go last.
"use strict";
const table = document.querySelector("#cases table");
const value = (row, column) => row.cells[column].dataset.value;
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b);
}
const headers = table.querySelectorAll("th[aria-sort]");
headers.forEach((header, column) => {
  const sort = () => {
    const sign = header.ariaSort === "ascending" ? -1 : 1;
    headers.forEach((other) => { other.ariaSort = "none"; });
    header.ariaSort = sign > 0 ? "ascending" : "descending";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(value(a, column), value(b, column), sign));
    table.tBodies[0].append(...rows);
  };
  header.addEventListener("click", sort);
  header.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
  });
});
