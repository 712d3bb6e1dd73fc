"""Says how a picture of a slice lies in the patient: letters at its edges, a scale bar, positions.

Everything follows from the affine of the slices that are shown, whatever the order and direction in
which the file stores its voxels. Positions and directions are RAS, as in NIfTI.
"""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation

from lagseg_jax.imaging.grid import column_lengths, plane_distances
from lagseg_jax.imaging.slices import PLANES, SliceGeometry, slice_order

# The sides to which a direction leads, positive and negative, along each axis of RAS.
_SIDES = (("R", "L"), ("A", "P"), ("S", "I"))
# A side is named if the direction leans to it by more than this: the sine of about 6 degrees.
_LEAN = 0.1
_BARS_MM = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class View:
    """One of the three planes in which slices (Z, H, W) can be looked at.

    Attributes:
        plane: a name of `slices.PLANES`.
        axes: of the slices array: the one across, the one down the rows, the one along the columns.
        upturned: whether rows run against their axis, so that the head is at the top.
        letters: at the left, right, top and bottom edge of the picture.
        spacing: mm from picture to picture, from row to row, from column to column.
    """

    plane: str
    axes: tuple[int, int, int]
    upturned: bool
    letters: tuple[str, str, str, str]
    spacing: tuple[float, float, float]


def side(direction: np.ndarray) -> str:
    """The letters of the sides to which a direction leads, the main one first.

    Args:
        direction: (3,) in RAS, of any length but 0.

    Returns:
        One letter of R, L, A, P, S, I; two or three where the direction is oblique, such as "LP".
    """
    unit = np.asarray(direction, float) / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")
    first, *others = (_SIDES[axis][int(unit[axis] < 0)] for axis in order)
    named = [one for one, axis in zip(others, order[1:]) if abs(unit[axis]) > _LEAN]
    return "".join([first, *named])


def slices_affine(
    affine: np.ndarray, shape: tuple[int, ...], geometry: SliceGeometry
) -> np.ndarray:
    """The affine (4, 4) of slices: index (slice, row, column) -> RAS position in mm.

    Args:
        affine: (4, 4) of the volume, voxel index -> RAS mm.
        shape: (x, y, z) of the volume.
        geometry: that `slices.to_slices` gave with its slices.
    """
    canonical = affine @ inv_ornt_aff(geometry.orientation, shape)
    return canonical[:, [*slice_order(geometry.axis), 3]]


def views(affine: np.ndarray, axis: int) -> tuple[View, View, View]:
    """The plane of the slices themselves first, then the two others.

    All are shown as radiologists look: the patient's right on the left of axial and coronal
    pictures, his front at the top of axial ones and on the left of sagittal ones, his head at the
    top of the others.

    Args:
        affine: (4, 4) of `slices_affine`.
        axis: the canonical axis that the slices are cut across, `SliceGeometry.axis`.
    """
    own = slice_order(axis)  # canonical axis of each axis of the slices array
    lengths, between = column_lengths(affine), plane_distances(affine)
    found = []
    for across in own:
        axes = tuple(own.index(canonical) for canonical in slice_order(across))
        rows, columns = affine[:3, axes[1]], affine[:3, axes[2]]
        upturned = across != 2  # rows grow to the patient's feet only in axial pictures
        down = -rows if upturned else rows
        found.append(
            View(
                PLANES[across],
                (axes[0], axes[1], axes[2]),
                upturned,
                (side(-columns), side(columns), side(-down), side(down)),
                (float(between[axes[0]]), float(lengths[axes[1]]), float(lengths[axes[2]])),
            )
        )
    first, second, third = found
    return first, second, third


def view_of(affine: np.ndarray) -> View:
    """The plane of the slices themselves, from their affine (4, 4) alone."""
    across = int(io_orientation(affine)[0, 0])  # of RAS, where axes have the order of LPS
    return views(affine, across)[0]


def picture(slices: np.ndarray, view: View, number: int) -> np.ndarray:
    """One picture (rows, columns) of slices (Z, H, W), as it is shown."""
    shown = slices.transpose(view.axes)[number]
    return shown[::-1] if view.upturned else shown


def scale_bar(width_mm: float) -> int:
    """The length in mm of the bar for a picture of this width: at most a third of it."""
    return max((bar for bar in _BARS_MM if bar <= width_mm / 3), default=_BARS_MM[0])
