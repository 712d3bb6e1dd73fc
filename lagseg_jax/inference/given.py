"""Turns what a caller of the Python interface gives into a volume."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.formats import Volume, header_affine
from lagseg_jax.imaging.orientation import (
    affine_of_letters,
    check_orientation,
    spacing_contradiction,
)
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

STORED_DTYPES = ("uint8", "int16", "uint16", "float32")  # go to the device as they are
Given = np.ndarray | str | Path | Volume | nib.spatialimages.SpatialImage


def as_volume(
    volume: Given,
    spacing: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    orientation: str = "",
) -> Volume:
    """The grey values (x, y, z) in a dtype that a device takes, with their affine and its note.

    Args:
        volume: path of a file, nibabel image, `Volume`, or array (x, y, z).
        spacing: of an array without affine, in mm along x, y and z.
        affine: of an array, voxel index -> scanner position in mm (RAS).
        orientation: the sides to which the axes of an array without affine grow, such as "LPS";
            for files as in `parse_volume`.

    Raises:
        InputError: no three axes, no grey values, not finite, no orientation known, a spacing that
            contradicts the affine, or either of them beside a file, which has its own.
    """
    check_orientation("orientation", orientation)
    path, note = Path("the volume"), ""
    located = isinstance(volume, str | Path | Volume | nib.spatialimages.SpatialImage)
    if located and not (spacing is None and affine is None):
        raise InputError(
            f"spacing or affine is given beside a {type(volume).__name__}, which says them itself, "
            "expected them beside an array only"
        )
    if isinstance(volume, str | Path):
        volume = read_volume(volume, Reading(orientation=orientation))
    if isinstance(volume, Volume):
        return replace(volume, array=_grey(volume.array))
    if isinstance(volume, nib.spatialimages.SpatialImage):
        path = Path(volume.get_filename() or path)
        affine, note = _image_affine(volume, path, orientation)
        volume = np.asanyarray(volume.dataobj)
        while volume.ndim > 3 and volume.shape[-1] == 1:
            volume = volume[..., 0]
    array = _grey(np.asarray(volume))
    affine = _array_affine(array.shape, spacing, affine, orientation)
    return Volume(array, affine, array.shape, {}, path, note)


def _image_affine(
    image: nib.spatialimages.SpatialImage, path: Path, orientation: str
) -> tuple[np.ndarray, str]:
    """As of the same image in a file; of other formats than NIfTI what nibabel says."""
    if not isinstance(image, nib.Nifti1Pair):
        return image.affine, ""
    header = image.header.copy()
    sizes = header["pixdim"][1:4].astype(np.float64)
    return header_affine(path, header, sizes, image.shape[:3], orientation)


def _array_affine(
    shape: Sequence[int],
    spacing: Sequence[float] | None,
    affine: np.ndarray | None,
    orientation: str,
) -> np.ndarray:
    if affine is None and len(orientation) != 3:
        raise InputError(
            "an array without affine does not say which way its axes grow, expected affine=, or "
            "spacing= with orientation= such as 'LPS', or the path or nibabel image itself"
        )
    if affine is None or spacing is not None:
        sizes = () if spacing is None else spacing
        if len(sizes) != 3 or not all(np.isfinite(s) and s > 0 for s in sizes):
            raise InputError(f"the spacing is {spacing}, expected three lengths in mm")
    if affine is None:
        return affine_of_letters(orientation, np.asarray(spacing, np.float64))
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine):
        raise InputError(
            f"the affine is {affine.tolist()}, expected (4, 4), finite and not singular"
        )
    if spacing is not None:
        found = spacing_contradiction("spacing", np.asarray(spacing), affine, shape, "affine")
        if found:
            raise InputError(f"a {found} is given, expected one of the two, or the same in both")
    return affine


def _grey(array: np.ndarray) -> np.ndarray:
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"the volume has shape {array.shape}, expected three axes x, y, z")
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"the volume has voxels of type {array.dtype}, expected one real number each"
        )
    stored = array.dtype.name in STORED_DTYPES
    # JAX takes native byte order only.
    with np.errstate(over="ignore"):
        array = array.astype(array.dtype.newbyteorder("=") if stored else np.float32, copy=False)
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise InputError("the volume has voxels that are NaN or infinite, expected finite ones")
    return array
