"""Describes how the atrium looks in the slices that the network sees: a few numbers per case."""

import numpy as np
from scipy import ndimage

RING = 28  # the ring around the atrium is this part of the image wide: 16 of 448 pixels


def appearance(images: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Grey values inside and around the atrium, and how much neighbours differ.

    Args:
        images: (Z, E, E), 0..1.
        masks: (Z, E, E), non-zero inside.

    Returns:
        `brightness`, the mean inside; `contrast`, that minus the mean of a ring around it in the
        plane; `roughness`, the mean difference of two neighbours in a row or a column, both inside:
        noise raises it, blur lowers it. Nothing where the mask has no two neighbours, or no ring.
    """
    shows = np.flatnonzero(masks.any(axis=(1, 2)))
    images, inside = np.asarray(images[shows], np.float32), masks[shows] != 0
    square = 1 + 2 * -(-images.shape[-1] // RING)
    wider = ndimage.maximum_filter(inside.view(np.uint8), (1, square, square))
    ring = (wider > 0) & ~inside
    steps = [np.abs(np.diff(images, axis=a))[_both(inside, a)] for a in (1, 2)]
    differences = np.concatenate(steps)
    if not ring.any() or not differences.size:
        return {}
    brightness = float(images[inside].mean())
    return {
        "brightness": brightness,
        "contrast": brightness - float(images[ring].mean()),
        "roughness": float(differences.mean()),
    }


def _both(inside: np.ndarray, axis: int) -> np.ndarray:
    """Where a voxel and its next neighbour along an axis are inside."""
    first, second = np.arange(inside.shape[axis] - 1), np.arange(1, inside.shape[axis])
    return inside.take(first, axis) & inside.take(second, axis)
