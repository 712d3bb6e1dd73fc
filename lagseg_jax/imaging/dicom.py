"""Reads a DICOM series of MR images as a volume.

Axes are those of dcm2niix: x along the image's rows, y up its columns (the stored order reversed),
z along the normal of the image (DICOM PS3.3 C.7.6.2), whatever the names and numbers of the files.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.dicom_choice import take
from lagseg_jax.imaging.dicom_files import check_dicom_support
from lagseg_jax.imaging.dicom_pixels import read_pixels
from lagseg_jax.imaging.dicom_study import Stack, find_studies
from lagseg_jax.imaging.formats import MAX_BYTES, Volume
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


def read_series(
    path: Path, max_bytes: int = MAX_BYTES, allow: Sequence[str] = (), series: str = ""
) -> Volume:
    """Reads the one series that is LGE of the one study at a path: `find_studies`, `take`.

    Raises:
        InputError: as these and `read_stack`; no pydicom, or several studies.
    """
    check_dicom_support()
    studies = find_studies(path, allow)
    if len(studies) > 1:
        raise InputError(f"{path} holds {len(studies)} DICOM studies, expected those of one")
    return read_stack(take(path, studies[0] if studies else [], series), max_bytes)


def read_stack(stack: Stack, max_bytes: int = MAX_BYTES) -> Volume:
    """Reads the images of a stack, sorted by position.

    Args:
        stack: as `take` returns it.
        max_bytes: of decoded voxels; more is refused before they are allocated.

    Returns:
        The volume, in the stored dtype, or float32 where slope and intercept scale it. What is
        written like it is NIfTI. Slices that are shifted against each other evenly (gantry tilt)
        make a sheared affine.

    Raises:
        InputError: the stack has a problem, or its pixels are damaged or too many.
    """
    if stack.affine is None:
        raise InputError(stack.problem)
    for remark in stack.remarks:
        log.warning("%s: %s", stack.folder, remark)
    array, affine = read_pixels(stack, max_bytes), stack.affine
    image = nib.Nifti1Image(np.zeros(array.shape, np.uint8, order="F"), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return Volume(array, affine, array.shape, image.header, stack.folder)
