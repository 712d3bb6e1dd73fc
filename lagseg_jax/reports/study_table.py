"""Compares the arms of a study over their cases: table.md, table.csv and study.json.

A case is the unit: its value is the mean over the seeds of its arm. So the SD over cases and the SD
over seeds are told apart, the bootstrap draws cases, and the Wilcoxon test pairs cases. In a
cross-validation the cases of all folds are pooled; each is a test case once.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.evaluation.statistics import (
    SMALLEST_TEST,
    bootstrap_interval,
    mean_and_sd,
    paired_wilcoxon,
)
from lagseg_jax.reports.markdown import decimal, plain, table_head, table_row
from lagseg_jax.reports.read import WRITTEN, read_cases, read_split_rule
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, without_nan, write_atomically, write_csv, write_json

# Of the columns of per_case.csv: title and decimals in the table.
METRICS = {"dice": ("Dice", 4), "iou": ("IoU", 4), "hd95_mm": ("HD95 (mm)", 2)}
METRICS |= {"assd_mm": ("ASSD (mm)", 2)}
VOLUMES = ("truth_ml", "prediction_ml")  # for the plots
POOLED = "all folds"  # the row of a cross-validation that covers them


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        arm: of the study.
        fold: of the cross-validation; -1 without one.
        seed: of the run.
        cases: {case: {metric: value}} for `METRICS` and `VOLUMES`; NaN where one is not
            defined.
        training_cases: how many it was trained on.
        warning: what readers must know about the encoder (random weights); empty otherwise.
        split: how parts were told apart, by patient or by file; "": not known.
    """

    arm: str
    fold: int
    seed: int
    cases: dict[str, dict[str, float]]
    training_cases: int
    warning: str
    split: str = ""


def read_result(
    workdir: Path, arm: str, fold: int, seed: int, folder: Path | None = None
) -> Result:
    """Reads an evaluation of a finished run: its own, or the one in `folder`.

    Raises:
        InputError: it cannot be one.
    """
    folder, path = folder or workdir / "evaluation", workdir / "splits.json"
    names, _, values = read_cases(folder / "per_case.csv", (*METRICS, *VOLUMES))
    cases = {
        name: {metric: float(column[n]) for metric, column in values.items()}
        for n, name in enumerate(names)
    }
    encoder = read_json(folder / "summary.json", WRITTEN).get("encoder")
    train = read_json(path, "the split of a run").get("train")
    if not isinstance(train, list) or not isinstance(encoder, dict):
        raise InputError(f"{workdir}: no encoder or no train found, expected what a run writes")
    warning = str(encoder.get("warning", ""))
    return Result(arm, fold, seed, cases, len(train), warning, read_split_rule(path))


def table_rows(results: Sequence[Result], arms: Sequence[str], reference: str | None) -> list[dict]:
    """One row per arm and metric; in a cross-validation one more for each fold.

    Args:
        results: of the finished runs; missing ones are left out.
        arms: in the order of the table.
        reference: the arm that the others are compared with, or None.

    Returns:
        Rows with `arm`, `fold` (a number, "all folds", or "" without a cross-validation), `metric`,
        `training_cases` (mean), `n_cases`, `n_seeds`, `mean`, `sd_cases`, `sd_seeds` (ddof 1); and,
        where `fold` is no number and the arm is not the reference, `n_pairs`, `difference` (mean of
        arm - reference over the cases of both), `low`, `high` (95 % bootstrap interval of it), `p`
        (paired Wilcoxon test) and `p_holm` (corrected for the number of arms compared by this
        metric). NaN: not defined.
    """
    of_arm = {arm: [result for result in results if result.arm == arm] for arm in arms}
    rows = []
    for metric in METRICS:
        compared = []
        for arm, mine in of_arm.items():
            folds = sorted({result.fold for result in mine})
            if len(folds) > 1:
                for fold in folds:
                    part = [result for result in mine if result.fold == fold]
                    rows.append({"arm": arm, "fold": fold, **_measured(part, metric)})
            pooled = POOLED if len(folds) > 1 else ""
            rows.append({"arm": arm, "fold": pooled, **_measured(mine, metric)})
            if reference is not None and arm != reference:
                rows[-1] |= _compared(mine, of_arm[reference], metric)
                compared.append(rows[-1])
        for row, p in zip(compared, holm([row["p"] for row in compared])):
            row["p_holm"] = p
    return rows


def case_values(results: Sequence[Result], metric: str) -> dict[tuple[int, str], float]:
    """{(fold, case): mean over the seeds}; NaN if the metric is not defined for one of them."""
    values: dict[tuple[int, str], list[float]] = {}
    for result in results:
        for case, scores in result.cases.items():
            values.setdefault((result.fold, case), []).append(scores.get(metric, math.nan))
    return {key: float(np.mean(values[key])) for key in sorted(values)}


def seed_means(results: Sequence[Result], metric: str) -> dict[int, float]:
    """{seed: mean over the cases}, for the seeds that have every fold that there is."""
    folds = {result.fold for result in results}
    means = {}
    for seed in sorted({result.seed for result in results}):
        mine = [result for result in results if result.seed == seed]
        if {result.fold for result in mine} == folds:
            means[seed] = mean_and_sd(list(case_values(mine, metric).values()))[0]
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979) for the tests of one family; NaN is not a test.

    Returns:
        The corrected p values in the same order, at most 1.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = largest
    return corrected


def write_table(
    folder: Path,
    study: dict,
    rows: list[dict],
    runs: list[dict],
    results: Sequence[Result],
    above: Sequence[str] = (),
) -> str:
    """Writes `table.md`, `table.csv` and `study.json`; returns the text of table.md.

    Args:
        folder: that exists.
        study: `title`, `arms`, `reference`.
        rows: of `table_rows`.
        runs: `run`, `state` (finished, failed or missing), `reason` and `command` of each.
        results: of the finished runs.
        above: lines of Markdown that stand before the table.
    """
    rows = without_nan(rows)
    warnings = sorted({result.warning for result in results if result.warning})
    text = "\n".join(_markdown(study, rows, runs, warnings, above)) + "\n"
    columns = ["arm", "fold", "metric", *dict.fromkeys(key for row in rows for key in row)]
    record = {**study, "warnings": warnings, "runs": runs, "rows": rows}
    write_json(folder / "study.json", record)
    write_csv(folder / "table.csv", list(dict.fromkeys(columns)), rows)
    write_atomically(folder / "table.md", text)
    return text


def _measured(results: Sequence[Result], metric: str) -> dict:
    values = list(case_values(results, metric).values())
    seeds = seed_means(results, metric)
    mean, sd = mean_and_sd(values)
    return {
        "metric": metric,
        "training_cases": mean_and_sd([result.training_cases for result in results])[0],
        "n_cases": sum(map(math.isfinite, values)),
        "n_seeds": len({result.seed for result in results}),
        "mean": mean,
        "sd_cases": sd,
        "sd_seeds": mean_and_sd(list(seeds.values()))[1],
    }


def _compared(results: Sequence[Result], reference: Sequence[Result], metric: str) -> dict:
    ours, theirs = case_values(results, metric), case_values(reference, metric)
    common = sorted(ours.keys() & theirs.keys())
    a, b = np.array([[ours[key], theirs[key]] for key in common]).reshape(-1, 2).T
    low, high = bootstrap_interval(a - b)
    return {
        "n_pairs": int(np.isfinite(a - b).sum()),
        "difference": mean_and_sd(a - b)[0],
        "low": low,
        "high": high,
        "p": paired_wilcoxon(a, b),
    }


def _markdown(
    study: dict, rows: list[dict], runs: list[dict], warnings: list[str], above: Sequence[str]
) -> list[str]:
    reference = study["reference"]
    header = ["arm", "training cases", *(title for title, _ in METRICS.values())]
    header += ["test cases", "seeds"]
    notes = [
        "Mean ± SD over test cases (each averaged over the seeds first); in parentheses",
        "the SD of the seeds' means, where there are several. A dash: not defined, or missing.",
    ]
    if study.get("split"):
        notes.append(f"Split {plain(study['split'])}.")
    if reference is not None:
        header += [f"Dice - {plain(reference)} [95 % interval]", "p", "p (Holm)"]
        notes += [
            "Difference: mean over the cases of both arms, with its percentile bootstrap interval",
            "(too narrow below ten cases); p: paired two-sided Wilcoxon test over cases, from",
            f"{SMALLEST_TEST} cases on; Holm: corrected for the number of arms compared.",
        ]
    unfinished = [run for run in runs if run["state"] != "finished"]
    if unfinished:
        notes += [
            "",
            f"**Incomplete: {len(unfinished)} of {len(runs)} runs are not finished.**",
            "",
            *(plain(f"- {r['run']}: {r['state']} {r['reason']}") for r in unfinished),
        ]
    return [
        f"# {plain(study['title'])}",
        "",
        *(f"**Warning: {plain(warning)}.**\n" for warning in warnings),
        *above,
        *table_head(header),
        *_arms(rows, reference is not None),
        "",
        *notes,
    ]


def _arms(rows: list[dict], compared: bool) -> list[str]:
    """A line of the table for each arm and fold."""
    return [
        table_row([plain(row_name(dice)), *table_cells(dice, rows, compared)])
        for dice in rows
        if dice["metric"] == "dice"
    ]


def table_cells(dice: dict, rows: Sequence[dict], compared: bool) -> list[str]:
    """What stands behind the name of an arm or fold, whose row of Dice is given, in its line."""
    same = [r for r in rows if (r["arm"], r["fold"]) == (dice["arm"], dice["fold"])]
    cells = [decimal(dice["training_cases"], 0)]
    cells += [_spread(row, METRICS[row["metric"]][1]) for row in same]
    cells += [str(dice["n_cases"]), str(dice["n_seeds"])]
    return cells + (_comparison(dice) if compared else [])


def row_name(row: dict) -> str:
    """What a row of `table_rows` is about: an arm, or one fold of it."""
    if row["fold"] == "":
        return row["arm"]
    return f"{row['arm']}, {'' if is_pooled(row) else 'fold '}{row['fold']}"


def is_pooled(row: dict) -> bool:
    """Whether a row covers all folds that there are."""
    return row["fold"] in ("", POOLED)


def _spread(row: dict, decimals: int) -> str:
    text = decimal(row["mean"], decimals)
    if row["sd_cases"] is not None:
        text += f" ± {decimal(row['sd_cases'], decimals)}"
    return text if row["sd_seeds"] is None else f"{text} ({decimal(row['sd_seeds'], decimals)})"


def _comparison(row: dict) -> list[str]:
    if row.get("difference") is None:
        return ["-", "-", "-"]
    low, high = decimal(row["low"], 4), decimal(row["high"], 4)
    return [f"{row['difference']:+.4f} [{low}, {high}]", _p(row["p"]), _p(row["p_holm"])]


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
