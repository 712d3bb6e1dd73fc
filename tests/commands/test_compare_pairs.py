"""compare: which cases form pairs, and the differences between them by hand."""

import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from lagseg_jax.evaluation.compare import Scores, compare_pair
from lagseg_jax.evaluation.mask_files import find_truth
from lagseg_jax.evaluation.metrics import case_metrics
from mask_folders import block, call, save


def rows(values):
    """Scores whose Dice are given; the other metrics follow it."""
    return {
        f"{i}": {"dice": v, "iou": v / 2, "hd95_mm": 10 - v, "assd_mm": 1 - v, "volume_error_ml": v}
        for i, v in enumerate(values)
    }


def test_the_pair_by_hand():
    one, other = [0.9, 0.8, 0.7, 0.9, 0.6, 0.75, 0.5], [0.8, 0.85, 0.5, 0.6, 0.55, 0.6, 0.5]
    difference = np.subtract(one, other)
    row = compare_pair(Scores("a", rows(one), {}), Scores("b", rows(other), {}))["dice"]
    assert row["mean_difference"] == pytest.approx(difference.mean())
    assert (row["wins"], row["losses"], row["ties"], row["n"]) == (5, 1, 1, 7)
    assert row["low"] < row["mean_difference"] < row["high"]
    assert row["p"] == pytest.approx(wilcoxon(difference).pvalue)


def test_only_common_cases_with_defined_metrics_are_compared():
    a, b = rows([0.9, 0.8, 0.7]), rows([0.5, 0.6, 0.8, 0.9])
    b["1"]["hd95_mm"] = math.nan
    differences = compare_pair(Scores("a", a, {}), Scores("b", b, {}))
    assert differences["dice"]["n"] == 3 and differences["hd95_mm"]["n"] == 2
    assert differences["dice"]["p"] is None  # too few pairs for a test
    nothing = compare_pair(Scores("a", a, {}), Scores("b", {}, {}))["dice"]
    assert nothing["n"] == 0 and nothing["mean_difference"] is None


def test_the_magnitude_of_the_volume_error_counts():
    a, b = rows([1.0]), rows([1.0])
    a["0"]["volume_error_ml"], b["0"]["volume_error_ml"] = -5.0, 2.0
    row = compare_pair(Scores("a", a, {}), Scores("b", b, {}))["volume_error_ml"]
    assert row["mean_difference"] == 3.0 and row["losses"] == 1


def test_distances_in_sheared_volumes_follow_the_affine():
    """Two voxels, 4 steps apart along y and z, at 20 degrees of shear: 14.87 mm."""
    a, b = np.zeros((2, 20, 20, 20), np.uint8)
    a[10, 5, 5] = b[10, 9, 9] = 1
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(20))
    affine = shear @ np.diag([1.5, 1.5, 2.75, 1])
    row = case_metrics(a, b, affine)
    expected = np.linalg.norm(affine[:3, :3] @ [0, 4, 4])
    assert (
        row["hd95_mm"]
        == row["assd_mm"]
        == pytest.approx(expected)
        == pytest.approx(14.87, abs=0.01)
    )
    assert row["truth_ml"] == pytest.approx(1.5 * 1.5 * 2.75 / 1000)


def test_truth_of_any_naming(tmp_path, caplog):
    """Pairs in a folder are recognised; patterns and tables name the rest, labels alone suffice."""
    mask = block(2, 8)
    for name in ("P1", "P2"):
        save(tmp_path / "flat" / f"{name}_lge.nii.gz", np.int16(3) + 2 * block(1, 9))
        save(tmp_path / "flat" / f"{name}_la.nii.gz", mask)
        save(tmp_path / "a" / f"{name}.nii.gz", mask)
    told = ("*_lge.nii.gz", "*_la.nii.gz")
    (tmp_path / "flat/t.csv").write_text("image,label\nP1_lge.nii.gz,P1_la.nii.gz\n")
    for names in ((), told, ("", "*_la.nii.gz")):
        truth = find_truth(tmp_path / "flat", None, *names)
        assert {n: path.name for n, path in truth.items()} == {n: f"{n}_la.nii.gz" for n in truth}
        assert list(truth) == ["P1", "P2"]
    assert list(find_truth(tmp_path / "flat", None, "t.csv")) == ["P1_lge"]
    arguments = (tmp_path / "flat", tmp_path / "a", "--labels=*_la.nii.gz")
    assert call(*arguments) == 0
    assert call(tmp_path / "flat", tmp_path / "a", "--labels=*_seg.nii.gz") == 2


def test_truth_of_several_datasets_has_the_names_of_a_run_on_them(tmp_path):
    for name in ("a", "b"):
        for part in ("lge", "la"):
            save(tmp_path / name / f"P1_{part}.nii.gz", block(2, 8))
        save(tmp_path / "masks" / f"{name}_P1.nii.gz", block(2, 8))
    roots = (f"{tmp_path / 'a'}", f"b={tmp_path / 'b'}")
    assert list(find_truth(roots)) == ["a_P1", "b_P1"]
    assert list(find_truth(roots[1])) == ["b_P1"]
    assert call(roots, tmp_path / "masks", f"--output={tmp_path / 'out'}") == 0
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert content["predictions"]["masks"]["n_cases"] == 2
