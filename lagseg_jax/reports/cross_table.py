"""The table of a study over datasets: rows are trained on, columns are tested on."""

from collections.abc import Sequence

from lagseg_jax.evaluation.cross_test import CrossTest
from lagseg_jax.evaluation.study import Run
from lagseg_jax.reports.markdown import decimal, plain, table_head, table_row
from lagseg_jax.reports.study_table import Result, is_pooled, read_result, table_rows

OWN = "trained on the tested data"  # what the others are compared with


def cell(trained: str, tested: str) -> str:
    """What a model trained on one dataset and tested on another is called in tables."""
    return f"{trained} on {tested}"


def column(tested: str, datasets: Sequence[str]) -> list[str]:
    """The cells of one column, whose models are judged on the same cases."""
    return [cell(trained, tested) for trained in datasets]


def own_result(run: Run) -> Result:
    """A run judged on the test cases of its own dataset; raises InputError as `read_result`."""
    return read_result(run.workdir, cell(run.arm, run.arm), run.fold, run.seed)


def cross_result(test: CrossTest) -> Result:
    """A run judged on another dataset; raises InputError as `read_result`."""
    run = test.run
    arm = cell(run.arm, test.other.arm)
    return read_result(run.workdir, arm, run.fold, run.seed, test.workdir)


def cross_rows(results: Sequence[Result], datasets: Sequence[str]) -> list[dict]:
    """The rows of `table_rows`, column by column of the cross-dataset table.

    Within a column all models are judged on the same cases, so each is compared with the model that
    was trained on that dataset; Holm's correction is over the models of a column.
    """
    rows = []
    for tested in datasets:
        models = column(tested, datasets)
        mine = [result for result in results if result.arm in models]
        there = [name for name in models if any(result.arm == name for result in mine)]
        own = cell(tested, tested)
        rows += table_rows(mine, there, own if own in there else None)
    return rows


def cross_lines(rows: Sequence[dict], datasets: Sequence[str]) -> list[str]:
    """The table in Markdown: mean Dice ± SD over the test cases of each column's dataset."""
    dice = {r["arm"]: r for r in rows if r["metric"] == "dice" and is_pooled(r)}
    lines = table_head(["trained on, tested on", *map(plain, datasets)])
    for trained in datasets:
        cells = [_spread(dice.get(cell(trained, tested))) for tested in datasets]
        lines.append(table_row([plain(trained), *cells]))
    return [*lines, "", "Dice, mean ± SD over the test cases of the column's dataset.", ""]


def _spread(row: dict | None) -> str:
    if row is None:
        return "-"
    text = decimal(row["mean"], 4)
    return text if row["sd_cases"] is None else f"{text} ± {decimal(row['sd_cases'], 4)}"
