"""Checks of the image and label of one case: functions that return a sentence, or None."""

from collections.abc import Callable

import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.remarks import odd_spacing, shear
from lagseg_jax.imaging.slices import to_slices

SLAB_MM = 60.0  # an atrium with its margins is taller than this
ATRIUM_ML = (20.0, 300.0)


def sheared(image: Volume, mask: Volume) -> str | None:
    """The voxel axes are not at right angles to each other."""
    found = shear(image)
    expected = "expected axes at right angles (unless 'shear' is allowed)"
    return f"{image.path}: {found}, {expected}." if found else None


def empty_label(image: Volume, mask: Volume) -> str | None:
    """No voxel of the label is atrium."""
    if mask.array.any():
        return None
    return f"{mask.path}: empty label found, expected an atrium (unless 'empty_label' is allowed)."


def no_contrast(image: Volume, mask: Volume) -> str | None:
    """Nearly all voxels have one value; the network would see a blank picture."""
    voxels = image.array.ravel("K")
    step = max(1, voxels.size // 10**6)  # a million voxels tell, and are quick
    low, high = np.percentile(voxels[::step], (0.5, 99.5))
    if high > low:
        return None
    return (
        f"{image.path}: 99 % of the voxels have the value {low:g}, expected an image (unless "
        "'no_contrast' is allowed)."
    )


def suspicious_spacing(image: Volume, mask: Volume) -> str | None:
    """Voxel sizes that stand for "unknown", or that no LGE-MRI has."""
    _, row, column = to_slices(image.array, image.affine)[1].spacing
    if abs(row - 1) < 1e-6 and abs(column - 1) < 1e-6:
        return (
            f"{image.path}: voxels of exactly 1 mm in plane found, which often stands for a size "
            "that was lost, expected that of the scan."
        )
    found = odd_spacing(image)
    return f"{image.path}: {found}." if found else None


def thin_slab(image: Volume, mask: Volume) -> str | None:
    """All slices together are thinner than an atrium: the distance between them may be wrong."""
    slices, geometry = to_slices(image.array, image.affine)
    thickness = len(slices) * geometry.spacing[0]
    if thickness >= SLAB_MM:
        return None
    return (
        f"{image.path}: {len(slices)} slices of {geometry.spacing[0]:.4g} mm cover {thickness:.1f} "
        f"mm, expected at least {SLAB_MM:g} mm for a whole atrium; the slice distance may be wrong."
    )


def implausible_volume(image: Volume, mask: Volume) -> str | None:
    """The labelled atrium is smaller or larger than atria are."""
    millilitres = volume_ml(mask.array, image.affine)
    if not mask.array.any() or ATRIUM_ML[0] <= millilitres <= ATRIUM_ML[1]:
        return None
    return (
        f"{mask.path}: atrium of {millilitres:.1f} mL found, expected {ATRIUM_ML[0]:g} to "
        f"{ATRIUM_ML[1]:g} mL; the voxel size or the label may be wrong."
    )


CHECKS: dict[str, Callable[[Volume, Volume], str | None]] = {
    "shear": sheared,
    "empty_label": empty_label,
    "no_contrast": no_contrast,
    "spacing": suspicious_spacing,
    "slab": thin_slab,
    "volume": implausible_volume,
}
