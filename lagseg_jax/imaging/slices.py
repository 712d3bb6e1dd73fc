"""Cuts a volume into square slices for the network, and puts slices back, exactly.

The canonical volume has LPS+ axes, so that a slice shows the patient as radiologists look at him:
rows run from anterior to posterior, columns from the patient's right to his left. Slices are cut
across the through-plane axis (see `through_plane`), padded to a square around their centre and
resized to E pixels. Padding and resizing are one pair of matrices, `rows (E, H)` and `columns
(E, W)`: the network's image is `rows @ slice @ columns.T`, and a probability goes back through a
second pair.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.grid import column_lengths, plane_distances
from lagseg_jax.imaging.interpolation import linear_matrix
from lagseg_jax.imaging.volume import from_canonical, to_canonical
from lagseg_jax.runtime.errors import InputError, one_of

# By the axis across which the slices are cut: left, posterior, superior.
PLANES = ("sagittal", "coronal", "axial")
# The patient's superior-inferior axis is the through-plane one unless another axis is this much
# coarser than both of the others. Atria are scanned axially in 3-D, and those voxels are not always
# tallest: 1.3 x 1.3 x 1.25, 1.3 x 1.34, 1.5 x 1.5 x 1.4 mm, overlapping slices of 1.5 x 1.5 x 1.2
# (a ratio of 1.25) occur. What is cut otherwise is coarser by far: coronal angiography of
# 1 x 1.5 x 1 mm, coronal and sagittal LGE of 1.4 x 8 x 1.4 mm. And pixels are square: where two
# axes are equally coarse, these two lie in the plane.
MARGIN = 4 / 3


@dataclasses.dataclass(frozen=True)
class SliceGeometry:
    """What `from_slices` needs to put slices back into the voxel order of their volume."""

    orientation: np.ndarray  # (3, 2), of `volume.to_canonical`
    axis: int  # canonical axis across which the slices were cut
    volume_axis: int  # the same axis in the volume's own order
    spacing: tuple[float, ...]  # mm, from slice to slice, from row to row, from column to column

    @property
    def plane(self) -> str:
        """Of the slices: a name of `PLANES`."""
        return PLANES[self.axis]


def to_slices(
    array: np.ndarray, affine: np.ndarray, plane: str = ""
) -> tuple[np.ndarray, SliceGeometry]:
    """Cuts a volume into slices.

    Args:
        array: (x, y, z), any dtype.
        affine: (4, 4), voxel index -> scanner position in mm, RAS.
        plane: of the slices, one of `PLANES`; "" for that of `through_plane`.

    Returns:
        Slices (Z, H, W) in the dtype of the array, and their geometry.
    """
    canonical, orientation = to_canonical(array, affine)
    canonical_axes = orientation[:, 0].astype(int)
    spacing, between = np.empty(3), np.empty(3)
    spacing[canonical_axes] = column_lengths(affine)
    between[canonical_axes] = plane_distances(affine)
    axis = PLANES.index(plane) if plane else through_plane(spacing)
    order = slice_order(axis)
    return canonical.transpose(order), SliceGeometry(
        orientation=orientation,
        axis=axis,
        volume_axis=int(np.flatnonzero(canonical_axes == axis)[0]),
        spacing=(float(between[axis]), *(float(spacing[a]) for a in order[1:])),
    )


def field_mm(slices: np.ndarray, geometry: SliceGeometry) -> float:
    """The longer side in mm of slices (Z, H, W): how large a heart is in what the network sees."""
    _, row, column = geometry.spacing
    return max(slices.shape[1] * row, slices.shape[2] * column)


def through_plane(spacing: np.ndarray) -> int:
    """The canonical axis that slices are cut across.

    Args:
        spacing: (3,) in mm along left, posterior, superior.

    Returns:
        2, superior, unless another axis is `MARGIN` times coarser than both of the others.
    """
    finer, coarse = np.partition(spacing, 1)[1:]
    # Spacings in float32 are not exact.
    return int(np.argmax(spacing)) if coarse >= MARGIN * finer * (1 - 1e-6) else 2


def check_plane(name: str, plane: str) -> None:
    """Raises InputError unless the plane is "" or one of `PLANES`."""
    if plane:
        one_of(name, plane, PLANES)


def check_trained_plane(geometry: SliceGeometry, trained: Sequence[str], what: str) -> None:
    """Refuses slices in a plane that a model has never seen.

    Args:
        geometry: of the slices.
        trained: planes of the training slices; none: not known, and not checked.
        what: the volume, for the message.

    Raises:
        InputError: the plane is none of them.
    """
    if trained and geometry.plane not in trained:
        slices, row, column = geometry.spacing
        raise InputError(
            f"{what}: {geometry.plane} slices of {slices:.4g} mm with pixels of {column:.4g} x "
            f"{row:.4g} mm found, expected {' or '.join(trained)} ones, as the model was trained "
            f"on; --plane={trained[0]} cuts the volume so, --plane={geometry.plane} as it is."
        )


def from_slices(slices: np.ndarray, geometry: SliceGeometry) -> np.ndarray:
    """The inverse of `to_slices`: (Z, H, W) -> (x, y, z) in the volume's own voxel order."""
    canonical = slices.transpose(np.argsort(slice_order(geometry.axis)))
    return from_canonical(canonical, geometry.orientation)


def slice_order(axis: int) -> tuple[int, int, int]:
    """Canonical axes as (slice, row, column): rows are the later in-plane axis."""
    column, row = (a for a in range(3) if a != axis)
    return axis, row, column


def resize_matrices(height: int, width: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices (H, W) -> images (E, E): `rows (E, H)` and `columns (E, W)`, float32.

    The padding to a square (zeros, the darkest grey) needs no memory: the matrix that would
    multiply it is cut off.
    """
    side = max(height, width)
    matrix = linear_matrix(side, image_size)
    return _window(matrix.T, height).T, _window(matrix.T, width).T


def restore_matrices(height: int, width: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (E, E) -> slices (H, W): `rows (H, E)` and `columns (W, E)`, float32."""
    matrix = linear_matrix(image_size, max(height, width))
    return _window(matrix, height), _window(matrix, width)


def _window(matrix: np.ndarray, length: int) -> np.ndarray:
    """The rows of the matrix that belong to the slice, which lies centred in the square."""
    start = (matrix.shape[0] - length) // 2
    return matrix[start : start + length]


def network_images(
    slices: np.ndarray,
    image_size: int,
    percentiles: tuple[float, float],
    window: Sequence[float] = (),
) -> np.ndarray:
    """Slices (Z, H, W) of any grey scale -> images (Z, E, E), float32 in 0..1."""
    _, height, width = slices.shape
    rows, columns = resize_matrices(height, width, image_size)
    return rows @ normalise(slices, grey_range(slices, percentiles, window)) @ columns.T


def network_masks(slices: np.ndarray, image_size: int) -> np.ndarray:
    """Label slices (Z, H, W) of 0 and 1 -> masks (Z, E, E), uint8: interpolated, then >= 1/2.

    Rounding the interpolated coverage keeps the outline where it is; taking the nearest voxel
    would move it by up to half a voxel.
    """
    _, height, width = slices.shape
    rows, columns = resize_matrices(height, width, image_size)
    return (rows @ slices.astype(np.float32) @ columns.T >= 0.5).astype(np.uint8)
