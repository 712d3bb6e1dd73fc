"""Estimates of Dice and volume on their way from an evaluation through predict to its pages."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest

from lagseg_jax.inference.uncertainty import COLUMNS, UNLIKE, read_uncertainty
from predict_calls import call, rows_of

pytestmark = pytest.mark.usefixtures("console_for_caplog")
NUMBERS = [name for name in COLUMNS if name != UNLIKE]


@pytest.fixture
def scans(phantom, tmp_path):
    """Two cases in a folder."""
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        source = phantom / "task2" / "train_data" / f"train_{number}" / "enhanced.nii.gz"
        shutil.copy(source, tmp_path / "in" / f"{number}.nii.gz")
    return tmp_path / "in"


@pytest.fixture
def run(finished_run, tmp_path, caplog):
    """A copy of the run, to which no case is unlike."""
    caplog.set_level(logging.INFO)
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "training_range.json").unlink()
    return workdir


def test_an_evaluation_measures_and_applies_its_uncertainty(finished_run):
    content = json.loads((finished_run / "uncertainty.json").read_text())
    assert read_uncertainty(finished_run).cases == len(content["validation"]) == 1
    trained = json.loads((finished_run / "training_range.json").read_text())
    assert {len(values) for values in trained.values()} == {3}
    assert set(trained) == {"volume_ml", "brightness", "contrast", "roughness"}
    with (finished_run / "evaluation" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(set(COLUMNS) <= set(row) for row in rows)
    page = (finished_run / "evaluation" / "report.html").read_text()
    assert "Estimates beside the truth" in page
    assert "Estimated Dice" in (finished_run / "evaluation" / "review.html").read_text()


def test_statistics_have_the_estimates_whatever_else_is_written(run, scans, tmp_path, caplog):
    common = "--workdir", run, "-i", scans, "--statistics"
    assert call(*common, "-o", tmp_path / "a", "--review") == 0
    assert "estimates: calibrated on 1 validation case: few" in caplog.text
    rows = rows_of(tmp_path / "a")
    found = read_uncertainty(run)
    for row in rows.values():
        assert 0 < row["estimated_dice"] < 1 and row[UNLIKE] == ""
        assert 0 < row["volume_low_ml"] <= row["volume_ml"] <= row["volume_high_ml"]
    content = json.loads((tmp_path / "a" / "statistics.json").read_text())
    assert content["uncertainty"]["cases"] == found.cases and set(NUMBERS) <= set(content["units"])
    page = (tmp_path / "a" / "review.html").read_text()
    assert "Estimated Dice" in page and "the estimated Dice is below 0.8" in page
    # All slices are computed for a map, few of them without.
    assert call(*common, "-o", tmp_path / "b", "--save_probabilities") == 0
    for case, row in rows_of(tmp_path / "b").items():
        values = [[one[name] for name in NUMBERS] for one in (row, rows[case])]
        np.testing.assert_allclose(*values, rtol=1e-6)


def test_estimates_of_another_model_than_was_measured_are_called_guesses(
    run, scans, tmp_path, caplog
):
    common = "--workdir", run, "-i", scans / "1.nii.gz", "--statistics"
    assert call(*common, "-o", tmp_path / "a") == 0
    assert "are guesses" not in caplog.text
    assert call(*common, "-o", tmp_path / "b", "--tta") == 0
    assert "are guesses" in caplog.text


def test_without_an_evaluation_nothing_is_estimated_and_later_it_is(run, scans, tmp_path, caplog):
    (run / "uncertainty.json").rename(run / "away.json")
    common = "--workdir", run, "-i", scans, "-o", tmp_path / "out", "--statistics"
    assert call(*common) == 0
    assert "no estimates of Dice and volume" in caplog.text
    assert all(row[name] is None for row in rows_of(tmp_path / "out").values() for name in NUMBERS)
    (run / "away.json").rename(run / "uncertainty.json")
    assert call(*common, "--resume") == 0
    assert "cases already there: 0, to do: 2" in caplog.text
    assert all(row["estimated_dice"] for row in rows_of(tmp_path / "out").values())
    assert call(*common, "--resume") == 0
    assert "cases already there: 2, to do: 0" in caplog.text


def test_a_case_unlike_the_training_cases_has_no_estimate(run, scans, tmp_path, caplog):
    trained = {"volume_ml": [90.0, 91.0, 92.0, 93.0], "brightness": [7.0, 7.1, 7.2, 7.1]}
    (run / "training_range.json").write_text(json.dumps(trained))
    assert call("--workdir", run, "-i", scans, "-o", tmp_path / "out", "--statistics") == 0
    for row in rows_of(tmp_path / "out").values():
        assert [row[name] for name in NUMBERS] == [None] * 3
        assert row[UNLIKE] == "volume_ml, brightness"
        assert "unlike the training cases in volume_ml, brightness" in row["remarks"]
    assert "nothing is estimated" in caplog.text
