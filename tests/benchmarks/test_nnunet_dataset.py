"""python -m benchmarks.nnunet_dataset: nnU-Net gets the same cases and voxels."""

import json

import numpy as np
import pytest

from benchmarks import nnunet_dataset
from lagseg_jax.data.layouts import detect
from lagseg_jax.data.split import write_split
from lagseg_jax.imaging.labels import read_image_and_label
from lagseg_jax.runtime.errors import InputError


def test_nnunets_folder_has_the_same_cases_and_voxels(phantom, tmp_path):
    truth = {case.name: case for case in detect(phantom).cases}
    names = sorted(truth)
    split = {"train": names[:3], "validation": names[3:4], "test": names[4:]}
    write_split(tmp_path / "splits.json", split)
    output = tmp_path / "Dataset501_LeftAtrium"
    command = [f"--data={phantom}", f"--split={tmp_path / 'splits.json'}", f"--output={output}"]
    assert nnunet_dataset.main(command) == 0
    found = detect(output)
    assert found.layout == "nnU-Net raw" and found.unlabelled == len(split["test"])
    assert {case.name for case in found.cases} == set(split["train"] + split["validation"])
    for case in found.cases:
        written = read_image_and_label(case.image, case.label)
        expected = read_image_and_label(truth[case.name].image, truth[case.name].label)
        for one, other in zip(written, expected):
            np.testing.assert_array_equal(one.array, other.array)
            np.testing.assert_allclose(one.affine, other.affine)
    (fold,) = json.loads((output / "splits_final.json").read_text())
    assert fold == {"train": split["train"], "val": split["validation"]}
    with pytest.raises(InputError, match="is there, expected the name of a new folder"):
        nnunet_dataset.main(command)
