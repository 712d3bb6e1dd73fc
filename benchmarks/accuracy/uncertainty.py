"""Measures how well estimates of Dice and volume agree with the truth, also on spoilt volumes.

    python -m benchmarks.accuracy.uncertainty --run runs/a runs/b --corrupt --output=sure.json

Every run is calibrated on its validation cases, and estimates its test cases, as they are and with
noise, a bias field and blur. Give one run for each fold: the cases of all are one table. With
`--ensemble` they are one model, of runs with the same split. The same command goes on where it was
interrupted.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.corruptions import CORRUPTIONS, corrupted
from benchmarks.common import machine
from benchmarks.common.options import benchmark_parser
from lagseg_jax.data.run_split import load_split
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.evaluation.statistics import estimate_agreement
from lagseg_jax.evaluation.uncertainty import fit, in_all_validations, measured
from lagseg_jax.inference.estimator import case_numbers
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.reports.markdown import decimal, table_head, table_row
from lagseg_jax.runs.training_range import read_training_range, unlike_training
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.files import read_json, without_nan, write_json

CLEAN = "as they are"
LOOK = 5  # of the estimates, the lowest fifth is looked at; and what has none
DRAWS = 200  # of other validation cases
HEAD = ["cases", "n", "Dice", "no estimate", "error", "Pearson", "Spearman", "covered"]
HEAD += ["flagged", "of the worst tenth"]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.accuracy.uncertainty", __doc__)
    add = parser.add_argument
    add("--run", required=True, nargs="+", type=Path, help="workdirs of finished runs")
    add("--ensemble", action="store_true", help="all runs together, instead of one for each fold")
    add("--tta", action="store_true", help="predictions averaged over the four mirrorings")
    add("--corrupt", action="store_true", help="test volumes with noise, bias field, blur, too")
    add("--output", required=True, type=Path, help="JSON file of all cases and numbers")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Predicts what is not there yet, and prints the table."""
    options = parse_arguments(arguments)
    rows = read_json(options.output, "its cases")["rows"] if options.output.exists() else []
    models = [options.run] if options.ensemble else [[run] for run in options.run]
    for runs in models:
        for row in predicted(runs, options.tta, options.corrupt, rows):
            rows.append(row)
            write_json(options.output, {"rows": rows})
    names = [name_of(runs, options.tta) for runs in models]
    estimated = [row for name in names for row in estimates(rows, name)]
    table = summary(estimated)
    about = {"machine": machine.describe(), "versions": machine.versions()}
    others = {name: redivided(rows, name) for name in names}
    order = without_nan({name: spearman(rows, name) for name in names})
    content = {**about, "table": table, "covered_with_other_validation_cases": others}
    write_json(options.output, {**content, "spearman_of_each_model": order, "rows": rows})
    print("\n".join(lines(table)), f"Covered with other validation cases: {others}", sep="\n\n")
    print(f"Spearman of each model, validation and test cases as they are: {order}")
    return 0


def name_of(runs: Sequence[Path], tta: bool) -> str:
    """What a model is called in the rows."""
    return " and ".join([*(run.name for run in runs), *["mirrorings"] * tta])


def predicted(
    runs: Sequence[Path], tta: bool, corrupt: bool, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The cases of a model that are not among the rows, one after the other, as rows."""
    run, name = runs[0], name_of(runs, tta)
    known = {(row["run"], row["case"], row["how"]) for row in rows}
    config = read_config(run)
    split = load_split(config, run)
    split["validation"] = in_all_validations(split["validation"], runs)
    jobs = [("validation", n, case, CLEAN) for n, case in enumerate(split["validation"])]
    for how in (CLEAN, *CORRUPTIONS) if corrupt else (CLEAN,):
        jobs += [("test", n, case, how) for n, case in enumerate(split["test"])]
    jobs = [job for job in jobs if (name, job[2].name, job[3]) not in known]
    segmenter = load_segmenter(runs) if jobs else None
    trained = read_training_range(run)
    for part, number, case, how in jobs:
        image, label = read_labelled(case, config.data)
        grey = image.array if how == CLEAN else corrupted(image.array, how, number)
        row = {"run": name, "part": part, "case": case.name, "how": how}
        yield row | measured_and_unlike(segmenter, grey, image.affine, label.array, tta, trained)


def measured_and_unlike(
    segmenter: Segmenter,
    grey: np.ndarray,
    affine: np.ndarray,
    truth: np.ndarray,
    tta: bool,
    trained: dict[str, list[float]],
) -> dict[str, Any]:
    """What is measured of a mask of these grey values (x, y, z), and what it is unlike in."""
    numbers, mask = measured(segmenter, grey, affine, truth, tta)
    about = segmenter.config.data, segmenter.plane
    case = case_numbers(grey, affine, mask, *about) if mask.any() else {}
    return numbers | {"unlike": unlike_training(case, trained)}


def estimates(rows: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """The test cases of a run with `estimated_dice`, `low_ml` and `high_ml`; NaN where withheld."""
    mine = [row for row in rows if row["run"] == run]
    found = fit(1, [row for row in mine if row["part"] == "validation"])
    result = []
    for row in mine:
        if row["part"] == "test":
            withheld = bool(row["unlike"]) or not row["prediction_ml"]
            low, high = found.volume_interval(row["prediction_ml"], row["stability"])
            values = found.dice(row["stability"]), low, high
            values = (np.nan,) * 3 if withheld else values
            result.append(row | dict(zip(("estimated_dice", "low_ml", "high_ml"), values)))
    return result


def redivided(rows: list[dict[str, Any]], run: str) -> float:
    """The part of volumes in their intervals, had other cases of a run been those of validation.

    The mean over `DRAWS` choices of as many of its cases that are as they are.
    """
    mine = [row for row in rows if row["run"] == run and row["how"] == CLEAN]
    count = sum(row["part"] == "validation" for row in mine)
    rng, covered = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order = rng.permutation(len(mine))
        found = fit(1, [mine[at] for at in order[:count]])
        for row in (mine[at] for at in order[count:]):
            low, high = found.volume_interval(row["prediction_ml"], row["stability"])
            covered.append(low <= row["truth_ml"] <= high)
    return float(np.mean(covered))


def spearman(rows: list[dict[str, Any]], run: str) -> float:
    """How well a model orders its own cases, which no calibration changes; NaN for fewer than 3.

    Cases of several models in one table are in order only if these are calibrated equally well.
    """
    mine = [row for row in rows if row["run"] == run and row["how"] == CLEAN]
    stable, dice = (np.array([row[name] for row in mine], float) for name in ("stability", "dice"))
    return estimate_agreement(stable, dice, dice, (dice, dice))["spearman"]


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The numbers of each way in which volumes were spoilt, and of all."""
    groups = {how: [row for row in rows if row["how"] == how] for how in (CLEAN, *CORRUPTIONS)}
    groups["all"] = rows
    return {how: numbers(some) for how, some in groups.items() if some}


def numbers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`estimate_agreement` of the estimates, and how many of the worst tenth by Dice are flagged.

    These are the cases without an estimate, and of those with one the lowest fifth.
    """
    names = ("estimated_dice", "dice", "truth_ml", "low_ml", "high_ml")
    estimate, dice, truth, *interval = (np.array([row[n] for row in rows], float) for n in names)
    worst = np.argsort(dice, kind="stable")[: -(-len(rows) // 10)]
    withheld = np.flatnonzero(np.isnan(estimate))
    lowest = np.argsort(estimate, kind="stable")[: -(-(len(rows) - withheld.size) // LOOK)]
    flagged = {*withheld.tolist(), *lowest.tolist()}
    found = {"cases": len(rows), "dice": float(dice.mean())}
    found |= estimate_agreement(estimate, dice, truth, interval)
    counts = {"flagged": len(flagged), "worst_tenth": len(worst)}
    return without_nan(found | counts | {"worst_flagged": len(flagged & set(worst.tolist()))})


def lines(table: dict[str, dict[str, Any]]) -> list[str]:
    """The table in Markdown."""
    result = table_head(HEAD)
    for how, row in table.items():
        cells = [how, str(row["cases"]), f"{row['dice']:.3f}", str(row["cases"] - row["n"])]
        cells += [decimal(row["mean_absolute_error"], 3)]
        cells += [decimal(row[name], 2) for name in ("pearson", "spearman")]
        cells += [f"{row['covered']} of {row['n']}", f"{row['flagged']} of {row['cases']}"]
        result.append(table_row([*cells, f"{row['worst_flagged']} of {row['worst_tenth']}"]))
    return result


if __name__ == "__main__":
    sys.exit(main())
