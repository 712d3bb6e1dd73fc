"""Tables of a study: by hand and against SciPy; what is missing is said."""

import csv
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from lagseg_jax.reports.study_plot import write_plot
from lagseg_jax.reports.study_table import (
    Result,
    holm,
    row_name,
    seed_means,
    table_rows,
    write_table,
)

STUDY = {"title": "Title", "arms": {"a": {}, "b": {}, "c": {}}, "reference": "a", "curve": False}


def result(arm, dice, fold=-1, seed=0, first=1, warning="", training=16, **more):
    cases = {}
    for i, value in enumerate(dice):
        scores = {"dice": value, "iou": value / 2, "hd95_mm": 5.0, "assd_mm": 1.0}
        cases[f"case_{first + i}"] = scores | {name: column[i] for name, column in more.items()}
    return Result(arm, fold, seed, cases, training, warning)


def row_of(rows, arm, metric="dice", fold=""):
    (row,) = [r for r in rows if (r["arm"], r["metric"], r["fold"]) == (arm, metric, fold)]
    return row


def test_numbers_by_hand():
    results = [
        result("a", [0.5, 0.7], seed=0),
        result("a", [0.7, 0.9], seed=1),
        result("b", [0.8, 0.9], seed=0),
    ]
    rows = table_rows(results, ["a", "b"], "a")
    a, b = row_of(rows, "a"), row_of(rows, "b")
    # Cases of a: 0.6 and 0.8; seeds of a: 0.6 and 0.8, too; SD with ddof 1 is 0.2 / sqrt(2).
    assert a["mean"] == pytest.approx(0.7)
    assert a["sd_cases"] == pytest.approx(0.2 / math.sqrt(2))
    assert a["sd_seeds"] == pytest.approx(0.2 / math.sqrt(2))
    assert (a["n_cases"], a["n_seeds"]) == (2, 2)
    assert b["difference"] == pytest.approx(0.15) and b["n_pairs"] == 2
    assert math.isnan(b["sd_seeds"]) and math.isnan(b["p"]) and math.isnan(b["p_holm"])
    assert "difference" not in a
    assert row_of(rows, "b", "iou")["difference"] == pytest.approx(0.075)


def test_sd_over_cases_and_over_seeds_are_not_mixed_up():
    easy_and_hard = [result("a", [0.2, 0.9], seed=0), result("a", [0.2, 0.9], seed=1)]
    row = row_of(table_rows(easy_and_hard, ["a"], None), "a")
    assert row["sd_seeds"] == 0 and row["sd_cases"] == pytest.approx(0.7 / math.sqrt(2))


def test_tests_and_interval_against_scipy():
    rng = np.random.default_rng(0)
    dice = {arm: rng.uniform(0.6, 0.9, (2, 13)) + shift for arm, shift in zip("abc", (0, 0.1, 0))}
    results = [result(arm, list(dice[arm][seed]), seed=seed) for arm in "abc" for seed in (0, 1)]
    rows = table_rows(results, ["a", "b", "c"], "a")
    p = {}
    for arm in "bc":
        differences = dice[arm].mean(0) - dice["a"].mean(0)
        row = row_of(rows, arm)
        p[arm] = stats.wilcoxon(differences).pvalue
        assert row["p"] == pytest.approx(p[arm])
        expected = stats.bootstrap((differences,), np.mean, method="percentile", random_state=1)
        low, high = expected.confidence_interval
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.004)
        assert row["low"] < row["difference"] < row["high"]
    smaller, larger = sorted(p, key=p.get)
    assert row_of(rows, smaller)["p_holm"] == pytest.approx(min(1, 2 * p[smaller]))
    assert row_of(rows, larger)["p_holm"] == pytest.approx(max(p[larger], 2 * p[smaller]))


def test_holm_by_hand():
    # 3 * 0.01, 2 * 0.03, and 0.04 raised to the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([math.nan, 0.02, 0.01])
    assert math.isnan(corrected[0]) and corrected[1:] == pytest.approx([0.02, 0.02])
    assert holm([]) == []


def test_a_distance_that_is_not_defined_is_left_out_in_pairs():
    hd95 = [4.0, math.nan, 6.0, 8.0]
    results = [
        result("a", [0.5] * 4, hd95_mm=[1.0, 2.0, 3.0, 4.0]),
        result("b", [0.5] * 4, hd95_mm=hd95),
    ]
    row = row_of(table_rows(results, ["a", "b"], "a"), "b", "hd95_mm")
    assert row["n_cases"] == row["n_pairs"] == 3
    assert row["mean"] == pytest.approx(6) and row["difference"] == pytest.approx(10 / 3)


def test_only_common_cases_are_paired():
    results = [result("a", [0.1, 0.2, 0.3]), result("b", [0.5, 0.9], first=3)]
    row = row_of(table_rows(results, ["a", "b"], "a"), "b")
    assert row["n_pairs"] == 1 and row["difference"] == pytest.approx(0.2)
    assert row["n_cases"] == 2


def test_folds_are_shown_and_pooled():
    results = [
        result("a", [0.5, 0.6, 0.7], fold=0, first=1),
        result("a", [0.8], fold=1, first=4),
        result("a", [0.7, 0.8, 0.9], fold=0, first=1, seed=1),
    ]
    rows = table_rows(results, ["a"], None)
    assert row_of(rows, "a", fold=0)["mean"] == pytest.approx(0.7)
    assert row_of(rows, "a", fold=1)["mean"] == pytest.approx(0.8)
    pooled = row_of(rows, "a", fold="all folds")
    assert pooled["n_cases"] == 4
    assert pooled["mean"] == pytest.approx((0.6 + 0.7 + 0.8 + 0.8) / 4)  # cases, not folds
    # Seed 1 lacks a fold: its mean is one of other cases.
    assert seed_means(results, "dice") == {0: pytest.approx(0.65)}
    names = [row_name(row) for row in rows if row["metric"] == "dice"]
    assert names == ["a, fold 0", "a, fold 1", "a, all folds"]


def write(folder, results, runs=(), study=STUDY):
    rows = table_rows(results, list(study["arms"]), study["reference"])
    text = write_table(folder, study, rows, list(runs), results)
    return rows, text


def test_files_say_the_same_and_name_what_is_missing(tmp_path):
    results = [result("a", [0.5, 0.7]), result("b", [0.6, 0.9], warning="weights are random")]
    runs = [
        {"run": "a seed0", "state": "finished", "reason": "", "command": "x"},
        {"run": "c seed0", "state": "failed", "reason": "exit status 1: boom", "command": "x"},
    ]
    rows, text = write(tmp_path, results, runs)
    assert (tmp_path / "table.md").read_text() == text
    assert "| b | 16 | 0.7500 ± 0.2121 |" in text and "+0.1500 [" in text
    assert "Warning: weights are random" in text
    assert "1 of 2 runs are not finished" in text and "- c seed0: failed exit status 1" in text
    assert "| c | - | - | - | - | - | 0 | 0 | - | - | - |" in text
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) == 3 * 4
    (b,) = [row for row in table if row["arm"] == "b" and row["metric"] == "dice"]
    assert float(b["mean"]) == pytest.approx(0.75) and b["p"] == ""
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["runs"] == runs and record["rows"][0]["arm"] == "a"


def test_texts_of_runs_are_no_markup(tmp_path):
    strange = "<meta http-equiv=refresh> | [x](javascript:y)"
    results = [result("a", [0.5, 0.7], warning=strange), result(strange, [0.6, 0.9])]
    runs = [{"run": strange, "state": "failed", "reason": f"{strange}\n# x", "command": strange}]
    study = {"title": strange, "arms": {"a": {}, strange: {}}, "reference": strange}
    _, text = write(tmp_path, results, runs, study)
    assert re.search(r"(?<!\\)[<\[](?! 0.0001|[-+\d]|95 %)", text) is None, text
    assert text.count("\n# ") == 0
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"}
    assert len(widths) == 1  # no text ends its cell
    with (tmp_path / "table.csv").open(newline="") as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {"a", strange}


@pytest.mark.parametrize("arm", ["=1+1", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(tmp_path, arm):
    study = {**STUDY, "arms": {arm: {}}, "reference": None}
    write(tmp_path, [result(arm, [0.5, 0.7])], study=study)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {f"'{arm}"}


@pytest.mark.parametrize("curve", [False, True])
def test_plot_of_arms_and_of_a_curve(tmp_path, curve):
    results = [result(arm, [0.5, 0.7], training=n) for arm, n in zip("abc", (1, 4, 16))]
    study = STUDY | {"curve": curve}
    write_plot(tmp_path, study, table_rows(results, list("abc"), "a"), results)
    text = (tmp_path / "plot.svg").read_text()
    assert text.startswith("<?xml") and text.rstrip().endswith("</svg>")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plot.png", "plot.svg"]


def test_a_plot_takes_names_as_they_are(tmp_path):
    arm = "$\\frac"  # no formula
    study = STUDY | {"title": arm, "arms": {arm: {}}}
    write_plot(tmp_path, study, table_rows([result(arm, [0.5])], [arm], None), [result(arm, [0.5])])
    assert (tmp_path / "plot.svg").exists()


def test_plot_of_a_single_case_and_of_folds(tmp_path):
    results = [result("a", [0.5], fold=0), result("a", [0.6], fold=1, first=2)]
    write_plot(tmp_path, STUDY, table_rows(results, list("abc"), "a"), results)
    assert (tmp_path / "plot.svg").exists()
