"""The pages of a comparison and of a study: each case once under each tool, nothing from afar."""

import re

import numpy as np
import pytest

from lagseg_jax.evaluation.compare import Scores
from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.reports.compare_page import write_comparison_page
from lagseg_jax.reports.html import MINUS
from lagseg_jax.reports.paired_figure import paired_figure
from lagseg_jax.reports.study_report import write_study_page
from lagseg_jax.reports.study_table import Result, table_rows
from report_files import STRANGE, rows_of

CASES = 7


def scores_of(name, shift, lacks=()):
    rows = {row.pop("case"): {m: row[m] + shift for m in METRICS} for row in rows_of(CASES)}
    problems = {case: f"{case}: no mask found." for case in list(rows) if case in lacks}
    return Scores(name, {c: row for c, row in rows.items() if c not in lacks}, problems)


def titles_of(page):
    return re.findall(r"<circle[^>]*><title>([^<]*)</title>", page)


def stands_alone(page):
    assert not re.search(r"<(script|img|link|iframe)[^>]* (src|href)=\"(?!data:)", page)
    assert STRANGE not in page and "default-src" in page


def test_the_page_of_a_comparison(tmp_path):
    scores = [scores_of("ours", 0.0), scores_of("<nnU-Net>", 0.02, lacks=["train_3"])]
    page = write_comparison_page(tmp_path, "DATASET", scores, {"allow": ""}).read_text()
    stands_alone(page)
    titles = titles_of(page)
    # Dice of every case under every tool that has it, and its volume in the tool's own plot.
    assert sum(", ours: " in title for title in titles) == CASES
    assert sum(", &lt;nnU-Net&gt;: " in title for title in titles) == CASES - 1
    assert sum("truth" in title for title in titles) == 2 * CASES - 1
    assert page.count('class="pair"') == CASES - 1
    assert page.count("Bland-Altman plot") == 2
    assert "6 of 7" in page and "train_3: no mask found." in page
    assert "ours minus &lt;nnU-Net&gt;" in page and f"{MINUS}0.0200" in page


def test_the_page_of_a_study(tmp_path):
    def result(arm, seed, shift):
        rows = {row.pop("case"): row for row in rows_of(CASES)}
        return Result(
            arm,
            -1,
            seed,
            {c: {**r, "dice": r["dice"] + shift} for c, r in rows.items()},
            16,
            "weights are random",
        )

    results = [result("a", 0, 0.0), result("a", 1, 0.1), result("b", 0, 0.02)]
    study = {"title": "<T>", "arms": {"a": {}, "b": {}}, "reference": "a", "curve": False}
    runs = [{"run": "a seed0", "state": "failed", "reason": "<boom>", "command": "python"}]
    rows = table_rows(results, ["a", "b"], "a")
    page = write_study_page(tmp_path, study, rows, runs, results, {"": ["a", "b"]}).read_text()
    stands_alone(page)
    titles = titles_of(page)
    assert sum(", a: " in title for title in titles) == CASES  # a mean of its two seeds
    assert sum(", b: " in title for title in titles) == CASES
    assert page.count("Bland-Altman plot") == 2
    assert "Weights are random." in page and "Of 1 run, 1 not" in page
    assert "failed &lt;boom&gt;" in page and "&lt;T&gt;" in page
    dice = [row["dice"] for row in rows_of(CASES)]
    assert f"{np.mean(dice) + 0.05:.4f} ± " in page


@pytest.mark.parametrize("values", [[np.nan, np.nan], []])
def test_nothing_to_draw(values):
    assert paired_figure({"a": np.array(values)}, ["x"] * len(values)) == ""


def test_a_case_is_joined_only_where_it_is():
    columns = {"a": np.array([0.5, 0.7]), "b": np.array([np.nan, 0.8])}
    figure = paired_figure(columns, ["x", "y"])
    assert titles_of(figure) == ["x, a: 0.500", "y, a: 0.700", "y, b: 0.800"]
    assert figure.count('class="pair"') == 1
