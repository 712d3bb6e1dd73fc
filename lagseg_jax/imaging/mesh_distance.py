"""Measures how far a surface lies from the faces of a mask's voxels."""

from collections.abc import Sequence

import numpy as np

_CANDIDATES = 24  # faces whose centres are nearest, one of which is nearest itself


def voxel_distances(
    points: np.ndarray, mask: np.ndarray, sides: Sequence[float] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Distance of points from the nearest face between a voxel of the mask and one outside.

    A voxel counts as a cube of side 1 unless `sides` says else: in mm, thick slices would ask of a
    smooth surface across them what none can give.

    Args:
        points: (N, 3), voxel indices.
        mask: (x, y, z), not empty.
        sides: of a voxel along x, y and z; they are the unit of the distances.

    Returns:
        (N,) float64.
    """
    from scipy.spatial import cKDTree  # late: `predict` starts without it

    points = points * np.asarray(sides)
    centres, axes = voxel_faces(mask)
    centres *= sides
    count = min(_CANDIDATES, len(centres))
    _, near = cKDTree(centres).query(points, count)
    near = near.reshape(len(points), count)
    away = np.abs(points[:, None] - centres[near])
    half = np.where(np.arange(3) == axes[near][..., None], 0.0, np.divide(sides, 2))
    return np.linalg.norm(np.maximum(away - half, 0), axis=-1).min(axis=1)


def voxel_faces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces between mask and background: centres (F, 3) in voxel indices, axes (F,) across."""
    padded = np.pad(mask != 0, 1).view(np.int8)
    centres, axes = [], []
    for axis in range(3):
        found = np.argwhere(np.diff(padded, axis=axis)) - 1.0
        found[:, axis] += 0.5
        centres.append(found)
        axes.append(np.full(len(found), axis))
    return np.concatenate(centres), np.concatenate(axes)
