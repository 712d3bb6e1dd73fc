"""predict: scans whose axes are unknown, other than trained on, or sheared."""

import json

import numpy as np
import pytest

from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from predict_calls import call, scan

pytestmark = pytest.mark.usefixtures("console_for_caplog")


def test_an_unknown_orientation_is_refused_until_told_and_every_output_says_it(
    finished_run, phantom, tmp_path, caplog
):
    path = scan(phantom, tmp_path / "a.nii.gz", code=0)
    how = ["--workdir", finished_run, "-i", path, "-o", tmp_path / "out", "--statistics"]
    assert call(*how) == 2
    assert "orientation is not known" in caplog.text and "--orientation" in caplog.text
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    assert call(*how, "--orientation=LPS") == 0
    assert "LPS as told" in caplog.text
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert found["orientation"] == "LPS" and "LPS as told" in found["cases"][0]["remarks"]
    assert "LPS as told" in (tmp_path / "out" / "statistics.csv").read_text()
    mask = read_volume(tmp_path / "out" / "a.nii.gz", Reading(orientation="LPS"))
    assert "LPS as told" in str(mask.header["descrip"])
    # The phantom is LPS: what is told gives what its own header gives.
    scan(phantom, tmp_path / "b.nii.gz")
    assert call("--workdir", finished_run, "-i", tmp_path / "b.nii.gz", "-o", tmp_path / "own") == 0
    np.testing.assert_array_equal(mask.array, read_volume(tmp_path / "own" / "b.nii.gz").array)


def test_a_plane_that_was_not_trained_on_is_refused_unless_told(
    finished_run, phantom, tmp_path, caplog
):
    assert json.loads((finished_run / "planes.json").read_text()) == {"planes": ["axial"]}
    path = scan(phantom, tmp_path / "a.nii.gz", np.diag([-1.4, -8.0, 1.4, 1.0]))
    how = ["--workdir", finished_run, "-i", path, "-o", tmp_path / "out"]
    assert call(*how) == 2
    assert f"{path}: coronal slices of 8 mm" in caplog.text and "--plane=axial" in caplog.text
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    for plane in ("axial", "coronal"):
        assert call(*how, f"--plane={plane}", "--preview", "--statistics") == 0
        assert f"--plane cuts all volumes into {plane} slices" in caplog.text
        found = json.loads((tmp_path / "out" / "statistics.json").read_text())
        assert found["plane"] == plane


def test_a_field_of_view_unlike_those_of_the_training_is_said(
    finished_run, phantom, tmp_path, caplog
):
    """47 x 2.5 mm in training; the same voxels of 7.5 mm show a chest, not a heart."""
    for name, size in (("a", 2.5), ("b", 2.25), ("c", 7.5)):
        scan(phantom, tmp_path / f"{name}.nii.gz", np.diag([-size, -size, 12.0, 1.0]))
    out = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", tmp_path, "-o", out, "--statistics") == 0
    assert caplog.text.count("a field of view of 352 mm, where those of the training have 118") == 1
    said = [case["remarks"] for case in json.loads((out / "statistics.json").read_text())["cases"]]
    assert ["field of view" in one for one in said] == [False, False, True]


def test_a_near_isotropic_scan_is_cut_as_the_training_cases(finished_run, phantom, tmp_path):
    for name, height in (("a", 5.0), ("b", 2.4), ("c", 2.0)):
        scan(phantom, tmp_path / f"{name}.nii.gz", np.diag([-2.5, -2.5, height, 1.0]))
    assert call("--workdir", finished_run, "-i", tmp_path, "-o", tmp_path / "out") == 0
    a, b, c = (read_volume(tmp_path / "out" / f"{name}.nii.gz").array for name in "abc")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_a_sheared_volume_is_named_and_measured_by_its_affine(
    finished_run, phantom, tmp_path, caplog
):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(30))
    affine = np.diag([-2.5, -2.5, 5.0, 1.0])
    scan(phantom, tmp_path / "a.nii.gz", affine)
    scan(phantom, tmp_path / "b.nii.gz", shear @ affine)
    out = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", tmp_path, "-o", out, "--statistics") == 0
    assert "b.nii.gz: sheared by 30.0 degrees" in caplog.text
    a, b = json.loads((out / "statistics.json").read_text())["cases"]
    assert a["volume_ml"] == pytest.approx(b["volume_ml"]) and a["voxels"] == b["voxels"] > 0
    assert "sheared" not in a["remarks"] and "sheared" in b["remarks"]
