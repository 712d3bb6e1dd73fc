"""Estimates of Dice and volume on their way from an evaluation through predict to its pages."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest

from lagseg_jax import calibrate, evaluate
from lagseg_jax.inference.uncertainty import COLUMNS, UNLIKE
from lagseg_jax.inference.uncertainty_record import UNCERTAINTY, read_uncertainty, record_path
from lagseg_jax.runtime.console import exit_status
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
def run(finished_run, tmp_path, caplog, monkeypatch):
    """A copy of the run, to which no case is unlike."""
    caplog.set_level(logging.INFO)
    for command in (calibrate, evaluate):
        monkeypatch.setattr(command, "log_to_console", lambda: None)
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "training_range.json").unlink()
    return workdir


def test_an_evaluation_measures_and_applies_its_uncertainty(finished_run):
    content = json.loads((finished_run / "uncertainty.json").read_text())
    assert read_uncertainty(finished_run / UNCERTAINTY).cases == len(content["validation"]) == 1
    trained = json.loads((finished_run / "training_range.json").read_text())
    assert {len(values) for values in trained.values()} == {3}
    assert set(trained) == {"volume_ml", "brightness", "contrast", "roughness", "field_mm"}
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
    found = read_uncertainty(run / UNCERTAINTY)
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


def calibrated(*arguments):
    return exit_status(lambda: calibrate.main(["--estimates", *map(str, arguments)]))


def test_an_ensemble_has_no_estimates_until_they_are_measured(run, scans, tmp_path, caplog):
    """Twice the same model is that model, so that what is known of one is right for both."""
    common = "--workdir", run, run, "-i", scans, "-o", tmp_path / "out", "--statistics", "--resume"
    before = (run / UNCERTAINTY).read_bytes()
    assert call(*common) == 0
    assert f"no estimates of Dice and volume: lagseg_jax.calibrate --estimates {run} {run} " in (
        caplog.text
    )
    without = rows_of(tmp_path / "out")
    assert not any(row.get("estimated_dice") for row in without.values())
    assert calibrated(run, run) == 0
    (path,) = set(run.glob("uncertainty*.json")) - {run / UNCERTAINTY}
    assert read_uncertainty(path) == read_uncertainty(run / UNCERTAINTY)
    assert (run / UNCERTAINTY).read_bytes() == before
    caplog.clear()
    assert call(*common) == 0
    assert "already there: 0, to do: 2" in caplog.text and "no estimates" not in caplog.text
    assert all(row["estimated_dice"] > 0 for row in rows_of(tmp_path / "out").values())
    assert call(*common) == 0
    assert "already there: 2, to do: 0" in caplog.text
    assert call(*common, "--keep_components=0") == 0
    assert "no estimates of Dice and volume: they were measured with --keep_components=1" in (
        caplog.text
    )
    assert not any(row.get("estimated_dice") for row in rows_of(tmp_path / "out").values())


def test_mirrorings_are_measured_apart(run, scans, tmp_path, caplog):
    common = "--workdir", run, "-i", scans / "1.nii.gz", "--statistics", "--tta"
    assert calibrated(run, "--tta") == 0
    assert call(*common, "-o", tmp_path / "out") == 0
    assert "no estimates" not in caplog.text
    (path,) = set(run.glob("uncertainty*.json")) - {run / UNCERTAINTY}
    alone, mirrored = (read_uncertainty(one) for one in (run / UNCERTAINTY, path))
    assert alone != mirrored and alone.step == mirrored.step
    content = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert content["uncertainty"]["shift"] == mirrored.shift


def test_only_the_very_same_models_find_what_was_measured(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    metadata = max((other / "checkpoints").glob("*/extra/metadata"))
    metadata.write_bytes(metadata.read_bytes() + b" ")  # as if other parameters were recorded
    paths = {record_path(runs, tta) for runs in ([run, run], [run, other]) for tta in (0, 1)}
    assert len(paths) == 4
    assert record_path([run, run, other], False) == record_path([run, other, run], False)
    assert record_path([run, other], False) != record_path([other, run], False)  # who is the first
    config = json.loads((run / "config.json").read_text())
    config["predict"]["threshold"] = 0.4
    (run / "config.json").write_text(json.dumps(config))
    assert record_path([run, run], False) not in paths


def test_an_ensemble_is_measured_on_cases_that_none_has_learnt_from(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    split = json.loads((other / "splits.json").read_text())
    split["train"][0], split["validation"][0] = split["validation"][0], split["train"][0]
    (other / "splits.json").write_text(json.dumps(split))
    assert calibrated(run, other) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: no validation case is one of all of {run}, {other}, expected")
    assert list(run.glob("uncertainty*.json")) == [run / UNCERTAINTY]
    for arguments, found in (([run, other], "several runs given"), ([run, "--tta"], "--tta given")):
        assert exit_status(lambda given=arguments: calibrate.main([*map(str, given)])) == 2
        assert f"error: {found}" in capsys.readouterr().err


def test_an_evaluation_of_an_ensemble_has_the_estimates_that_were_measured(run, phantom, tmp_path):
    def columns(name, *more):
        arguments = "--workdir", *more, f"--data={phantom}", f"--output={tmp_path / name}"
        split = f"--split={run / 'splits.json'}"
        assert exit_status(lambda: evaluate.main([*map(str, arguments), split])) == 0
        with (tmp_path / name / "per_case.csv").open() as file:
            return list(csv.DictReader(file))

    assert not set(COLUMNS) & set(columns("none", run, run)[0])
    assert calibrated(run, run) == 0
    assert columns("both", run, run) == columns("one", run)


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
