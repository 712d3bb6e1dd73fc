"""The command line of predict for the tests."""

import json

import nibabel
import numpy as np

from lagseg_jax import predict
from lagseg_jax.runtime.console import exit_status


def names_in(folder):
    """What a prediction leaves right in its folder, but for the records."""
    return sorted(path.name for path in folder.iterdir() if path.name != "records")


def call(*arguments):
    return exit_status(lambda: predict.main([str(a) for a in arguments]))


def rows_of(folder):
    return {
        row["case"]: row for row in json.loads((folder / "statistics.json").read_text())["cases"]
    }


def scan(phantom, path, affine=None, code=1, voxels=None):
    """A phantom's volume with another affine or voxels; code 0: the file does not say its axes."""
    image = nibabel.load(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    affine = image.affine if affine is None else affine
    other = nibabel.Nifti1Image(np.asarray(image.dataobj) if voxels is None else voxels, affine)
    other.set_sform(affine, code)
    other.set_qform(None, 0)
    nibabel.save(other, path)
    return path
