"""Measures how far a surface lies from the faces of a mask's voxels, in voxels."""

import numpy as np
from scipy.spatial import cKDTree

_CANDIDATES = 12  # faces whose centres are nearest, one of which is nearest itself


def voxel_distances(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Distance of points from the nearest face between a voxel of the mask and one outside.

    Lengths are those of voxel indices, in which a voxel is a cube of side 1: with thick slices, a
    distance in mm would ask of a surface across the slices what no smooth one can give.

    Args:
        points: (N, 3), voxel indices.
        mask: (x, y, z), not empty.

    Returns:
        (N,) float64.
    """
    centres, axes = voxel_faces(mask)
    count = min(_CANDIDATES, len(centres))
    _, near = cKDTree(centres).query(points, count)
    near = near.reshape(len(points), count)
    away = np.abs(points[:, None] - centres[near])
    half = np.where(np.arange(3) == axes[near][..., None], 0.0, 0.5)
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
