"""Estimates on the pages of an evaluation: beside the truth, escaped, and refused where damaged."""

import csv

import pytest

from lagseg_jax.reports.page import write_report
from lagseg_jax.reports.review import write_evaluation_review
from lagseg_jax.runtime.errors import InputError
from report_files import STRANGE, write_evaluation


def write(workdir, last="0.5"):
    """An evaluation of seven cases; the last has an estimate as given, the second has none."""
    write_evaluation(workdir, 7)
    path = workdir / "evaluation" / "per_case.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for number, row in enumerate(rows):
        row |= {"estimated_dice": 0.9 - number / 100, "unlike_training": ""}
        row |= {"volume_low_ml": float(row["truth_ml"]) - 1, "volume_high_ml": 500}
    rows[1] |= dict.fromkeys(("estimated_dice", "volume_low_ml", "volume_high_ml"), "")
    rows[1]["unlike_training"] = STRANGE
    rows[6]["estimated_dice"] = last
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return workdir / "evaluation"


def test_estimates_stand_beside_the_truth(tmp_path):
    folder = write(tmp_path / "run")
    page = write_report(folder).read_text()
    assert "Estimates beside the truth" in page and STRANGE not in page
    assert "6 of 7" in page and "6 of 6" in page  # with an estimate; within the interval
    review = write_evaluation_review(folder).read_text()
    assert "Estimated Dice" in review and "unlike the training cases in" in review
    assert "the estimated Dice is below 0.8" in review and STRANGE not in review


def test_an_evaluation_without_estimates_says_so(tmp_path):
    write_evaluation(tmp_path / "run", 3)
    page = write_report(tmp_path / "run" / "evaluation").read_text()
    assert "This evaluation has no estimates" in page


@pytest.mark.parametrize("value", ["many", "1e300"])
def test_a_damaged_estimate_is_refused(tmp_path, value):
    with pytest.raises(InputError, match=r"per_case\.csv cannot be read"):
        write_report(write(tmp_path / "run", value))
