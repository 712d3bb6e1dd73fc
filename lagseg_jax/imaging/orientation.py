"""Which way the axes of a volume grow: what its header says, or what the user says instead.

A header may not say it (NIfTI with qform_code and sform_code 0, NRRD without `space`), or say two
things (a qform that contradicts the sform). Programs guess differently then, so nothing here does:
the file is refused unless `config.data.orientation` or `--orientation` settles it.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.grid import TOLERANCE, column_lengths, corner_shift, plane_distances
from lagseg_jax.runtime.errors import InputError

FORMS = ("sform", "qform")
# The side to which an axis grows: its world axis in RAS, and the sign there.
_SIDES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
WAY_OUT = (
    "give --orientation (config.data.orientation in training), three letters for the sides to "
    "which the voxel axes grow, such as LPS"
)
_ROUNDED_MM = 6e-4  # a voxel size that somebody wrote with three decimals


class OrientationError(InputError):
    """The file does not say which way its axes grow, or contradicts itself."""


def check_orientation(name: str, value: str) -> None:
    """Raises InputError unless the value is "", "sform", "qform" or letters such as "LPS"."""
    letters = sorted(_SIDES[letter][0] for letter in value if letter in _SIDES)
    if value and value not in FORMS and (len(value) != 3 or letters != [0, 1, 2]):
        raise InputError(
            f"{name} is {value!r}, expected sform, qform, or one letter of each pair R/L, A/P, S/I "
            "for the sides to which the voxel axes grow, such as LPS"
        )


def affine_of_letters(letters: str, spacing: np.ndarray) -> np.ndarray:
    """The affine (4, 4), voxel index -> RAS mm, of axes that grow to the sides `letters`.

    Args:
        letters: one per voxel axis, such as "LPS": x grows to the patient's left, y to his back
            (posterior), z to his head (superior).
        spacing: (3,) in mm, of the voxel axes.

    Returns:
        Voxel (0, 0, 0) lies at the origin: letters say nothing about positions.
    """
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(letters):
        world, sign = _SIDES[letter]
        affine[world, axis] = sign * spacing[axis]
    affine[3, 3] = 1
    return affine


def nifti_affine(
    path: Path, header: nib.Nifti1Header, sizes: np.ndarray, shape: Sequence[int], told: str
) -> tuple[np.ndarray, str]:
    """The affine of a NIfTI header, and what was told to get it.

    Args:
        path: for messages.
        header: in mm.
        sizes: (3,) voxel sizes in mm as stored; 0 where the file does not know.
        shape: (x, y, z).
        told: "" or a value that `check_orientation` accepts; it counts only where the header does
            not say the orientation by itself.

    Returns:
        (4, 4) voxel index -> RAS mm, and "" or a note of what was told.

    Raises:
        OrientationError: no orientation, or a contradiction, and nothing is told that settles it.
    """
    sizes = np.abs(np.asarray(sizes, np.float64))
    forms = {"sform": _regular(header.get_sform()), "qform": _qform(header, sizes)}
    usable = {form: affine for form, affine in forms.items() if affine is not None}
    coded = {form: affine for form, affine in usable.items() if header[f"{form}_code"] > 0}
    if not coded and header["sform_code"] > 0:
        return header.get_sform(), ""  # singular or not finite, which the caller refuses
    problem = "qform_code and sform_code 0"
    if coded:
        problem = _contradiction(header, coded, sizes, shape)
    if not problem:
        return next(iter(coded.values())), ""
    note = f"{told} as told, the file has {problem}"
    if told in usable:
        return usable[told], note
    if len(told) == 3 and (np.isfinite(sizes) & (sizes > 0)).all():
        return affine_of_letters(told, sizes), note
    forms_too = f"; or say which is right, {' or '.join(usable)}" if usable else ""
    raise OrientationError(
        f"{path}: {problem} found, so that its orientation is not known, expected one orientation: "
        f"{WAY_OUT}{forms_too}."
    )


def _regular(affine: np.ndarray) -> np.ndarray | None:
    """The affine, or None where it is no geometry: zeros, NaN."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        return None
    return affine if abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-6 else None


def _qform(header: nib.Nifti1Header, sizes: np.ndarray) -> np.ndarray | None:
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return None
    try:
        return _regular(header.get_qform())
    except (ValueError, nib.spatialimages.HeaderDataError):  # not a rotation
        return None


def _contradiction(
    header: nib.Nifti1Header, coded: dict[str, np.ndarray], sizes: np.ndarray, shape: Sequence[int]
) -> str:
    """How the coded forms and the voxel sizes contradict each other; "" where they do not."""
    if len(coded) == 2:
        moved = min(corner_shift(coded["sform"], q, shape) for q in _stored_qforms(header))
        return (
            f"a qform that contradicts the sform (corners lie {moved:.3g} voxels apart)"
            if not moved <= TOLERANCE
            else ""
        )
    if "sform" not in coded or not sizes.all():  # 0 mm: not known
        return ""
    return spacing_contradiction("pixdim", sizes, coded["sform"], shape, "sform")


def spacing_contradiction(
    field: str, sizes: np.ndarray, affine: np.ndarray, shape: Sequence[int], source: str
) -> str:
    """How voxel sizes (3,) in mm contradict an affine (4, 4); "" where they do not.

    In a sheared volume both the distance along the axis and that between planes are in use. Sizes
    with three decimals are rounded ones, however many voxels there are.
    """
    both = np.stack([column_lengths(affine), plane_distances(affine)])
    error = np.abs(both - np.abs(sizes)).min(axis=0)
    moved = error / both[0] * shape
    if np.isfinite(error).all() and not ((moved > TOLERANCE) & (error > _ROUNDED_MM)).any():
        return ""
    found, expected = (" x ".join(f"{size:.5g}" for size in some) for some in (sizes, both[0]))
    return f"{field} of {found} mm that contradicts the {source} ({expected} mm)"


def _stored_qforms(header: nib.Nifti1Header) -> list[np.ndarray]:
    """The affines that the stored quaternion may stand for.

    Its first component is `a = sqrt(1 - b^2 - c^2 - d^2)` of float32 numbers: near 0, where most
    scans are, it is known to 5e-4 only, and that turns a row of 640 voxels by half a voxel.
    """
    vector = [float(header[f"quatern_{name}"]) for name in "bcd"]
    square, error = 1 - np.dot(vector, vector), 4 * np.finfo(np.float32).eps
    low, high = np.sqrt(np.maximum(0, [square - error, square + error]))
    affine = header.get_qform()
    affines = [affine]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    sizes[2] *= np.sign(np.linalg.det(affine[:3, :3]))
    for a in np.linspace(low, high, 9):
        turned = affine.copy()
        turned[:3, :3] = nib.quaternions.quat2mat([a, *vector]) * sizes
        affines.append(turned)
    return affines
