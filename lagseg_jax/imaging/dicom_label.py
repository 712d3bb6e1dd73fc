"""Reads a DICOM Segmentation object as a label, and lays it on the grid of its image."""

import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.dicom_files import is_dicom_file
from lagseg_jax.imaging.dicom_geometry import check_image, series_affine
from lagseg_jax.imaging.dicom_header import Frame, read_frames
from lagseg_jax.imaging.dicom_pixels import planes
from lagseg_jax.imaging.formats import MAX_BYTES, Volume
from lagseg_jax.imaging.grid import TOLERANCE
from lagseg_jax.runtime.errors import InputError

_KIND = "1.2.840.10008.5.1.4.1.1.66.4"
_TYPES = ("BINARY", "LABELMAP")


def read_segmentation(path: Path, max_bytes: int = MAX_BYTES) -> Volume:
    """Reads a segmentation object: the number of the segment in each voxel, 0 for none.

    Planes without any segment are often left out, so that it may cover less than its image.

    Raises:
        InputError: not such an object, fractions instead of segments, planes that are not evenly
            spaced, segments over each other, damaged, or more than `max_bytes`.
    """
    frames = read_frames(path)
    header = frames[0].header
    kind = header.get("SegmentationType")
    if header["SOPClassUID"] != _KIND or kind not in _TYPES:
        raise InputError(
            f"{path}: no DICOM segmentation of segments (SegmentationType {kind}), expected one of "
            f"{', '.join(_TYPES)}, or the folder of a series"
        )
    for frame in frames:
        check_image(frame, frames[0])
    numbers, step, first = _plane_numbers(path, frames)
    shape = header["Columns"], header["Rows"], max(numbers) + 1
    if 2 * math.prod(shape) > max_bytes:
        raise InputError(
            f"{path}: {2 * math.prod(shape)} bytes of voxels declared (shape {shape}), expected at "
            f"most {max_bytes}"
        )
    array = np.zeros(shape, np.uint16, order="F")
    where = {id(frame): number for frame, number in zip(frames, numbers)}
    for frame, pixels in planes(frames):
        plane = pixels[::-1].T.astype(np.uint16)
        if kind == "BINARY":
            plane = (plane != 0) * np.uint16(frame.header.get("ReferencedSegmentNumber", 1))
        there = array[:, :, where[id(frame)]]
        if (there.astype(bool) & plane.astype(bool)).any():
            raise InputError(f"{path}: segments lie over each other, expected one in each voxel")
        there += plane
    affine = series_affine(first.header, step)
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    return Volume(array, affine, shape, image.header, path)


def _plane_numbers(path: Path, frames: list[Frame]) -> tuple[list[int], np.ndarray, Frame]:
    """The plane of each frame from 0, the step (3,) in mm LPS between planes, and the first one."""
    header = frames[0].header
    normal = np.cross(*np.reshape(header["ImageOrientationPatient"], (2, 3)))
    places = np.array([frame.header["ImagePositionPatient"] for frame in frames]) @ normal
    gaps = np.diff(np.unique(np.round(places, 3)))
    size = header.get("SpacingBetweenSlices") or (
        float(gaps.min()) if len(gaps) else header.get("SliceThickness", 0)
    )
    if not 0 < size < np.inf:
        raise InputError(f"{path}: no spacing of its planes, expected one above 0 mm")
    offsets = (places - places.min()) / size
    numbers = np.round(offsets)
    if not np.abs(offsets - numbers).max() <= TOLERANCE or numbers.max() > 10**5:
        raise InputError(f"{path}: planes that are not {size:g} mm apart, expected even spacing")
    return [int(number) for number in numbers], normal * size, frames[int(np.argmin(places))]


def placed(label: Volume, image: Volume) -> Volume:
    """A segmentation object on the grid of its image; any other label as it is.

    One that lies between the voxels, or outside, is left to the checks of shape and geometry.
    """
    if not is_dicom_file(label.path):
        return label
    to_image = np.linalg.inv(image.affine) @ label.affine
    corners = np.array([[0, 0, 0], np.array(label.array.shape) - 1])
    ends = to_image[:3, :3] @ corners.T + to_image[:3, 3:]
    size = np.array(image.array.shape)[:, None]
    inside = (np.round(ends) >= 0).all() and (np.round(ends) < size).all()
    turn = np.round(to_image[:3, :3])
    straight = (np.abs(turn).sum(axis=0) == 1).all() and abs(np.linalg.det(turn)) == 1
    if not inside or not straight or np.abs(ends - np.round(ends)).max() > TOLERANCE:
        return label
    index = np.array(np.nonzero(label.array))
    there = np.round(to_image[:3, :3] @ index + to_image[:3, 3:]).astype(int)
    array = np.zeros(image.array.shape, label.array.dtype)
    array[tuple(there)] = label.array[tuple(index)]
    return replace(label, array=array, affine=image.affine, stored_shape=image.array.shape)
