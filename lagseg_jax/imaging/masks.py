"""Finds the connected components of a mask (26-neighbourhood), and its box and volume."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grid import voxel_mm3
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.errors import InputError

MASK_VALUES = 4  # whole numbers and no more of them than this: labels, no grey values


def clean_mask(
    mask: np.ndarray, grid: np.ndarray | Sequence[float], keep: int = 1, min_mm3: float = 0.0
) -> np.ndarray:
    """Only the `keep` largest components, and of these only those of `min_mm3` and more.

    Of two components of one size the first in memory order is kept.

    Args:
        mask: (x, y, z), non-zero inside.
        grid: affine (4, 4), or spacing in mm per axis.
        keep: number of components; 0 keeps them all.
        min_mm3: volume in mm3; a component of exactly this volume stays.

    Returns:
        Mask of the same shape and dtype; `mask` itself where nothing goes.

    Raises:
        ValueError: a negative number.
    """
    if keep < 0 or min_mm3 < 0:
        raise ValueError(
            f"keep is {keep} and min_mm3 is {min_mm3}, expected the number of components to keep "
            "(0 for all) and their smallest volume (0 for any)"
        )
    if keep == 0 and min_mm3 == 0:
        return mask
    box = bounding_box(mask)
    labels, sizes = label_components(mask[box])
    kept = np.argsort(-sizes, kind="stable")[: keep or None]
    # A product of spacings is not exact.
    kept = kept[sizes[kept] * voxel_mm3(grid) >= min_mm3 * (1 - 1e-6)]
    if len(kept) == len(sizes):
        return mask
    stays = np.zeros(len(sizes) + 1, mask.dtype)
    stays[kept + 1] = 1
    # Pages that nothing is written to take no memory: not so with zeros_like.
    cleaned = np.zeros(mask.shape, mask.dtype, order="F")
    for target, source, numbers in zip(cleaned[box], mask[box], labels):
        np.multiply(source, stays[numbers], out=target)
    return cleaned


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask (x, y, z) -> numbers of the components (x, y, z) from 1, and their sizes in voxels."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.zeros(count + 1, np.int64)
    for plane in labels:  # bincount turns what it is given into 8-byte integers
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return labels, sizes[1:]


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the mask (x, y, z); an empty box if there is nothing in it."""
    occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(i[0], i[-1] + 1) if i.size else slice(0, 0) for i in occupied)


def volume_ml(mask: np.ndarray, grid: np.ndarray | Sequence[float]) -> float:
    """Volume in mL of the non-zero voxels; `grid` is the affine (4, 4), or spacing in mm."""
    return np.count_nonzero(mask) * voxel_mm3(grid) / 1000


def check_grey(volume: Volume) -> None:
    """Refuses a mask that is given as an image, up to four whole numbers, and a single value.

    Raises:
        InputError: it is one.
    """
    values = np.empty(0)
    for plane in np.moveaxis(volume.array, 2, 0):
        values = np.union1d(values, plane)
        if len(values) > MASK_VALUES:
            return
    if len(values) == 1 or (values == np.round(values)).all():
        listed = ", ".join(f"{value:g}" for value in values)
        shows = "looks like a mask" if len(values) > 1 else "shows nothing"
        raise InputError(
            f"{volume.path}: it has only {count_of(len(values), 'value')}, {listed}, and {shows}, "
            "expected an image with grey values"
        )
