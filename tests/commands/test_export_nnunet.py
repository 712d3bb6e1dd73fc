"""python -m lagseg_jax.export_nnunet: nnU-Net gets the same cases, split and voxels."""

import json
import shutil

import nibabel
import numpy as np
import pytest

import tiny_run
from lagseg_jax import export_nnunet
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.evaluation.nnunet_export import export_dataset
from lagseg_jax.imaging.labels import read_image_and_label
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256


def call(workdir, output, *more):
    return exit_status(
        lambda: export_nnunet.main([f"--workdir={workdir}", f"--output={output}", *more])
    )


def test_nnunets_folder_has_the_same_cases_and_voxels(finished_run, phantom, tmp_path, capsys):
    before = {p: file_sha256(p) for p in finished_run.rglob("*") if p.is_file()}
    truth = {case.name: case for case in detect(phantom).cases}
    split = json.loads((finished_run / "splits.json").read_text())
    output = tmp_path / "nnUNet_raw" / "Dataset501_LeftAtrium"
    assert call(finished_run, output) == 0
    found = detect(output)
    assert found.layout == "nnU-Net raw" and found.unlabelled == len(split["test"])
    assert {case.name for case in found.cases} == set(split["train"] + split["validation"])
    for case in found.cases:
        written = read_image_and_label(case.image, case.label)
        expected = read_image_and_label(truth[case.name].image, truth[case.name].label)
        for one, other in zip(written, expected):
            np.testing.assert_array_equal(one.array, other.array)
            np.testing.assert_allclose(one.affine, other.affine)
    assert {path.name for path in (output / "imagesTs").iterdir()} == {
        f"{name}_0000.nii.gz" for name in split["test"]
    }
    assert not (output / "labelsTs").exists()
    (fold,) = json.loads((output / "splits_final.json").read_text())
    assert fold == {"train": split["train"], "val": split["validation"]}
    description = json.loads((output / "dataset.json").read_text())
    assert description["numTraining"] == 4 and description["channel_names"] == {"0": "MRI"}
    assert before == {p: file_sha256(p) for p in finished_run.rglob("*") if p.is_file()}

    capsys.readouterr()
    assert call(finished_run, output) == 2  # not even over its own
    assert "is there, expected the name of a new folder" in capsys.readouterr().err
    assert call(finished_run, tmp_path / "atrium") == 2
    assert "Dataset501_LeftAtrium" in capsys.readouterr().err


@pytest.mark.parametrize(("rule", "expected"), [("label_value", 7), ("label_threshold", 100.0)])
def test_labels_are_read_as_the_run_reads_them(phantom, tmp_path, rule, expected):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    case = detect(data).cases[0]
    image = nibabel.load(case.label)
    voxels = np.asarray(image.dataobj).copy()
    voxels[:3, :5, :7] = 7
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), case.label)
    config = tiny_run.config(data).data
    config[rule] = expected
    output = tmp_path / "Dataset007_Test"
    export_dataset({"train": [case], "validation": [], "test": []}, config, output)
    written = np.asarray(nibabel.load(output / "labelsTr" / f"{case.name}.nii.gz").dataobj)
    atrium = voxels == 7 if rule == "label_value" else voxels >= 100
    np.testing.assert_array_equal(written, atrium)


def test_what_fails_leaves_nothing(phantom, tmp_path):
    good, bad = detect(phantom).cases[:2]
    bad = type(bad)(bad.name, bad.patient, bad.image, tmp_path / "gone.nii.gz")
    folder = tmp_path / "raw"
    split = {"train": [good], "validation": [bad], "test": []}
    with pytest.raises(InputError, match=r"gone\.nii\.gz"):
        export_dataset(split, tiny_run.config(phantom).data, folder / "Dataset007_Test")
    assert list(folder.iterdir()) == []


def test_a_run_that_has_not_begun_is_refused(finished_run, tmp_path, capsys):
    shutil.copy(finished_run / "config.json", tmp_path)
    assert call(tmp_path, tmp_path / "Dataset007_Test") == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
