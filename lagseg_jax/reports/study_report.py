"""Writes report.html of a study: its table, every case under every arm, volumes, runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.reports.blocks import agreements, banner, case_table, note, table
from lagseg_jax.reports.html import RESEARCH, Html, document, join, png, tag
from lagseg_jax.reports.paired_figure import paired_figure
from lagseg_jax.reports.study_table import METRICS, Result, case_values, row_name, table_cells
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.files import without_nan, write_atomically

Groups = Mapping[str, Sequence[str]]  # title -> arms that were judged on the same cases


def write_study_page(
    folder: Path,
    study: dict,
    rows: Sequence[dict],
    runs: Sequence[dict[str, str]],
    results: Sequence[Result],
    groups: Groups,
) -> Path:
    """Writes `report.html`; arguments as of `study_table.write_table`."""
    warnings = sorted({result.warning for result in results if result.warning})
    unfinished = sum(run["state"] != "finished" for run in runs)
    notes = [banner("Random encoder.", f"{text[0].upper()}{text[1:]}.") for text in warnings]
    if unfinished:
        text = f"Of {count_of(len(runs), 'run')}, {unfinished} not finished."
        notes.append(banner("Incomplete.", text))
    header = join(tag("h1", study["title"]), tag("p", RESEARCH, class_="small muted"), notes)
    parts = {title: _aligned(results, arms) for title, arms in groups.items()}
    sections = {
        "Results": _results(study, without_nan(rows)),
        "Plots": _plots(folder, study, parts),
        "Volume": _volumes(parts),
        "Cases": _cases(parts),
        "Runs": join(tag("h2", "Runs"), table(("Run", "State", "Command"), map(_run, runs))),
    }
    path = folder / "report.html"
    write_atomically(path, document(study["title"], header, sections))
    return path


Part = tuple[list[str], dict[str, dict[str, np.ndarray]]]  # cases, arm -> metric -> (cases,)


def _aligned(results: Sequence[Result], arms: Sequence[str]) -> Part:
    """The cases of some arms, and for each arm the values over them, means over its seeds."""
    of_arm = {arm: [result for result in results if result.arm == arm] for arm in arms}
    keys = sorted({(r.fold, case) for mine in of_arm.values() for r in mine for case in r.cases})
    values = {}
    for arm, mine in of_arm.items():
        if mine:
            found = {
                name: case_values(mine, name) for name in ("dice", "truth_ml", "prediction_ml")
            }
            values[arm] = {
                name: np.array([one.get(key, np.nan) for key in keys])
                for name, one in found.items()
            }
    return [case for _, case in keys], values


def _results(study: dict, rows: Sequence[dict]) -> Html:
    compared = study["reference"] is not None
    heads = ["Arm", "Training cases", *(title for title, _ in METRICS.values())]
    heads += ["Test cases", "Seeds"]
    heads += [f"Dice - {study['reference']} [95 % interval]", "p", "p (Holm)"] * compared
    cells = [
        [row_name(dice), *table_cells(dice, rows, compared)]
        for dice in rows
        if dice["metric"] == "dice"
    ]
    text = "Mean ± SD over test cases (each averaged over the seeds first); in parentheses the SD "
    text += "of the seeds' means. p: paired two-sided Wilcoxon test over cases."
    return join(tag("h2", "Arms"), table(heads, cells), note(text))


def _plots(folder: Path, study: dict, parts: Mapping[str, Part]) -> Html:
    figures = []
    if study["curve"] and (folder / "plot.png").is_file():
        picture = png((folder / "plot.png").read_bytes(), alt="Dice over training cases")
        figures.append(tag("figure", picture))
    for title, (names, values) in parts.items():
        dice = {arm: metrics["dice"] for arm, metrics in values.items()}
        if dice:
            figures += [tag("h3", title), tag("figure", paired_figure(dice, names))]
    return join(
        tag("h2", "Dice of every case"),
        tag("p", "A line joins a case from arm to arm; the mark is the mean."),
        figures,
    )


def _volumes(parts: Mapping[str, Part]) -> Html:
    figures = [
        agreements({arm: (v["truth_ml"], v["prediction_ml"]) for arm, v in values.items()}, names)
        for names, values in parts.values()
    ]
    return join(tag("h2", "Volume of the left atrium"), figures)


def _cases(parts: Mapping[str, Part]) -> Html:
    names = [case for cases, _ in parts.values() for case in cases]
    columns: dict[str, np.ndarray] = {}
    start = 0
    for cases, values in parts.values():
        for arm, metrics in values.items():
            columns[arm] = np.full(len(names), np.nan)
            columns[arm][start : start + len(cases)] = metrics["dice"]
        start += len(cases)
    text = "Dice, mean over the seeds. Press a column's name to sort by it."
    return join(tag("h2", "Cases"), tag("p", text), case_table(names, columns, 3))


def _run(run: dict[str, str]) -> list[str]:
    return [run["run"], f"{run['state']} {run['reason']}".strip(), run["command"]]
