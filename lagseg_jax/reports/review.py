"""Writes review.html: the table of all cases, what needs a look first, and a verdict for each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.inference.mask_statistics import mask_warnings, volume_warning
from lagseg_jax.inference.records import rows_on_record
from lagseg_jax.inference.uncertainty import LOW_DICE, UNLIKE, estimate_warnings
from lagseg_jax.reports.blocks import name_cell, number_cell, sorting_head
from lagseg_jax.reports.html import RESEARCH, Html, beside, data, join, self_contained, tag
from lagseg_jax.reports.read import read_evaluation
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.files import file_sha256, short_name, write_atomically

PAGE, FOLDER = "review.html", "review"
VERDICTS = ("accept", "correct", "reject")
UNUSUAL = 3.5  # of the robust z-score, as Iglewicz and Hoaglin (1993) call a value an outlier
ESTIMATE, ESTIMATED = "estimated_dice", "Estimated Dice"
ESTIMATES = {ESTIMATE: ESTIMATED, "volume_low_ml": "Volume from (mL)", "volume_high_ml": "to (mL)"}


@dataclass(frozen=True)
class ReviewedCase:
    """A row of the table.

    Attributes:
        name: of the case; its page is `review/NAME.html`.
        values: {column: number}, NaN where there is none.
        warnings: sentences.
    """

    name: str
    values: dict[str, float]
    warnings: list[str] = field(default_factory=list)


def write_prediction_review(folder: Path, asked: bool = True) -> None:
    """Writes the table of what `predict --review` left in its output folder.

    Args:
        folder: with the records of the cases.
        asked: otherwise only a table that is there is written again: masks may have changed.
    """
    if not asked and not (folder / PAGE).is_file():
        return
    rows = rows_on_record(folder)
    found = [name for name in rows if _page_of(folder, name).is_file()]
    estimated = any(rows[name].get(ESTIMATE) is not None for name in found)
    cases = [
        ReviewedCase(
            name,
            {"Volume (mL)": rows[name]["volume_ml"]}
            | (_estimates(rows[name]) if estimated else {}),
            _said(rows[name]),
        )
        for name in found
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, f"Predictions in {folder.resolve().name}", cases)


def write_evaluation_review(folder: Path) -> Path:
    """Writes the table of what an evaluation left in its folder.

    Raises:
        InputError: a file of the evaluation is missing or damaged.
    """
    found = read_evaluation(folder)
    columns = {
        "Dice": "dice",
        "HD95 (mm)": "hd95_mm",
        "Volume (mL)": "prediction_ml",
        "Truth (mL)": "truth_ml",
    }
    cases = []
    for at, name in enumerate(found.names):
        values = {title: float(found.values[metric][at]) for title, metric in columns.items()}
        estimates: dict[str, Any] = {n: float(v[at]) for n, v in found.estimates.items()}
        values |= _estimates(estimates) if estimates else {}
        said = [volume_warning(values["Volume (mL)"])]
        said += estimate_warnings(estimates | {UNLIKE: found.unlike[at]})
        said += [f"Dice below {LOW_DICE:g}"] * (values["Dice"] < LOW_DICE)
        cases.append(ReviewedCase(name, values, [one for one in said if one]))
    return _write(folder, f"Evaluation of {found.name}", cases)


def _estimates(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of estimates, NaN where there is none."""
    known = {title: row.get(name) for name, title in ESTIMATES.items()}
    return {title: np.nan if value is None else float(value) for title, value in known.items()}


def _page_of(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{short_name(name)}.html"


def _said(row: dict[str, Any]) -> list[str]:
    """What is suspicious about a row of `mask_statistics`, each thing once."""
    own, several = mask_warnings(row), row["components"] > 1
    geometry = row["remarks"].removesuffix("; ".join(own)).removesuffix("; ")
    said = [*own, f"{row['components']} components" * several, geometry]
    return [one for one in said if one]


def with_unusual_volumes(cases: Sequence[ReviewedCase]) -> list[ReviewedCase]:
    """Adds a warning to volumes far from those of the other cases.

    The robust z-score is `0.6745 (v - median) / MAD` of log volumes (Iglewicz and Hoaglin 1993);
    with fewer than 8 cases nothing is unusual.
    """
    volumes = np.array([case.values["Volume (mL)"] for case in cases])
    known = np.log(volumes[volumes > 0])
    if len(known) < 8 or not (spread := np.median(np.abs(known - np.median(known)))):
        return list(cases)
    marked = []
    for case, volume in zip(cases, volumes):
        far = volume > 0 and abs(np.log(volume) - np.median(known)) * 0.6745 / spread > UNUSUAL
        said = [*case.warnings, *["a volume unlike those of the other cases"] * bool(far)]
        marked.append(ReviewedCase(case.name, case.values, said))
    return marked


def by_need(cases: Iterable[ReviewedCase]) -> list[ReviewedCase]:
    """What needs a look first: more warnings, then a lower Dice, true or estimated, or none."""

    def need(case: ReviewedCase) -> tuple[int, float]:
        dice = case.values.get("Dice", case.values.get(ESTIMATED, 1.0))
        return -len(case.warnings), dice if np.isfinite(dice) else 0.0

    return sorted(cases, key=need)


def _write(folder: Path, title: str, cases: Sequence[ReviewedCase]) -> Path:
    pages = {case.name: _page_of(folder, case.name) for case in cases}
    hashes = {name: file_sha256(page) for name, page in pages.items() if page.is_file()}
    path = folder / PAGE
    write_atomically(path, review_page(title, cases, hashes))
    return path


def review_page(title: str, cases: Sequence[ReviewedCase], hashes: dict[str, str]) -> str:
    """The whole HTML text.

    Args:
        title: of the page.
        cases: all with the same columns.
        hashes: {case: SHA-256 of its page}, of those that have one. A verdict that a browser has
            kept counts for this page only, not for a later one of that name.
    """
    ordered = by_need(with_unusual_volumes(cases))
    columns = list(ordered[0].values) if ordered else []
    heads = [*map(sorting_head, ["Case", *columns]), sorting_head("Warnings", kind="words")]
    heads += [sorting_head("Verdict", kind="verdict")]
    heads += [tag("th", "Note", scope="col", class_="words")]
    body = join(
        tag("header", tag("h1", title), tag("p", RESEARCH, class_="small muted")),
        tag("main", _introduction(len(ordered)), _table(heads, ordered, hashes), id="cases"),
        _dialog(),
        data("verdicts", list(VERDICTS)),
    )
    styles = ["report.css", "review.css"]
    return self_contained(title, body, styles, ["report.js", "review.js"], frames=True)


def _introduction(count: int) -> Html:
    return join(
        tag(
            "p",
            f"{count_of(count, 'case')}, those with most warnings first, then those with the "
            "lowest Dice, which is estimated where there is no truth. "
            "Press a name to look at every slice, a column to sort.",
        ),
        tag(
            "div",
            tag("button", "Save verdicts (CSV)", id="save", type="button"),
            tag("output", id="kept", aria_live="polite"),
            class_="controls",
        ),
    )


def _table(heads: list[Html], cases: Sequence[ReviewedCase], hashes: dict[str, str]) -> Html:
    rows = [_row(case, hashes.get(case.name)) for case in cases]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows))
    return tag("div", table, class_="scroll")


def _row(case: ReviewedCase, sha256: str | None) -> Html:
    link = None
    if sha256:
        link = tag("a", case.name, href=beside(FOLDER, f"{short_name(case.name)}.html"))
    cells = [name_cell(case.name, link)]
    cells += [number_cell(value, 3 if abs(value) <= 1 else 1) for value in case.values.values()]
    said = "; ".join(case.warnings)
    cells.append(tag("td", said, data_value=str(-len(case.warnings)), class_="words"))
    choices = [tag("option", one or "\N{EN DASH}", value=one) for one in ("", *VERDICTS)]
    select = tag("select", choices, aria_label=f"Verdict on {case.name}")
    cells.append(tag("td", select, data_value="", class_="verdict"))
    note = tag("input", type="text", class_="note", aria_label=f"Note on {case.name}")
    cells.append(tag("td", note, class_="words"))
    return tag("tr", cells, data_case=case.name, data_sha=(sha256 or "")[:32])


def _dialog() -> Html:
    """Where the page of a case is shown; its script fills it."""
    names = {"before": "Previous (K)", "after": "Next (J)", "close": "Close (Esc)"}
    verdicts = [
        tag("button", f"{one.capitalize()} ({one[0].upper()})", type="button", value=one)
        for one in VERDICTS
    ]
    return tag(
        "dialog",
        tag(
            "div",
            tag("strong", id="shown"),
            tag("span", verdicts, role="group", aria_label="Verdict", id="choices"),
            tag("label", "Note", tag("input", type="text", class_="note", id="note")),
            [tag("button", text, type="button", id=name) for name, text in names.items()],
            class_="controls",
        ),
        aria_label="Case",
    )
