"""Says what is unusual about the geometry of a volume, wherever it is used."""

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grid import RIGHT_ANGLE_DEGREES, TILTED_DEGREES, shear_degrees, tilt_degrees
from lagseg_jax.imaging.slices import MARGIN, to_slices

IN_PLANE_MM = (0.2, 3.0)  # voxel sizes of LGE-MRI, generously
SLICE_MM = (0.4, 12.0)


def remarks(volume: Volume, plane: str = "") -> list[str]:
    """What is to be said about the geometry of a volume.

    Args:
        volume: only its note, its shape and its affine count.
        plane: of its slices, as in `to_slices`.
    """
    said = [volume.note] if volume.note else []
    if (sheared := shear(volume)) is not None:
        said.append(sheared)
    elif (degrees := tilt_degrees(volume.affine)) > TILTED_DEGREES:
        said.append(
            f"tilted by {degrees:.0f} degrees (short axis, four chambers?); a model that was "
            "trained on straight slices sees a turned heart"
        )
    geometry = to_slices(volume.array, volume.affine, plane)[1]
    _, row, column = geometry.spacing
    if max(row, column) >= MARGIN * min(row, column):
        said.append(
            f"{geometry.plane} slices with pixels of {column:.4g} x {row:.4g} mm; a model that was "
            "trained on square ones sees a squashed heart"
        )
    elif (odd := odd_spacing(volume, plane)) is not None:
        said.append(odd)
    return said


def shear(volume: Volume) -> str | None:
    """What is to be said about axes that are not at right angles; None where they are."""
    degrees = shear_degrees(volume.affine)
    if degrees <= RIGHT_ANGLE_DEGREES:
        return None
    return (
        f"sheared by {degrees:.1f} degrees (gantry tilt, or an affine registration); volumes and "
        "distances follow the affine, but the network sees a slanted heart"
    )


def odd_spacing(volume: Volume, plane: str = "") -> str | None:
    """What is to be said about voxel sizes that no LGE-MRI has; None for others."""
    slices, row, column = to_slices(volume.array, volume.affine, plane)[1].spacing
    (low, high), (thin, thick) = IN_PLANE_MM, SLICE_MM
    if low <= min(row, column) and max(row, column) <= high and thin <= slices <= thick:
        return None
    return (
        f"voxels of {column:.4g} x {row:.4g} x {slices:.4g} mm, expected {low:g} to {high:g} mm in "
        f"plane and {thin:g} to {thick:g} mm between slices: lengths and volumes may be wrong"
    )
