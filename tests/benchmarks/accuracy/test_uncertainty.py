"""Estimates beside the truth: the table by hand, spoilt volumes, and the command on a run."""

import json

import numpy as np
import pytest

from benchmarks.accuracy import uncertainty
from benchmarks.accuracy.corruptions import CORRUPTIONS, corrupted
from benchmarks.accuracy.uncertainty import CLEAN, estimates, numbers, redivided, spearman


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_a_spoilt_volume_is_another_one_the_same_each_time(how):
    volume = np.random.default_rng(0).integers(0, 900, (17, 13, 11)).astype(np.int16)
    found = corrupted(volume, how, 3)
    assert found.shape == volume.shape and found.dtype == np.float32 and found.min() >= 0
    np.testing.assert_array_equal(found, corrupted(volume, how, 3))
    assert not np.allclose(found, volume) and not np.allclose(found, corrupted(volume, how, 4))


def row(number, dice, part="test", unlike=()):
    values = {"run": "r", "part": part, "case": str(number), "how": CLEAN, "unlike": list(unlike)}
    values |= {"dice": dice, "stability": dice, "truth_ml": 90 + number % 3}
    return values | {"prediction_ml": 91.0}


def test_what_has_no_estimate_or_a_low_one_is_flagged():
    rows = [row(n, 0.9 - n / 100) for n in range(20)]
    rows[0]["unlike"] = ["contrast"]
    rows += [row(n, 0.8, "validation") for n in range(20, 26)]
    found = numbers(estimates(rows, "r"))
    assert (found["cases"], found["n"], found["flagged"]) == (20, 19, 5)
    assert found["worst_tenth"] == found["worst_flagged"] == 2
    np.testing.assert_allclose([found["spearman"], found["mean_absolute_error"]], [1, 0], atol=1e-9)
    assert 0.8 < redivided(rows, "r") <= 1
    np.testing.assert_allclose(spearman(rows, "r"), 1)  # a shift of the calibration is no matter
    rows[1]["stability"], rows[2]["stability"] = rows[2]["stability"], rows[1]["stability"]
    assert 0.9 < spearman(rows, "r") < 1 and np.isnan(spearman(rows[:2], "r"))


def test_the_command_goes_on_where_it_was(finished_run, tmp_path, capsys, monkeypatch):
    path = tmp_path / "sure.json"
    arguments = ["--run", str(finished_run), f"--output={path}"]
    assert uncertainty.main(arguments) == 0
    content = json.loads(path.read_text())
    assert [one["part"] for one in content["rows"]] == ["validation", "test", "test"]
    assert f"| {CLEAN} | 2 |" in capsys.readouterr().out
    monkeypatch.setattr(uncertainty, "load_segmenter", None)
    assert uncertainty.main(arguments) == 0
    assert json.loads(path.read_text())["rows"] == content["rows"]


def test_several_runs_are_one_table_or_one_model(finished_run, tmp_path):
    """Twice the same model is that model, mirrored or not; its cases count once."""
    path = tmp_path / "sure.json"
    both = ["--run", str(finished_run), str(finished_run), f"--output={path}"]
    assert uncertainty.main(both) == 0
    assert uncertainty.main([*both, "--ensemble"]) == 0
    rows = json.loads(path.read_text())["rows"]
    alone, together = rows[:3], rows[3:]
    assert together == [one | {"run": "tiny and tiny"} for one in alone]
    assert uncertainty.main([*both[:2], both[3], "--tta"]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [one["run"] for one in rows[6:]] == ["tiny and mirrorings"] * 3
    assert [one["stability"] for one in rows[6:]] != [one["stability"] for one in alone]
