"""Grey values of a volume -> 0..1, by percentiles of what is not padding or by a window."""

from collections.abc import Sequence

import numpy as np

from lagseg_jax.runtime.errors import InputError

_LONG = 8  # voxels in a line: less are equal by chance, in a volume of few slices


def grey_range(
    slices: np.ndarray, percentiles: tuple[float, float], window: Sequence[float] = ()
) -> tuple[float, float]:
    """The grey values of a volume that become 0 and 1: percentiles of the voxels without padding.

    Or a window, where units mean the same in every volume, as Hounsfield units do.

    Reconstruction, resampling and cropping fill what was not measured with one value. Were it
    counted, the rest of the percentiles would move with the size of the margin. For a program
    without this one, the rule in three lines:

        edges = [edge for a in range(3) for edge in
                 np.moveaxis(volume, a, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]]
        padding = [edge[0] for edge in edges if len(edge) >= 8 and edge.min() == edge.max()]
        grey = np.percentile(volume[~np.isin(volume, padding)], percentiles)

    Args:
        slices: (Z, H, W), real.
        percentiles: low and high, 0..100.
        window: low and high themselves, in stored units; () for the percentiles.

    Returns:
        Low and high, never equal in float32.

    Raises:
        InputError: no voxel lies within the window.
    """
    if window:
        return _window_range(slices, window)
    padding = padding_values(slices)
    size = slices.size - sum(int(np.count_nonzero(slices == value)) for value in padding)
    if not size:  # one value everywhere, or noise of two
        padding, size = np.empty(0, slices.dtype), slices.size
    low, high = (
        float(np.float32(_percentile(slices, percent, padding, size))) for percent in percentiles
    )
    return low, high if high > low else low + max(1.0, abs(low))


def _window_range(slices: np.ndarray, window: Sequence[float]) -> tuple[float, float]:
    low, high = (float(np.float32(value)) for value in window)
    if not any(((plane > low) & (plane < high)).any() for plane in slices):
        raise InputError(
            f"grey values from {slices.min():g} to {slices.max():g} found, expected some within "
            f"({low:g}, {high:g}), the window of the model, in the same units (Hounsfield in CT)"
        )
    return low, high


def padding_values(volume: np.ndarray) -> np.ndarray:
    """The values that fill one or more of the 12 edges of a volume.

    Any margin around a volume holds edges of it, on whichever side it lies, and so do the corners
    that a rotated field of view leaves. Every voxel with such a value counts as padding.

    Args:
        volume: (Z, H, W).

    Returns:
        (values,) in the dtype of the volume; none where every edge shows something.
    """
    found = []
    for axis in range(3):
        edges = np.moveaxis(volume, axis, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]
        if edges.shape[1] >= _LONG:
            found += [edge[0] for edge in edges if edge.min() == edge.max()]
    return np.unique(np.array(found, volume.dtype))


def _percentile(slices: np.ndarray, percent: float, padding: np.ndarray, size: int) -> float:
    """np.percentile of the `size` voxels that are not padding, slice by slice.

    That function copies and sorts the volume.
    """
    place = percent / 100 * (size - 1)
    below = int(place)  # the value lies between the ones of this rank and the next
    last = percent > 50  # counted from the nearer end
    count = size - below if last else min(below + 2, size)
    kept = np.empty(0, slices.dtype)
    for plane in slices:
        values = plane.ravel()
        for value in padding:
            values = values[values != value]
        if kept.size == count:
            values = values[values > kept[0] if last else values < kept[-1]]
        kept = np.concatenate([kept, values])
        if kept.size >= count:
            parts = np.partition(kept, -count if last else count - 1)
            kept = parts[-count:] if last else parts[:count]
    kept.sort()
    two = kept[:2] if last else kept[below:]
    return float(np.percentile(two, 100 * (place - below)))


def normalise(slices: np.ndarray, grey: tuple[float, float]) -> np.ndarray:
    """Clips to `grey_range` and maps it to 0..1; float32, same shape."""
    low, high = grey
    scaled = (slices.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)
