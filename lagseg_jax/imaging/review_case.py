"""Collects what a review page shows of one case: its pictures, and how they lie in the patient."""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.sprites import grey_sprites, mask_sprites, probability_sprites
from lagseg_jax.imaging.views import slices_affine, views

# Of the grey values that become black and white: what lies beyond them cannot be windowed.
PERCENTILES = (0.1, 99.9)


def case_content(
    image: Volume,
    prediction: np.ndarray,
    truth: np.ndarray | None = None,
    probability: np.ndarray | None = None,
    plane: str = "",
    window: Sequence[float] = (),
) -> dict[str, Any]:
    """All slices of a case as JSON.

    Args:
        image: the grey values and their affine.
        prediction: (x, y, z), non-zero inside.
        truth: (x, y, z), non-zero inside, or None.
        probability: (x, y, z) in 0..1, or None.
        plane: of the slices, as in `slices.to_slices`.
        window: that becomes black and white, as in `grey_range`.

    Returns:
        `shape` (Z, H, W); `affine` (3, 4), index (slice, row, column) -> RAS mm; `views`, the
        fields of three `View`; `grey`, [black, white] in the units of the image; `start`, the
        index to begin at, in the middle of the masks; `kind` ("png" or "jpeg") of the files in
        `images`; `masks` and `probability` (or None), PNG files; all as base64; `levels` of the
        probability; `truth`, whether there is one.
    """
    slices, geometry = to_slices(image.array, image.affine, plane)
    affine = slices_affine(image.affine, image.array.shape, geometry)
    masks = (mask for mask in (prediction, truth) if mask is not None)
    drawn = [to_slices(mask, image.affine, plane)[0] for mask in masks]
    grey = grey_range(slices, PERCENTILES, window)
    levels = np.empty(slices.shape, np.uint8)
    for level, one in zip(levels, slices):  # one at a time: no second volume of floats
        level[:] = np.rint(normalise(one, grey) * 255)
    kind, images = grey_sprites(levels)
    steps, heat = 0, list[bytes]()
    if probability is not None:
        steps, heat = probability_sprites(to_slices(probability, image.affine, plane)[0])
    return {
        "shape": list(slices.shape),
        "affine": affine[:3].tolist(),
        "views": [asdict(view) for view in views(affine, geometry.axis)],
        "grey": list(grey),
        "start": _middle(drawn),
        "truth": truth is not None,
        "levels": steps,
        "kind": kind,
        "images": _texts(images),
        "masks": _texts(mask_sprites(drawn[1] if truth is not None else None, drawn[0])),
        "probability": _texts(heat) or None,
    }


def _middle(masks: Sequence[np.ndarray]) -> list[int]:
    """The middle of what is in any mask (Z, H, W) along each axis; of the volume, if nothing is."""
    middle = []
    for axis, size in enumerate(masks[0].shape):
        others = tuple(a for a in range(3) if a != axis)
        occupied = np.flatnonzero(np.logical_or.reduce([mask.any(others) for mask in masks]))
        middle.append(int(occupied[len(occupied) // 2]) if occupied.size else size // 2)
    return middle


def _texts(files: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(file).decode() for file in files]
