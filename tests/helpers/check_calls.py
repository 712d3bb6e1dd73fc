"""Calls of check, and changes of the files that it reads."""

import nibabel as nib
import numpy as np

from lagseg_jax import check
from lagseg_jax.runtime.console import exit_status


def change(path, function):
    image = nib.load(path)
    voxels, affine = np.asarray(image.dataobj), image.affine
    path.unlink()
    nib.save(nib.Nifti1Image(*function(voxels, affine)), path)


def call(*arguments):
    return exit_status(lambda: check.main([str(argument) for argument in arguments]))
