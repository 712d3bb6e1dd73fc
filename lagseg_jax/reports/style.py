"""light, dark, narrow or printed page -> the report's style sheet, and the script of its table."""

# Blue and orange of one lightness per theme: told apart with every kind of colour vision.
CSS = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --raised: #f6f7f9; --text: #1c2127; --muted: #5a6570; --rule: #d9dee4;
  --first: #0b62a8; --second: #bf5408; --on: #ffffff; --mark: #e3edf7;
  --warn: #fff4d9; --warn-rule: #c98a13; --warn-text: #5b3b00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #11151a; --raised: #191f26; --text: #e7eaee; --muted: #9fa9b4; --rule: #2e3740;
    --first: #6fb7f2; --second: #f2a65e; --on: #0b1117; --mark: #1f3347;
    --warn: #33280d; --warn-rule: #d9a441; --warn-text: #f6e2b5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; max-width: 1120px; padding: 40px clamp(16px, 4vw, 40px) 56px;
  background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { margin: 0 0 6px; font-size: clamp(1.5rem, 4vw, 2rem); font-weight: 650; line-height: 1.2;
  letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 1.3rem; font-weight: 620; letter-spacing: -0.005em; }
section h2:not(:first-child) { margin-top: 30px; }
h3 { margin: 0; font-size: 0.95rem; font-weight: 600; }
p { margin: 0 0 12px; max-width: 80ch; } header p { max-width: none; }
section { margin-top: 44px; padding-top: 22px; border-top: 1px solid var(--rule); }
a { color: var(--first); text-underline-offset: 3px; }
nav { margin-top: 18px; display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 0.92rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
code, pre { font: 0.86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
.muted, footer { color: var(--muted); } .small, footer { font-size: 0.88rem; }
.banner { margin: 22px 0 0; padding: 12px 16px; max-width: none; border-radius: 8px;
  border: 1px solid var(--warn-rule); border-left-width: 6px;
  background: var(--warn); color: var(--warn-text); }
.cards { display: grid; gap: 12px; margin: 18px 0 14px;
  grid-template-columns: repeat(auto-fit, minmax(188px, 1fr)); }
.cards.few { grid-template-columns: repeat(auto-fill, minmax(188px, 1fr)); }
.cards + p { margin-top: 0; }
.card { padding: 14px 16px 8px; border-radius: 10px; background: var(--raised); }
.card p { margin: 0; font-size: 0.86rem; color: var(--muted); }
.card .value { font-size: 1.75rem; font-weight: 620; line-height: 1.3; color: var(--text);
  letter-spacing: -0.015em; }
.value small { margin-left: 4px; font-size: 0.5em; font-weight: 500; letter-spacing: 0;
  color: var(--muted); }
.figures { display: grid; gap: 20px 28px; margin-top: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; min-width: 0; } .picture { margin-top: 22px; }
figcaption { margin-bottom: 8px; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; border-radius: 8px; }
svg { display: block; width: 100%; height: auto; overflow: visible;
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
svg text { fill: var(--text); } svg .label, .card svg text { fill: var(--muted); }
svg path { fill: none; } .grid { stroke: var(--rule); } .zero { stroke: var(--muted); }
.line { stroke: var(--muted); stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-width: 1.3; stroke-dasharray: 5 4; } .mean { stroke: var(--text); }
.line.first { stroke: var(--first); } .line.second { stroke: var(--second); }
svg .mark.first { fill: var(--first); } svg .mark.second { fill: var(--second); }
.dot { fill: var(--first); fill-opacity: 0.65; stroke: var(--page); stroke-width: 0.6; }
.cell { fill: var(--first); stroke: var(--rule); stroke-width: 1; } svg .on { fill: var(--on); }
.scroll { margin-top: 14px; overflow: auto; max-height: 85vh; border: 1px solid var(--rule);
  border-radius: 8px; }
.scroll + p { margin-top: 12px; } .scroll.free { margin-top: 0; border: 0; max-height: none; }
.wide { min-width: 680px; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.9rem; }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8em; }
thead { position: sticky; top: 0; background: var(--raised); }
thead tr:last-child th { border-bottom: 1px solid var(--rule); }
thead tr:first-child th { padding-bottom: 0; font-weight: 500; color: var(--muted); }
td:nth-child(6), td:nth-child(9), th:nth-child(6), th:nth-child(9) { padding-left: 26px; }
tbody tr:nth-child(even) td { background: var(--raised); }
tbody tr:hover td { background: var(--mark); }
th[aria-sort] { cursor: pointer; font-weight: 600; }
th[aria-sort]:focus-visible { outline: 2px solid var(--first); outline-offset: -3px; }
th[aria-sort]::after { content: "\\2195"; margin-left: 5px; color: var(--muted); opacity: 0.55; }
th[aria-sort=ascending]::after { content: "\\2191"; color: var(--first); opacity: 1; }
th[aria-sort=descending]::after { content: "\\2193"; color: var(--first); opacity: 1; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 16px 0; }
dt { color: var(--muted); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--first); }
pre { padding: 14px 16px; border-radius: 8px; background: var(--raised); white-space: pre-wrap; }
footer { margin-top: 44px; padding-top: 18px; border-top: 1px solid var(--rule); }
@media (max-width: 560px) {
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
  .cards, .cards.few { grid-template-columns: 1fr 1fr; } .card { padding: 12px 12px 6px; }
  .card .value { font-size: 1.45rem; }
}
@media print {
  @page { margin: 14mm; }
  html { font-size: 9.5pt; } body { max-width: none; padding: 0; font-size: 1rem; }
  p { max-width: none; }
  nav, details, th[aria-sort]::after { display: none; }
  section { margin-top: 20px; padding-top: 14px; }
  .scroll { max-height: none; overflow: visible; } .wide { min-width: 0; }
  .cards, .cards.few { grid-template-columns: repeat(5, 1fr); gap: 6px; }
  .card { padding: 8px 10px 4px; } .card p { font-size: 0.76rem; }
  .card .value { font-size: 1.3rem; } .figures { grid-template-columns: 1fr 1fr; }
  h2, h3, h2 + p, figcaption { break-after: avoid; }
  #volume, #training, #fusion, figure, .card, tr, .banner { break-inside: avoid; }
  table { font-size: 8pt; } th, td { padding: 3px 6px; } thead { position: static; }
  .card, pre, .banner, .dot, .cell, td, thead { print-color-adjust: exact; }
}
"""

# Sorts the table of the cases by the column whose name is pressed; cases without a value go last.
SCRIPT = """
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
"""
