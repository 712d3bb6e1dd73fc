// Opens cases from the table, keeps a verdict and a note for each, and saves them as CSV.
"use strict";
const byId = (id) => document.getElementById(id);
const verdicts = JSON.parse(byId("verdicts").textContent);
const body = document.querySelector("#cases tbody");
const dialog = document.querySelector("dialog");
const rows = () => [...body.rows];
const choice = (row) => row.querySelector("select");
const note = (row) => row.querySelector("input");
let opened = null; // the row whose case is shown
let frame = null;
let unsaved = false;

// A browser may forbid to keep anything, for pages from the disk above all.
const place = (row) => `lagseg_jax review ${row.dataset.sha}`;
let kept = true;
try {
  localStorage.setItem("lagseg_jax review", "");
  localStorage.removeItem("lagseg_jax review");
} catch { kept = false; }

function tell() {
  const done = rows().filter((row) => choice(row).value).length;
  byId("kept").textContent = `${done} of ${rows().length} cases have a verdict. ` + (kept
    ? "Verdicts are kept in this browser and sent nowhere; save them as CSV to use them."
    : "This browser keeps nothing for this page: save the verdicts as CSV before you close it.");
}

function changed(row) {
  choice(row).parentElement.dataset.value = choice(row).value;
  const content = {verdict: choice(row).value, note: note(row).value};
  unsaved = true;
  if (kept && row.dataset.sha) {
    try {
      if (content.verdict || content.note) localStorage.setItem(place(row), JSON.stringify(content));
      else localStorage.removeItem(place(row));
    } catch { kept = false; } // full
  }
  if (row === opened) showVerdict();
  tell();
}

function recall(row) {
  if (!kept || !row.dataset.sha) return;
  let content = null;
  try { content = JSON.parse(localStorage.getItem(place(row))); } catch { return; }
  if (!content) return;
  if (verdicts.includes(content.verdict)) choice(row).value = content.verdict;
  note(row).value = String(content.note ?? "");
  choice(row).parentElement.dataset.value = choice(row).value;
}

function showVerdict() {
  byId("choices").querySelectorAll("button").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.value === choice(opened).value)));
  if (byId("note") !== document.activeElement) byId("note").value = note(opened).value;
}

function look(row) {
  const link = row?.querySelector("a");
  if (!link) return;
  opened = row;
  byId("shown").textContent = row.dataset.case;
  document.activeElement?.blur();
  // A new frame each time: the back button leaves the table, not the case.
  frame?.remove();
  frame = document.createElement("iframe");
  frame.title = `All slices of ${row.dataset.case}`;
  frame.src = link.getAttribute("href");
  frame.addEventListener("load", () => frame.contentWindow.focus());
  dialog.append(frame);
  if (!dialog.open) dialog.showModal();
  byId("note").value = note(row).value;
  showVerdict();
}

function step(way) {
  const list = rows().filter((row) => row.querySelector("a"));
  look(list[list.indexOf(opened) + way]);
}

function judge(verdict) {
  choice(opened).value = choice(opened).value === verdict ? "" : verdict;
  changed(opened);
}

function press(key) {
  if (!opened) return;
  const actions = {a: "accept", c: "correct", r: "reject"};
  if (actions[key]) judge(actions[key]);
  else if (key === "j") step(1);
  else if (key === "k") step(-1);
  else if (key === "n") byId("note").focus();
  else if (key === "Escape") dialog.close();
}

// What begins so is a formula to a spreadsheet; it gets an apostrophe.
const harmless = (text) => /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
const cell = (text) => {
  const safe = harmless(text.replace(/[\r\n]+/g, " "));
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
const csv = () => ["case,verdict,note", ...rows().map((row) =>
  [row.dataset.case, choice(row).value, note(row).value].map(cell).join(","))].join("\n") + "\n";

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "verdicts.csv";
  link.click();
  unsaved = false;
}

rows().forEach((row) => {
  recall(row);
  choice(row).addEventListener("change", () => changed(row));
  note(row).addEventListener("input", () => changed(row));
  row.querySelector("a")?.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault();
    look(row);
  });
});
byId("choices").addEventListener("click", (event) => {
  if (event.target.value) judge(event.target.value);
});
byId("note").addEventListener("input", (event) => {
  note(opened).value = event.target.value;
  changed(opened);
});
byId("before").addEventListener("click", () => step(-1));
byId("after").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => dialog.close());
byId("save").addEventListener("click", save);
dialog.addEventListener("close", () => {
  frame?.remove();
  opened?.querySelector("a").focus();
  opened = null;
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select");
  if (!typing && !event.ctrlKey && !event.altKey && !event.metaKey && event.key !== "Escape") {
    press(event.key);
  }
});
window.addEventListener("message", (event) => {
  if (frame && event.source === frame.contentWindow) press(String(event.data?.key));
});
window.addEventListener("beforeunload", (event) => {
  if (!kept && unsaved) event.preventDefault();
});

/** Shows the case that the address names, as the links of a report do. */
function follow() {
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  if (name) look(rows().find((row) => row.dataset.case === name));
}
window.addEventListener("hashchange", follow);
tell();
follow();
