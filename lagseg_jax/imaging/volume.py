"""Reads volumes and labels from files, and writes masks in the geometry of their image."""

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from lagseg_jax.imaging.dicom import read_series
from lagseg_jax.imaging.dicom_files import holds_dicom, is_dicom_file
from lagseg_jax.imaging.dicom_label import read_segmentation
from lagseg_jax.imaging.formats import Volume, nifti_bytes, read_nifti
from lagseg_jax.imaging.grid import TOLERANCE, corner_shift
from lagseg_jax.imaging.nrrd_format import nrrd_bytes, read_nrrd
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_atomically

SUFFIXES = (".nii.gz", ".nii", ".nrrd")


def is_volume_file(path: str | Path) -> bool:
    """Whether the name is that of a volume; dot-files (AppleDouble `._x.nii.gz`) are not."""
    name = Path(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def case_name(path: str | Path) -> str:
    """File name without `.nii.gz`, `.nii` or `.nrrd`."""
    name = Path(path).name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def read_volume(path: str | Path, reading: Reading = AS_STORED) -> Volume:
    """`parse_volume` and `check_finite`: what everything but the check of a dataset wants."""
    volume = parse_volume(path, reading)
    check_finite(volume)
    return volume


def parse_volume(path: str | Path, reading: Reading = AS_STORED) -> Volume:
    """Reads a 3-D volume from `.nii`, `.nii.gz` or `.nrrd`; its voxels may be NaN or infinite.

    Args:
        path: of the file; or the folder of a DICOM series, or a DICOM segmentation object.
        reading: what is told about it.

    Raises:
        OrientationError: it does not say its orientation, and nothing that is told settles it.
        InputError: missing, damaged or truncated file, not exactly one 3-D volume, too many bytes
            of voxels declared, singular affine, a unit that is no length, NRRD whose data lie in
            another file.
    """
    path = Path(path)
    if path.is_dir() and holds_dicom(path):
        return read_series(path, reading.max_bytes, reading.allow)
    if is_dicom_file(path):
        return read_segmentation(path, reading.max_bytes)
    if not is_volume_file(path):
        raise InputError(f"{path}: not a volume file name, expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: {found}, expected a volume file.")
    read = read_nrrd if path.name.lower().endswith(".nrrd") else read_nifti
    try:
        # What a header makes overflow is found in the affine or the voxels.
        with np.errstate(over="ignore", invalid="ignore"):
            volume = read(path, reading.max_bytes, reading.orientation)
            _check_affine(volume)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path}: not enough memory to read it ({error}), expected at most "
            f"{reading.max_bytes} bytes."
        ) from error
    except Exception as error:  # the parsers raise whatever a damaged header makes them stumble on
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise InputError(
            f"{path}: damaged or not what its name says ({reason}), expected an intact "
            f"{'NRRD' if read is read_nrrd else 'NIfTI'} file."
        ) from error
    return volume


def on_grid_of(image: Volume, label: Volume, allow: Sequence[str] = ()) -> Volume:
    """The label with the image's affine, voxel upon voxel, if `check_same_geometry` agrees.

    Args:
        image: to which the label belongs.
        label: of the same shape.
        allow: "geometry" in it lays them over each other by index whatever their affines say.
    """
    if image.array.shape != label.array.shape or "geometry" not in allow:
        check_same_geometry(image, label)
    return replace(label, affine=image.affine)


def check_same_geometry(image: Volume, label: Volume) -> None:
    """Image and label must share one voxel grid: equal shape, and no corner apart by TOLERANCE.

    Raises:
        InputError: they do not; they are never aligned by index.
    """
    check_same_shape(image, label)
    moved = corner_shift(image.affine, label.affine, image.array.shape)
    if not moved <= TOLERANCE:
        raise InputError(
            f"{label.path}: position or orientation differs from {image.path} (corners lie "
            f"{moved:.3g} voxels apart), expected the same grid to {TOLERANCE:g} voxels; "
            "'geometry' can be allowed where the voxels are known to belong together."
        )


def check_same_shape(image: Volume, label: Volume) -> None:
    """Raises InputError if the shapes differ."""
    if image.array.shape != label.array.shape:
        raise InputError(
            f"{label.path}: shape {label.array.shape} found, expected {image.array.shape} "
            f"as in {image.path}."
        )


def check_finite(volume: Volume) -> None:
    """Raises InputError if voxels are NaN or infinite."""
    # Slice by slice, so that no second volume is allocated.
    bad = sum(int((~np.isfinite(plane)).sum()) for plane in np.moveaxis(volume.array, 2, 0))
    if bad:
        raise InputError(f"{volume.path}: {bad} voxels are NaN or infinite, expected none.")


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns axes so that indices grow to the patient's Left, Posterior and Superior.

    Args:
        array: (x, y, z) in any order and direction.
        affine: (4, 4) voxel -> RAS mm, may be oblique: the nearest axis counts.

    Returns:
        A view of `array` in LPS+ order, and the orientation (3, 2) int for `from_canonical`: for
        each axis of `array` its axis in the view, and -1 if that is reversed, else 1.
    """
    orientation = ornt_transform(io_orientation(affine), axcodes2ornt("LPS")).astype(int)
    return apply_orientation(array, orientation), orientation


def from_canonical(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Exact inverse of `to_canonical`: a view of `array` (LPS+) in the original axis order."""
    inverse = np.empty_like(orientation)
    inverse[orientation[:, 0]] = np.stack([np.arange(3), orientation[:, 1]], axis=1)
    return apply_orientation(array, inverse)


def write_mask(path: str | Path, mask: np.ndarray, like: Volume) -> None:
    """Writes a mask (x, y, z) as uint8 with the geometry of `like`: see `write_voxels`."""
    write_voxels(path, mask.astype(np.uint8, copy=False), like)


def write_voxels(path: str | Path, array: np.ndarray, like: Volume) -> None:
    """Writes an array (x, y, z) with the geometry of `like`, complete or not at all.

    The file gets the affine and stored shape of `like`, and where the format is the same also its
    header: qform and sform codes, voxel sizes, units. What describes intensities is reset.

    Raises:
        InputError: `path` does not end in .nii.gz, .nii or .nrrd.
        ValueError: the shape of `array` is not that of `like.array`.
    """
    path = Path(path)
    if not is_volume_file(path):
        raise InputError(f"{path}: cannot write a mask here, expected {', '.join(SUFFIXES)}.")
    if array.shape != like.array.shape:
        raise ValueError(f"mask of shape {array.shape}, expected {like.array.shape}")
    voxels = array.reshape(like.stored_shape)
    name = path.name.lower()
    content = nrrd_bytes(voxels, like) if name.endswith(".nrrd") else nifti_bytes(voxels, like)
    if name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    write_atomically(path, content)


def _check_affine(volume: Volume) -> None:
    directions = volume.affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    regular = np.isfinite(volume.affine).all() and lengths.all()
    if not regular or abs(np.linalg.det(directions / lengths)) < 1e-6:
        raise InputError(
            f"{volume.path}: affine {volume.affine[:3].tolist()} is singular or not finite, "
            "expected three independent voxel directions in mm."
        )
