"""python -m lagseg_jax.compare: hand-made masks with known scores, missing ones, other formats."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import lagseg_jax
from lagseg_jax.evaluation.compare import score_masks
from lagseg_jax.evaluation.mask_files import find_truth
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.imaging.labels import ONLY_VALUE, LabelRule
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.runtime.errors import InputError
from mask_folders import AFFINE, SHAPE, block, call, save

ROOT = Path(lagseg_jax.__file__).parent.parent


@pytest.fixture
def folders(tmp_path):
    """Truth of seven cases (value 420), A shifted by one voxel, B by two; both named by case."""
    for number in range(7):
        name = f"case_{number}.nii.gz"
        save(tmp_path / "truth" / name, np.int16(420) * block(2, 8))
        save(tmp_path / "a" / name, block(3, 9))
        save(tmp_path / "b" / name, np.uint8(255) * block(4, 10))
    return tmp_path / "truth", tmp_path / "a", tmp_path / "b"


def test_a_mask_of_another_structure_is_not_taken_for_an_atrium_in_silence(folders, capsys):
    """Of a tool of several classes, one case may hold nothing but another class than the atrium."""
    truth, a, b = folders
    assert call(truth, a) == 0 and "the only value" not in capsys.readouterr().err
    save(b / "case_3.nii.gz", np.uint8(2) * block(4, 10))
    assert call(truth, a, b) == 0
    said = "WARNING: b: the only value is 255 in 6 cases, 2 in 1 cases; all count as atrium"
    err = capsys.readouterr().err
    assert f"{said}, --prediction_value names its" in err and err.count("the only value") == 1
    assert call(truth, b, "--prediction_value", "255") == 0
    assert "the only value" not in capsys.readouterr().err


def test_scores_and_differences(folders, tmp_path, capsys):
    truth, a, b = folders
    (tmp_path / "out").mkdir()
    assert call(truth, a, b, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "|volume_error_ml|" in out and "|dice|" not in out  # magnitudes
    assert "0.8333" in out and "0.6667" in out and "better in 7, worse in 0" in out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["predictions"]["a"]["dice"]["mean"] == pytest.approx(5 / 6)
    assert found["predictions"]["a"]["dice"]["sd"] == pytest.approx(0, abs=1e-12)
    assert found["predictions"]["b"]["dice"]["mean"] == pytest.approx(4 / 6)
    (pair,) = found["comparisons"]
    assert (pair["a"], pair["b"]) == ("a", "b")
    dice, hd95 = pair["differences"]["dice"], pair["differences"]["hd95_mm"]
    assert dice["mean_difference"] == pytest.approx(1 / 6) and dice["wins"] == dice["n"] == 7
    assert dice["low"] == dice["high"] == pytest.approx(1 / 6)
    assert hd95["mean_difference"] == pytest.approx(-1.5) and hd95["wins"] == 7
    assert pair["differences"]["volume_error_ml"]["ties"] == 7
    with (tmp_path / "out" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["predictions"], row["case"]) for row in rows[::7]] == [
        ("a", "case_0"),
        ("b", "case_0"),
    ]
    expected = case_metrics(block(2, 8), block(3, 9), (1.5, 1.5, 3.0))
    for name, value in expected.items():
        assert float(rows[0][name]) == pytest.approx(value), name


def test_slices_are_those_of_the_coarsest_axis(tmp_path):
    affine = np.diag([3.0, 1.5, 1.5, 1.0])
    truth = save(tmp_path / "truth" / "c.nii.gz", block(2, 8), affine)
    save(tmp_path / "a" / "c.nii.gz", block(3, 9), affine)
    (scores,) = score_masks({"c": truth}, [tmp_path / "a"])
    assert scores.rows["c"]["slice_dice"] == pytest.approx(5 / 7)  # 5 slices of 7, each complete


def test_missing_shifted_and_damaged_masks_are_named_and_the_rest_is_scored(folders, capsys):
    truth, a, b = folders
    (a / "case_1.nii.gz").unlink()
    moved = AFFINE.copy()
    moved[2, 3] = 3
    save(a / "case_2.nii.gz", block(3, 9), moved)
    (b / "case_3.nii.gz").write_bytes(b"damaged")
    save(b / "other.nii.gz", block(3, 9))  # not a case: does not count
    assert call(truth, a, b) == 2
    out, err = capsys.readouterr()
    (line_a,) = [line for line in out.splitlines() if line.split()[:1] == ["a"]][:1]
    (line_b,) = [line for line in out.splitlines() if line.split()[:1] == ["b"]]
    assert line_a.split()[1:4] == ["5", "of", "7"] and line_b.split()[1:4] == ["6", "of", "7"]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for text in ("no mask of case_1", "a/case_2.nii.gz: position", "b/case_3.nii.gz: damaged"):
        assert text in err, err


def test_empty_predictions_score_zero_without_a_distance(folders):
    truth, a, _ = folders
    save(a / "case_0.nii.gz", 0 * block(3, 9))
    (scores,) = score_masks(find_truth(truth, None), [a])
    row = scores.rows["case_0"]
    assert row["dice"] == 0 and math.isnan(row["hd95_mm"]) and not scores.problems


def test_a_dataset_as_truth_and_nrrd_as_predictions(phantom, tmp_path):
    (tmp_path / "masks").mkdir()
    truth = find_truth(phantom, None)
    assert list(truth) == [f"train_{number}" for number in range(1, 7)]
    for name, path in truth.items():
        label = read_volume(path)
        write_mask(tmp_path / "masks" / f"{name}.nrrd", label.array != 0, label)
    (scores,) = score_masks(truth, [tmp_path / "masks"])
    assert [row["dice"] for row in scores.rows.values()] == [1.0] * 6


def test_only_the_test_cases_of_a_split(folders, tmp_path):
    truth, a, _ = folders
    names = [f"case_{number}" for number in range(7)]
    split = {"train": names[:4], "validation": names[4:5], "test": names[5:]}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(split))
    for name in names[:5]:
        (a / f"{name}.nii.gz").unlink()
    assert call(truth, a) == 2
    assert call(truth, a, f"--split={path}") == 0
    path.write_text(json.dumps(split | {"test": ["another"]}))
    with pytest.raises(InputError, match="another"):
        find_truth(truth, path)


def test_only_the_cases_of_a_list_of_verdicts(folders, tmp_path, capsys):
    truth, a, _ = folders
    csv_file, out = tmp_path / "verdicts.csv", tmp_path / "out"
    csv_file.write_text("case,verdict,note\ncase_1,accept,\ncase_5,reject,x\ncase_2,,\n")
    for options, cases in (
        ([], ["case_1", "case_2", "case_5"]),
        (["--verdict=reject"], ["case_5"]),
        (["--verdict=accept,reject"], ["case_1", "case_5"]),
    ):
        assert call(truth, a, "--cases", csv_file, *options, "--output", out) == 0
        rows = list(csv.DictReader((out / "per_case.csv").open()))
        assert [row["case"] for row in rows] == cases
    capsys.readouterr()
    assert call(truth, a, "--cases", csv_file, "--verdict=rejct") == 2
    assert "did you mean reject?" in capsys.readouterr().err
    assert call(truth, a, "--verdict=reject") == 2
    assert "without --cases" in capsys.readouterr().err


def test_values_of_labels_with_several(folders):
    truth, a, _ = folders
    for name in truth.iterdir():
        both = read_volume(name).array.copy()
        both[0, 0, 0] = 1  # a scar voxel beside the atrium
        save(name, both)
    (scores,) = score_masks(find_truth(truth, None), [a])
    assert not scores.rows and len(scores.problems) == 7
    (scores,) = score_masks(find_truth(truth, None), [a], (LabelRule(420), LabelRule(1)))
    assert [row["dice"] for row in scores.rows.values()] == [pytest.approx(5 / 6)] * 7


def test_folders_of_one_name_keep_their_paths(folders, tmp_path):
    truth, a, _ = folders
    (tmp_path / "x").mkdir()
    a.rename(tmp_path / "x" / "truth")
    one, other = score_masks(find_truth(truth, None), [tmp_path / "x" / "truth", truth])
    assert (one.name, other.name) == (str(tmp_path / "x" / "truth"), str(truth))


def test_refusals(folders, tmp_path, capsys):
    truth, a, b = folders
    (tmp_path / "empty").mkdir()
    save(tmp_path / "strangers" / "x.nii.gz", block(1, 3))
    save(b / "case_0.nii", block(1, 3))
    for arguments, found in (
        ((truth, tmp_path / "nothing"), "no such folder"),
        ((truth, tmp_path / "empty"), "no masks"),
        ((truth, tmp_path / "strangers"), "such as case_0"),
        ((truth, b), "also there as"),
        ((tmp_path / "nothing", a), "no such folder"),
        ((tmp_path / "empty", a), "empty folder"),
    ):
        assert call(*arguments) == 2
        err = capsys.readouterr().err
        assert found in err and err.count("\n") == 1, err


def test_a_mask_above_the_cap_is_named(folders, capsys):
    truth, a, _ = folders
    assert call(truth, a, "--max_gb=0.000001") == 2
    assert "at most 1000" in capsys.readouterr().err


def test_the_masks_of_an_evaluation_give_its_summary_again(finished_run, phantom, tmp_path):
    masks = finished_run / "evaluation" / "masks"
    split = finished_run / "splits.json"
    assert call(phantom, masks, f"--split={split}", "--output", tmp_path) == 0
    found = json.loads((tmp_path / "comparison.json").read_text())["predictions"]["masks"]
    summary = json.loads((finished_run / "evaluation" / "summary.json").read_text())
    for metric in ("dice", "iou", "hd95_mm", "assd_mm", "volume_error_ml", "slice_dice"):
        assert found[metric] == pytest.approx(summary[metric]), metric


def test_as_a_program_without_jax(folders):
    script = (
        "import sys; from lagseg_jax import compare; from lagseg_jax.runtime import console; "
        "status = console.exit_status(compare.main); print('jax' in sys.modules); sys.exit(status)"
    )
    line = [sys.executable, "-c", script, *map(str, folders)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("False\n"), done.stderr


def test_masks_off_the_grid_can_be_allowed_and_orientations_told(folders, tmp_path, capsys):
    truth, a, _ = folders
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.5
    save(a / "case_3.nii.gz", block(3, 9), shifted)
    assert call(truth, a) == 2 and "voxels apart" in capsys.readouterr().err
    assert call(truth, a, "--allow=geometry") == 0 and "0.8333" in capsys.readouterr().out
    image = nib.Nifti1Image(block(3, 9), None)
    image.header.set_zooms((1.5, 1.5, 3.0))
    nib.save(image, a / "case_3.nii.gz")
    assert call(truth, a, "--allow=geometry") == 2
    assert "--orientation" in capsys.readouterr().err
    assert call(truth, a, "--orientation=LPS", "--allow=geometry", "--output", tmp_path / "o") == 0
    told = json.loads((tmp_path / "o" / "comparison.json").read_text())["told"]
    assert told == {"orientation": "LPS", "allow": "geometry"}


def test_a_case_that_cannot_be_scored_has_a_row_and_counts(folders, tmp_path, capsys):
    """A class that a tool did not find, a missing and a damaged file are Dice 0, and said."""
    truth, a, _ = folders
    (a / "case_1.nii.gz").unlink()
    (a / "case_2.nii.gz").write_bytes(b"damaged")
    save(a / "case_3.nii.gz", np.uint8(2) * block(3, 9))  # another class only
    assert call(truth, a, "--prediction_value=1", "--output", tmp_path / "out") == 2
    assert "5 of 7" in capsys.readouterr().out
    with (tmp_path / "out" / "per_case.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7 and rows["case_3"]["dice"] == "0.0" and not rows["case_3"]["problem"]
    assert rows["case_1"]["dice"] == "0.0" and rows["case_1"]["hd95_mm"] == ""
    assert "no mask of case_1" in rows["case_1"]["problem"]
    assert "damaged" in rows["case_2"]["problem"]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["predictions"]["a"]
    assert (found["n_cases"], found["n_missing"], found["dice"]["n"]) == (7, 2, 7)
    assert found["dice"]["mean"] == pytest.approx(4 / 7 * 5 / 6)
    assert np.mean([float(row["dice"]) for row in rows.values()]) == found["dice"]["mean"]


def test_pairs_are_the_cases_of_both_and_a_case_without_truth_counts_for_nobody(
    folders, tmp_path, capsys
):
    truth, a, b = folders
    (a / "case_1.nii.gz").unlink()
    (truth / "case_2.nii.gz").write_bytes(b"damaged")
    assert call(truth, a, b, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().out
    assert "over the 5 of 7 cases of both" in said and "counts as Dice and IoU of 0" in said
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    counts = {n: [p[n] for p in found["predictions"].values()] for n in ("n_cases", "n_missing")}
    assert counts == {"n_cases": [6, 6], "n_missing": [1, 0]}
    assert found["comparisons"][0]["n_common"] == 5
    assert found["comparisons"][0]["differences"]["dice"]["n"] == 5


def test_merged_values_score_as_one_mask(folders, tmp_path):
    truth, a, _ = folders
    parts = np.where(np.arange(SHAPE[0])[:, None, None] < 5, 1, 2) * block(2, 8)
    for path in truth.iterdir():
        save(path, parts.astype(np.int16))
    (scores,) = score_masks(find_truth(truth), [a], (LabelRule((1, 2)), ONLY_VALUE))
    assert len(scores.rows) == 7
    assert all(row["dice"] == pytest.approx(5 / 6) for row in scores.rows.values())
    assert call(truth, a, "--label_value=1,2") == 0 and call(truth, a) == 2
