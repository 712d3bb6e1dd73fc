"""volume (x, y, z) + affine -> square slices (Z, S, S) for the network, and the exact way back.

The canonical volume has LPS+ axes, so that a slice shows the patient as radiologists look at him:
rows run from anterior to posterior, columns from the patient's right to his left. Slices are cut
across the coarsest axis (through-plane), padded to a square around their centre and resized to S
pixels. Padding and resizing are one pair of matrices, `rows (S, H)` and `columns (S, W)`: the
network's image is `rows @ slice @ columns.T`, and a probability goes back through a second pair.
"""

import dataclasses

import numpy as np

from lagseg_jax.imaging.interpolation import linear_matrix
from lagseg_jax.imaging.volume import from_canonical, to_canonical


@dataclasses.dataclass(frozen=True)
class SliceGeometry:
    """What `from_slices` needs to put slices back into the voxel order of their volume."""

    orientation: np.ndarray  # (3, 2), of lagseg_jax.volume.to_canonical
    axis: int  # canonical axis across which the slices were cut
    volume_axis: int  # the same axis in the volume's own order
    spacing: tuple[float, ...]  # mm, of the axes (slice, row, column)


def to_slices(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, SliceGeometry]:
    """Cuts a volume into slices.

    Args:
        array: (x, y, z), any dtype.
        affine: (4, 4), voxel index -> scanner position in mm, RAS.

    Returns:
        Slices (Z, H, W) in the dtype of the array, and their geometry. The through-plane axis is
        the one with the largest voxel spacing; where it is not 1 % larger than the
        superior-inferior axis', that one.
    """
    canonical, orientation = to_canonical(array, affine)
    canonical_axes = orientation[:, 0].astype(int)
    spacing = np.empty(3)
    spacing[canonical_axes] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    axis = int(np.argmax(spacing))
    if spacing[axis] <= 1.01 * spacing[2]:
        axis = 2
    order = _slice_order(axis)
    return canonical.transpose(order), SliceGeometry(
        orientation=orientation,
        axis=axis,
        volume_axis=int(np.flatnonzero(canonical_axes == axis)[0]),
        spacing=tuple(float(spacing[a]) for a in order),
    )


def from_slices(slices: np.ndarray, geometry: SliceGeometry) -> np.ndarray:
    """The inverse of `to_slices`: (Z, H, W) -> (x, y, z) in the volume's own voxel order."""
    canonical = slices.transpose(np.argsort(_slice_order(geometry.axis)))
    return from_canonical(canonical, geometry.orientation)


def _slice_order(axis: int) -> tuple[int, int, int]:
    """Canonical axes as (slice, row, column): rows are the later in-plane axis."""
    column, row = (a for a in range(3) if a != axis)
    return axis, row, column


def grey_range(slices: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The grey values of a volume that become 0 and 1: its percentiles, never equal in float32."""
    low, high = (float(np.float32(_percentile(slices, percent))) for percent in percentiles)
    return low, high if high > low else low + max(1.0, abs(low))


def _percentile(slices: np.ndarray, percent: float) -> float:
    """np.percentile of slices (Z, H, W), slice by slice: that one copies and sorts the volume."""
    place = percent / 100 * (slices.size - 1)
    below = int(place)  # the value lies between the ones of this rank and the next
    last = percent > 50  # counted from the nearer end
    count = slices.size - below if last else min(below + 2, slices.size)
    kept = np.empty(0, slices.dtype)
    for plane in slices:
        values = plane.ravel()
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


def resize_matrices(height: int, width: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices (H, W) -> images (S, S): `rows (S, H)` and `columns (S, W)`, float32.

    The padding to a square (zeros, the darkest grey) needs no memory: the matrix that would
    multiply it is cut off.
    """
    side = max(height, width)
    matrix = linear_matrix(side, image_size)
    return _window(matrix.T, height).T, _window(matrix.T, width).T


def restore_matrices(height: int, width: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (S, S) -> slices (H, W): `rows (H, S)` and `columns (W, S)`, float32."""
    matrix = linear_matrix(image_size, max(height, width))
    return _window(matrix, height), _window(matrix, width)


def _window(matrix: np.ndarray, length: int) -> np.ndarray:
    """The rows of the matrix that belong to the slice, which lies centred in the square."""
    start = (matrix.shape[0] - length) // 2
    return matrix[start : start + length]


def network_images(
    slices: np.ndarray, image_size: int, percentiles: tuple[float, float]
) -> np.ndarray:
    """Slices (Z, H, W) of any grey scale -> images (Z, S, S), float32 in 0..1."""
    _, height, width = slices.shape
    rows, columns = resize_matrices(height, width, image_size)
    return rows @ normalise(slices, grey_range(slices, percentiles)) @ columns.T


def network_masks(slices: np.ndarray, image_size: int) -> np.ndarray:
    """Label slices (Z, H, W) of 0 and 1 -> masks (Z, S, S), uint8: interpolated, then >= 1/2.

    Rounding the interpolated coverage keeps the outline where it is; taking the nearest voxel
    would move it by up to half a voxel.
    """
    _, height, width = slices.shape
    rows, columns = resize_matrices(height, width, image_size)
    return (rows @ slices.astype(np.float32) @ columns.T >= 0.5).astype(np.uint8)
