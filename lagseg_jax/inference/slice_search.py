"""Finds the slices of a volume that show the atrium without computing all the others.

The slices of one connected component follow each other. So every `stride`-th slice is looked at
first, with some from the middle where the last batch has room, and then all slices of the gaps that
have atrium at an end: after that, every slice beside one with atrium has been seen, and of a
component that reaches a first slice nothing is missing.
A component that reaches none spans fewer than `stride` slices, and can only matter where it would
be the largest: unless a larger one than an atrium can be in so few slices is found, everything is
looked at.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lagseg_jax.imaging.masks import bounding_box, label_components

LARGEST_MM2 = 6000.0  # of an atrium in one slice; of 24 of the 2018 challenge 1600 to 4400


def search(
    look: Callable[[np.ndarray], Sequence[bool] | np.ndarray],
    count: int,
    stride: int,
    batch: int,
    enough: Callable[[], bool],
) -> np.ndarray:
    """Looks at slices until the rest cannot matter.

    Args:
        look: computes the slices of these numbers (N,) int, and says which of them show atrium.
            It is called up to three times, and for no slice twice.
        count: Z, the slices of the volume.
        stride: 1 looks at all of them at once.
        batch: slices that are computed at a time.
        enough: whether no component that spans fewer than `stride` slices can be larger than those
            in the slices looked at, see `largest_is_seen`. It is called once, before the last look.

    Returns:
        (Z,) bool, which slices show atrium; False for those that were not looked at.
    """
    shows, seen = np.zeros(count, bool), np.zeros(count, bool)

    def look_at(numbers: np.ndarray) -> None:
        numbers = numbers[~seen[numbers]]
        if numbers.size:
            seen[numbers] = True
            shows[numbers] = look(numbers)

    first = _fill_up(np.arange(min(stride // 2, count - 1), count, stride), count, batch)
    look_at(first)
    look_at(_gaps_beside(first, shows))
    if not (seen.all() or enough()):
        look_at(np.arange(count))
    return shows


def _fill_up(first: np.ndarray, count: int, batch: int) -> np.ndarray:
    """With as many more slices, nearest to the middle, as the last batch of these has room for."""
    by_distance = np.argsort(np.abs(np.arange(count) - (count - 1) / 2), kind="stable")
    others = by_distance[~np.isin(by_distance, first)]
    return np.sort(np.concatenate([first, others[: -len(first) % batch]]))


def _gaps_beside(first: np.ndarray, shows: np.ndarray) -> np.ndarray:
    """The slices between those looked at first, of every gap with atrium at one of its ends."""
    edges = [-1, *first, len(shows)]
    showing = [False, *shows[first], False]
    gaps = [
        np.arange(low + 1, high)
        for low, high, *ends in zip(edges, edges[1:], showing, showing[1:])
        if any(ends)
    ]
    return np.concatenate([np.arange(0), *gaps])


def largest_is_seen(mask: np.ndarray, spacing: Sequence[float], stride: int) -> bool:
    """Whether the largest component is larger than any atrium in fewer than `stride` slices.

    Args:
        mask: (Z, H, W), non-zero where slices that were looked at show atrium.
        spacing: in mm along Z, H, W.
        stride: of the search.
    """
    sizes = label_components(mask[bounding_box(mask)])[1]
    largest_mm3 = sizes.max(initial=0) * math.prod(spacing)
    return bool(largest_mm3 >= (stride - 1) * spacing[0] * LARGEST_MM2)
