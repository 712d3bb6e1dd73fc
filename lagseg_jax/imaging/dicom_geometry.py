"""Puts the images of one DICOM series in order, and finds the affine of their volume.

Positions are written as text, with few decimals. What counts as rounding is decided as for two
grids: no corner of an image may lie further than a tenth of a voxel from where the affine puts it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.grid import TOLERANCE, plane_distances
from lagseg_jax.imaging.orientation import spacing_contradiction
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

ALLOWED = ("instances", "spacing")  # what `allow` of `sort_slices` may name
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NAMED = 6  # missing numbers that are listed


def check_image(path: Path, header: Any, first: tuple[Path, Any]) -> None:
    """One grey image, of the same size, spacing and orientation as the first of its series.

    Raises:
        InputError: it is not.
    """
    samples, meaning = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if samples != 1 or meaning != "MONOCHROME2":
        raise InputError(
            f"{path}: {samples} samples per pixel, {meaning} found, expected grey images "
            "(MONOCHROME2)"
        )
    turn = np.reshape(_floats(header.ImageOrientationPatient), (2, 3))
    if not np.allclose(turn @ turn.T, np.eye(2), atol=1e-3):
        raise InputError(f"{path}: orientation {turn.tolist()}, expected two unit vectors at 90°")
    spacing = _floats(header.PixelSpacing)
    if len(spacing) != 2 or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: PixelSpacing {spacing.tolist()}, expected two lengths in mm")
    if not np.isfinite(_floats(header.ImagePositionPatient)).all():
        raise InputError(f"{path}: the position is not finite, expected three numbers in mm")
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        found, expected = _floats(header[name].value), _floats(first[1][name].value)
        if not _same(name, found, expected, header):
            raise InputError(
                f"{path}: {name} is {header[name].value}, expected {first[1][name].value} as in "
                f"{first[0].name}, of the same series"
            )


def _same(name: str, found: np.ndarray, expected: np.ndarray, header: Any) -> bool:
    """Whether the far corner of the image moves by less than TOLERANCE."""
    pixels = max(header.Rows, header.Columns)
    if name == "PixelSpacing":
        return bool((np.abs(found / expected - 1) * pixels <= TOLERANCE).all())
    if name == "ImageOrientationPatient":
        return bool(np.linalg.norm(found - expected) * pixels <= TOLERANCE)
    return bool((found == expected).all())


def sort_slices(folder: Path, headers: list, allow: Sequence[str] = ()) -> tuple[list, np.ndarray]:
    """Images along the normal, and the step (3,) in mm LPS from one to the next.

    Args:
        folder: for messages.
        headers: file and data set of every image.
        allow: names of `ALLOWED` that are no errors.

    Raises:
        InputError: two images at one position, a gap, uneven spacing, missing instance numbers, or
            a SpacingBetweenSlices that contradicts the positions.
    """
    turn = np.reshape(_floats(headers[0][1].ImageOrientationPatient), (2, 3))
    normal = np.cross(*turn)
    headers = sorted(headers, key=lambda h: float(_floats(h[1].ImagePositionPatient) @ normal))
    if len(headers) == 1:
        thickness = headers[0][1].get("SpacingBetweenSlices") or headers[0][1].get("SliceThickness")
        if not thickness or float(thickness) <= 0:
            raise InputError(f"{folder} holds one DICOM image of no thickness, expected several")
        return headers, normal * float(thickness)
    step = _even_step(folder, headers, normal)
    if "instances" not in allow:
        _check_instances(folder, headers)
    affine = series_affine(headers[0][1], step)
    between = float(headers[0][1].get("SpacingBetweenSlices") or 0)
    if between and "spacing" not in allow:
        sizes = plane_distances(affine)
        sizes[2] = between
        shape = (1, 1, len(headers))
        if spacing_contradiction("SpacingBetweenSlices", sizes, affine, shape, "positions"):
            raise InputError(
                f"{folder}: SpacingBetweenSlices is {between:g} mm, but the positions lie "
                f"{plane_distances(affine)[2]:.4g} mm apart, expected one distance: images may be "
                "missing; --allow=spacing takes the positions"
            )
    return headers, step


def _even_step(folder: Path, headers: list, normal: np.ndarray) -> np.ndarray:
    """The step (3,) between positions on a straight line, evenly spaced."""
    positions = np.stack([_floats(header.ImagePositionPatient) for _, header in headers])
    gaps = np.diff(positions @ normal)
    middle = float(np.median(gaps))
    same = int(np.argmin(gaps))
    if not gaps[same] > TOLERANCE * middle:
        raise InputError(
            f"{folder}: {headers[same][0].name} and {headers[same + 1][0].name} lie at the same "
            "position, expected one image for each (one phase, one echo, one kind)"
        )
    where = int(np.argmax(np.abs(gaps - middle)))
    if abs(gaps[where] - middle) > 2 * TOLERANCE * middle:  # both ends may be rounded
        raise InputError(
            f"{folder}: {gaps[where]:.3f} mm between {headers[where][0].name} and "
            f"{headers[where + 1][0].name}, {middle:.3f} mm between others, expected even spacing "
            "without missing slices"
        )
    numbers = np.arange(len(positions))
    step, start = np.polyfit(numbers, positions, 1)
    off_mm = positions - (start + np.outer(numbers, step))
    axes = series_affine(headers[0][1], step)[:3, :3]
    off = np.linalg.norm(np.linalg.solve(axes, (_TO_RAS[:3, :3] @ off_mm.T)), axis=0)
    worst = int(np.argmax(off))
    if not off[worst] <= TOLERANCE:
        raise InputError(
            f"{folder}: {headers[worst][0].name} lies {off[worst]:.2f} voxels from the line "
            "through all positions, expected slices in a row that are evenly spaced"
        )
    return step


def _check_instances(folder: Path, headers: list) -> None:
    """Numbers of images from 1 on without a gap, where each image has its own."""
    numbers = [header.get("InstanceNumber") for _, header in headers]
    known = {int(number) for number in numbers if number not in (None, "")}
    if len(known) < len(headers):
        log.warning(
            "WARNING: %s: %d different instance numbers for %d images, so that missing first or "
            "last slices cannot be seen",
            *(folder, len(known), len(headers)),
        )
        return
    first = min(1, *known)
    missing = [n for n in range(first, max(known) + 1) if n not in known][: 10**4]
    if missing:
        listed = ", ".join(map(str, missing[:_NAMED])) + ", ..." * (len(missing) > _NAMED)
        raise InputError(
            f"{folder}: instance numbers {min(known)} to {max(known)} for {len(headers)} images "
            f"found, without {listed}, expected every number from {first} on: slices may be "
            "missing; --allow=instances accepts it"
        )


def series_affine(first: Any, step: np.ndarray) -> np.ndarray:
    """The affine (4, 4), voxel index -> RAS mm, of a series.

    Args:
        first: the data set of the first image.
        step: (3,) in mm LPS from one image to the next.
    """
    along_row, along_column = np.reshape(_floats(first.ImageOrientationPatient), (2, 3))
    between_rows, between_columns = _floats(first.PixelSpacing)
    affine = np.eye(4)
    # DICOM's first row is the last one of the array.
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = -along_column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = _floats(first.ImagePositionPatient) - affine[:3, 1] * (first.Rows - 1)
    return _TO_RAS @ affine


def _floats(values: Any) -> np.ndarray:
    return np.atleast_1d(np.asarray(values, np.float64))
