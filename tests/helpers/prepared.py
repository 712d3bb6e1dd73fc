"""Two small cases and the way they are prepared."""

import nibabel as nib
import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.data.prepare import Preparation, prepare_cases

SHAPE = (13, 11, 5)
AFFINE = np.diag([-1.25, -1.25, 2.5, 1.0])
PREPARATION = Preparation(image_size=28, clip_percentiles=(0.5, 99.5), label_value=0)


def write_case(folder, number):
    rng = np.random.default_rng(number)
    arrays = {"image": rng.integers(0, 500, SHAPE), "label": 420 * (rng.integers(0, 3, SHAPE) // 2)}
    paths = {}
    for part, array in arrays.items():
        paths[part] = folder / f"{part}_{number}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.int16), AFFINE), paths[part])
    return Case(f"case_{number}", f"patient_{number}", paths["image"], paths["label"])


def prepare(cases, folder, preparation=PREPARATION, max_gb=1.0):
    return prepare_cases(cases, preparation, folder, max_gb)


def names(folder):
    return {entry.name for entry in folder.iterdir()}
