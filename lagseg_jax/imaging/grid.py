"""Lengths, volumes, shear and agreement of voxel grids, from their affines.

Column lengths of an affine are distances along the voxel axes; they are the whole truth only where
the axes are at right angles. Everything in mm and mL is therefore computed from the directions
themselves: a voxel's volume is |det|, a distance is the length of `directions @ difference`.
"""

import itertools
from collections.abc import Sequence

import numpy as np

# Grids agree if no corner of the volume moves by more than a tenth of a voxel: below that every
# voxel keeps its nearest voxel, by far, and Dice of an atrium changes by less than 0.002. Rounding
# of headers to four decimals (0.7812 mm for 0.78125 at 512 voxels: 0.03) stays below it; half a
# voxel, the usual mix-up of voxel corners and centres, does not.
TOLERANCE = 0.1
# Axes that are less oblique to each other than this are at right angles, but for rounding and the
# registration of a motion.
RIGHT_ANGLE_DEGREES = 1.0
# Training turns slices by 15 degrees at most: beyond this, a heart is turned as none in it.
TILTED_DEGREES = 25.0


def directions(grid: np.ndarray | Sequence[float]) -> np.ndarray:
    """Voxel axes as columns (3, 3), in mm.

    Args:
        grid: an affine (4, 4) or its upper left part (3, 3); or the spacing, three numbers in mm,
            of axes at right angles.

    Raises:
        ValueError: neither, or not finite, or no volume.
    """
    array = np.asarray(grid, np.float64)
    if array.shape == (3,):
        found = np.diag(array)
        regular = bool((array > 0).all())
    elif array.shape in ((3, 3), (4, 4)):
        found = array[:3, :3]
        regular = bool(np.isfinite(array).all() and np.linalg.det(found) != 0)
    else:
        found, regular = array, False
    if not regular or not np.isfinite(array).all():
        raise ValueError(
            f"spacing or affine is {np.round(array, 6).tolist()}, expected three positive numbers "
            "in mm or a regular (4, 4) matrix"
        )
    return found


def voxel_mm3(grid: np.ndarray | Sequence[float]) -> float:
    """Volume of a voxel in mm3, |det|; `grid` as in `directions`."""
    return float(abs(np.linalg.det(directions(grid))))


def column_lengths(grid: np.ndarray | Sequence[float]) -> np.ndarray:
    """Distances in mm (3,) from a voxel to the next one along each axis."""
    return np.linalg.norm(directions(grid), axis=0)


def plane_distances(grid: np.ndarray | Sequence[float]) -> np.ndarray:
    """Distances in mm (3,) between the planes of voxels that each axis counts.

    The height of the voxel over its other two axes: equal to the column lengths at right angles,
    smaller in a sheared volume (for DICOM with gantry tilt, the distance of the slices).
    """
    # Row k of the inverse is the gradient of index k.
    return 1 / np.linalg.norm(np.linalg.inv(directions(grid)), axis=1)


def shear_degrees(grid: np.ndarray | Sequence[float]) -> float:
    """How far the worst pair of voxel axes is from a right angle, in degrees."""
    unit = directions(grid) / column_lengths(grid)
    cosines = [unit[:, i] @ unit[:, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    return float(np.degrees(np.arcsin(min(1.0, np.abs(cosines).max()))))


def tilt_degrees(grid: np.ndarray | Sequence[float]) -> float:
    """How far voxel axes are from the patient's axes: the angle of the one that is farthest.

    Each voxel axis has a patient's axis of its own, so that 45 degrees are seldom exceeded.
    """
    unit = np.abs(directions(grid) / column_lengths(grid))
    matched = (unit[order, range(3)].min() for order in map(list, itertools.permutations(range(3))))
    return float(np.degrees(np.arccos(min(1.0, max(matched)))))


def corner_shift(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far the corner moves that moves farthest between two affines, in voxels of the first.

    Args:
        affine: (4, 4) voxel index -> mm, regular.
        other: (4, 4) of the same array.
        shape: (x, y, z) of the array; its corners are those of the outermost voxels.
    """
    corners = np.array([*itertools.product(*((-0.5, size - 0.5) for size in shape))])
    difference = (other - affine)[:3] @ np.c_[corners, np.ones(len(corners))].T
    moved = np.linalg.solve(affine[:3, :3], difference)
    return float(np.linalg.norm(moved, axis=0).max())
