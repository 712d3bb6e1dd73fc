"""Puts the images of one DICOM series in order, and finds the affine of their volume.

Positions are written as text, with few decimals. What counts as rounding is decided as for two
grids: no corner of an image may lie further than a tenth of a voxel from where the affine puts it.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.imaging.dicom_header import Frame, Header
from lagseg_jax.imaging.grid import TOLERANCE, plane_distances
from lagseg_jax.imaging.orientation import spacing_contradiction
from lagseg_jax.runtime.errors import InputError

ALLOWED = ("instances", "spacing")  # which of these checks may be left out
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEEDED = {  # and how many numbers each has
    "Rows": 1,
    "Columns": 1,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "PixelSpacing": 2,
}
_NAMED = 6  # missing numbers that are listed


def check_image(frame: Frame, first: Frame) -> None:
    """One grey image, of the same size, spacing and orientation as the first of its series.

    Raises:
        InputError: it is not.
    """
    header = frame.header
    for name in _NEEDED:
        if name not in header:
            frames = header.get("NumberOfFrames", 1)
            film = f" (a film of {frames} frames)" if frames > 1 else ""
            raise InputError(f"{frame}: no {name} in the DICOM header{film}, expected one")
    samples, meaning = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if samples != 1 or meaning != "MONOCHROME2":
        raise InputError(
            f"{frame}: {samples} samples per pixel, {meaning} found, expected grey images "
            "(MONOCHROME2)"
        )
    for name, count in _NEEDED.items():
        values = _floats(header[name])
        if len(values) != count or not np.isfinite(values).all():
            raise InputError(f"{frame}: {name} is {header[name]}, expected {count} finite numbers")
    turn = np.reshape(_floats(header["ImageOrientationPatient"]), (2, 3))
    if not np.allclose(turn @ turn.T, np.eye(2), atol=1e-3):
        raise InputError(f"{frame}: orientation {turn.tolist()}, expected two unit vectors at 90°")
    if min(header["PixelSpacing"]) <= 0:
        raise InputError(
            f"{frame}: PixelSpacing {header['PixelSpacing']}, expected two lengths in mm"
        )
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        if not _same(name, header, first.header):
            raise InputError(
                f"{frame}: {name} is {header[name]}, expected {first.header[name]} as in "
                f"{first.name}, of the same series"
            )


def _same(name: str, header: Header, first: Header) -> bool:
    """Whether the far corner of the image moves by less than TOLERANCE."""
    found, expected = _floats(header[name]), _floats(first[name])
    pixels = max(header["Rows"], header["Columns"])
    if name == "PixelSpacing":
        return bool((np.abs(found / expected - 1) * pixels <= TOLERANCE).all())
    if name == "ImageOrientationPatient":
        return bool(np.linalg.norm(found - expected) * pixels <= TOLERANCE)
    return bool((found == expected).all())


def sort_slices(folder: Path, frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """Images along the normal, and the step (3,) in mm LPS from one to the next.

    Args:
        folder: for messages.
        frames: every image, as `check_image` wants them.

    Raises:
        InputError: two images at one position, a gap, or uneven spacing.
    """
    header = frames[0].header
    normal = np.cross(*np.reshape(_floats(header["ImageOrientationPatient"]), (2, 3)))
    along = [float(_floats(frame.header["ImagePositionPatient"]) @ normal) for frame in frames]
    ordered = [frames[number] for number in np.argsort(along, kind="stable")]
    if len(ordered) == 1:
        thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0
        if not 0 < thickness < np.inf:
            raise InputError(f"{folder} holds one DICOM image of no thickness, expected several")
        return ordered, normal * float(thickness)
    return ordered, _even_step(folder, ordered, normal)


def check_spacing(folder: Path, frames: Sequence[Frame], affine: np.ndarray) -> None:
    """Raises InputError for a SpacingBetweenSlices that contradicts the positions."""
    between = float(frames[0].header.get("SpacingBetweenSlices") or 0)
    if not between or len(frames) == 1:
        return
    sizes = plane_distances(affine)
    sizes[2] = between
    shape = (1, 1, len(frames))
    if spacing_contradiction("SpacingBetweenSlices", sizes, affine, shape, "positions"):
        raise InputError(
            f"{folder}: SpacingBetweenSlices is {between:g} mm, but the positions lie "
            f"{plane_distances(affine)[2]:.4g} mm apart, expected one distance: images may be "
            "missing; --allow=spacing (config.data.allow) takes the positions"
        )


def _even_step(folder: Path, frames: Sequence[Frame], normal: np.ndarray) -> np.ndarray:
    """The step (3,) between positions on a straight line, evenly spaced."""
    positions = np.stack([_floats(frame.header["ImagePositionPatient"]) for frame in frames])
    gaps = np.diff(positions @ normal)
    middle = float(np.median(gaps))
    same = int(np.argmin(gaps))
    if not gaps[same] > TOLERANCE * middle:
        raise InputError(
            f"{folder}: {frames[same].name} and {frames[same + 1].name} lie at the same "
            "position, expected one image for each (one phase, one echo, one kind)"
        )
    where = int(np.argmax(np.abs(gaps - middle)))
    if abs(gaps[where] - middle) > 2 * TOLERANCE * middle:  # both ends may be rounded
        raise InputError(
            f"{folder}: {gaps[where]:.3f} mm between {frames[where].name} and "
            f"{frames[where + 1].name}, {middle:.3f} mm between others, expected even spacing "
            "without missing slices"
        )
    numbers = np.arange(len(positions))
    step, start = np.polyfit(numbers, positions, 1)
    off_mm = positions - (start + np.outer(numbers, step))
    axes = series_affine(frames[0].header, step)[:3, :3]
    off = np.linalg.norm(np.linalg.solve(axes, (_TO_RAS[:3, :3] @ off_mm.T)), axis=0)
    worst = int(np.argmax(off))
    if not off[worst] <= TOLERANCE:
        raise InputError(
            f"{folder}: {frames[worst].name} lies {off[worst]:.2f} voxels from the line "
            "through all positions, expected slices in a row that are evenly spaced"
        )
    return step


def check_instances(folder: Path, frames: Sequence[Frame]) -> str:
    """Numbers of images from 1 on without a gap, where each image has its own.

    Returns:
        What is to be said of numbers that do not tell; "" where they do.

    Raises:
        InputError: there is a gap.
    """
    numbers = [frame.header.get("InstanceNumber") for frame in frames]
    known = {int(number) for number in numbers if number is not None}
    if len(known) < len(frames):
        return (
            f"{len(known)} different instance numbers for {len(frames)} images, so that missing "
            "first or last slices cannot be seen"
        )
    first = min(1, *known)
    # Not all of them: a damaged number may be any.
    gaps = (number for number in range(first, max(known) + 1) if number not in known)
    missing = list(itertools.islice(gaps, _NAMED + 1))
    if missing:
        listed = ", ".join(map(str, missing[:_NAMED])) + ", ..." * (len(missing) > _NAMED)
        raise InputError(
            f"{folder}: instance numbers {min(known)} to {max(known)} for {len(frames)} images "
            f"found, without {listed}, expected every number from {first} on: slices may be "
            "missing; --allow=instances (config.data.allow) accepts it"
        )
    return ""


def unless_allowed(allow: Sequence[str], **checks: Callable[[], str | None]) -> tuple[str, ...]:
    """What checks say, and which of them were left out; raises what those not allowed raise."""
    said = []
    for name, check in checks.items():
        try:
            said.append(check())
        except InputError:
            if name not in allow:
                raise
            said.append(f"images may be missing, which --allow={name} accepts")
    return tuple(filter(None, said))


def series_affine(first: Header, step: np.ndarray) -> np.ndarray:
    """The affine (4, 4), voxel index -> RAS mm, of a series.

    Args:
        first: the header of the first image.
        step: (3,) in mm LPS from one image to the next.
    """
    along_row, along_column = np.reshape(_floats(first["ImageOrientationPatient"]), (2, 3))
    between_rows, between_columns = _floats(first["PixelSpacing"])
    affine = np.eye(4)
    # DICOM's first row is the last one of the array.
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = -along_column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = _floats(first["ImagePositionPatient"]) - affine[:3, 1] * (first["Rows"] - 1)
    return _TO_RAS @ affine


def _floats(values: object) -> np.ndarray:
    return np.atleast_1d(np.asarray(values, np.float64))
