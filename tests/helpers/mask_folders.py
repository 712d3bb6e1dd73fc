"""Small masks for the tests of compare."""

import nibabel as nib
import numpy as np

from lagseg_jax import compare
from lagseg_jax.runtime.console import exit_status

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
SHAPE = (13, 11, 7)


def block(start, stop):
    """A mask of 5 x 5 x 3 voxels for each step along x."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[start:stop, 3:8, 2:5] = 1
    return mask


def save(path, mask, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(mask, affine), path)
    return path


def call(*arguments):
    return exit_status(lambda: compare.main([str(argument) for argument in arguments]))
