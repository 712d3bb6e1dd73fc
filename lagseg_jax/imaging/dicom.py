"""folder with one DICOM series of single-frame MR images -> volume (x, y, z) + affine -> RAS mm.

Axes are those of dcm2niix: x along the image's rows, y up its columns (the stored order reversed),
z along the normal of the image (DICOM PS3.3 C.7.6.2), whatever the names and numbers of the files.
"""

import importlib.util
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.volume import MAX_BYTES
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

_DEFLATED = "1.2.840.10008.1.2.1.99"
_NEEDED = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SeriesInstanceUID")
_TOLERANCE = 0.01  # of the slice spacing


def is_dicom_file(path: Path) -> bool:
    """Whether the file has the mark of DICOM files, `DICM` at byte 128."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_folders(root: Path) -> list[Path]:
    """`root` and the folders below it, as far as DICOM files lie right in them, in name order."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if any(is_dicom_file(Path(folder, name)) for name in _listed(names)):
            found.append(Path(folder))
    return found


def check_dicom_support() -> None:
    """Raises InputError if pydicom, an optional dependency, is not installed."""
    if importlib.util.find_spec("pydicom") is None:
        raise InputError(
            "DICOM files need pydicom, which is not installed, expected it after "
            "`pip install 'lagseg_jax[dicom]'`"
        )


def read_series(folder: Path, max_bytes: int = MAX_BYTES) -> Volume:
    """Reads the one series in a folder, slices sorted by position.

    Args:
        folder: with DICOM files, not those of its subfolders; other files are ignored.
        max_bytes: of decoded voxels; more is refused before they are allocated.

    Returns:
        The volume, in the stored dtype, or float32 where slope and intercept scale it. What is
        written like it is NIfTI.

    Raises:
        InputError: not exactly one series, colour or multi-frame images, missing slices, several
            images at one position, uneven spacing, slices that are shifted against each other
            (gantry tilt) or turned, a damaged file, or no pydicom.
    """
    check_dicom_support()
    try:
        return _read_series(folder, max_bytes)
    except InputError:
        raise
    except Exception as error:  # pydicom parses a value when it is asked for
        raise _damaged(folder, error) from error


def _read_series(folder: Path, max_bytes: int) -> Volume:
    headers = list(_read_headers(folder))
    _check_one_series(folder, headers)
    for path, header in headers:
        _check_image(path, header, headers[0])
    modality = headers[0][1].get("Modality", "")
    if modality != "MR":
        log.warning("WARNING: %s: modality %r found, expected MR", folder, modality)
    headers, step = _sort(folder, headers)
    array = _read_pixels(folder, headers, max_bytes)
    first = headers[0][1]
    along_row, along_column = np.reshape(_floats(first.ImageOrientationPatient), (2, 3))
    between_rows, between_columns = _floats(first.PixelSpacing)
    affine = np.eye(4)
    # DICOM's first row is the last one of the array.
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = -along_column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = _floats(first.ImagePositionPatient) - affine[:3, 1] * (first.Rows - 1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's LPS -> RAS
    image = nib.Nifti1Image(np.zeros(array.shape, np.uint8, order="F"), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return Volume(array, affine, array.shape, image.header, folder)


def _listed(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name != "DICOMDIR")


def _read_headers(folder: Path) -> Iterator[tuple[Path, Any]]:
    """File and data set, without pixels, of every image in the folder."""
    import pydicom

    for name in _listed(os.listdir(folder)):
        path = folder / name
        if not is_dicom_file(path):
            continue
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            # It would be inflated as a whole, however large, before anything can be checked.
            if meta.TransferSyntaxUID == _DEFLATED:
                raise InputError(f"{path}: a deflated DICOM file, expected plain transfer syntax")
            if "Image" not in meta.MediaStorageSOPClassUID.name:
                continue  # a report, a presentation state
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if "Rows" not in header:
                raise ValueError("the header ends early")
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path, error) from error
        yield path, header


def _check_one_series(folder: Path, headers: list) -> None:
    series: dict[str, list] = {}
    for path, header in headers:
        missing = [name for name in _NEEDED if not header.get(name)]
        if "NumberOfFrames" in header and int(header.NumberOfFrames or 1) > 1:
            raise InputError(
                f"{path}: an enhanced DICOM file with {header.NumberOfFrames} frames, expected one "
                "image in each file, or NIfTI files made by dcm2niix"
            )
        if missing:
            raise InputError(f"{path}: no {missing[0]} in the DICOM header, expected one")
        series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if not series:
        raise InputError(f"{folder} holds no DICOM images, expected those of one series")
    if len(series) > 1:
        listed = ", ".join(
            f"{uid} ({one[0].get('SeriesDescription', 'no description')}, {len(one)} images)"
            for uid, one in series.items()
        )
        raise InputError(
            f"{folder} holds {len(series)} DICOM series, expected one in a folder: {listed}"
        )


def _check_image(path: Path, header, first) -> None:
    """One grey image, of the same size, spacing and orientation as the first of its series."""
    samples, meaning = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if samples != 1 or meaning != "MONOCHROME2":
        raise InputError(
            f"{path}: {samples} samples per pixel, {meaning} found, expected grey images "
            "(MONOCHROME2)"
        )
    turn = np.reshape(_floats(header.ImageOrientationPatient), (2, 3))
    if not np.allclose(turn @ turn.T, np.eye(2), atol=1e-3):
        raise InputError(f"{path}: orientation {turn.tolist()}, expected two unit vectors at 90°")
    spacing = _floats(header.PixelSpacing)
    if len(spacing) != 2 or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: PixelSpacing {spacing.tolist()}, expected two lengths in mm")
    for name, tolerance in (
        ("Rows", 0),
        ("Columns", 0),
        ("PixelSpacing", 1e-4),
        ("ImageOrientationPatient", 1e-3),
    ):
        found, expected = header[name].value, first[1][name].value
        if not np.allclose(_floats(found), _floats(expected), rtol=0, atol=tolerance):
            raise InputError(
                f"{path}: {name} is {found}, expected {expected} as in {first[0].name}, "
                "of the same series"
            )


def _sort(folder: Path, headers: list) -> tuple[list, np.ndarray]:
    """Images along the normal, and the step (3,) in mm LPS from one to the next."""
    turn = np.reshape(_floats(headers[0][1].ImageOrientationPatient), (2, 3))
    normal = np.cross(*turn)
    headers = sorted(headers, key=lambda h: float(_floats(h[1].ImagePositionPatient) @ normal))
    positions = np.stack([_floats(h.ImagePositionPatient) for _, h in headers])
    if len(headers) == 1:
        thickness = headers[0][1].get("SpacingBetweenSlices") or headers[0][1].get("SliceThickness")
        if not thickness or float(thickness) <= 0:
            raise InputError(f"{folder} holds one DICOM image of no thickness, expected several")
        return headers, normal * float(thickness)
    gaps = np.diff(positions @ normal)
    step = float(np.median(gaps))
    if not np.isfinite(positions).all() or gaps.min() <= _TOLERANCE * step:
        same = int(np.argmin(gaps))
        raise InputError(
            f"{folder}: {headers[same][0].name} and {headers[same + 1][0].name} lie at the same "
            "position, expected one image for each (one phase, one echo, one kind)"
        )
    if (wrong := np.abs(gaps - step) > _TOLERANCE * step).any():
        where = int(np.argmax(wrong))
        raise InputError(
            f"{folder}: {gaps[where]:.3f} mm between {headers[where][0].name} and "
            f"{headers[where + 1][0].name}, {step:.3f} mm between others, expected even spacing "
            "without missing slices"
        )
    move = (positions[-1] - positions[0]) / len(gaps)
    if np.linalg.norm(move - normal * (move @ normal)) > _TOLERANCE * step:
        raise InputError(
            f"{folder}: slices are shifted against each other (gantry tilt), by "
            f"{np.round(move, 3).tolist()} mm where {np.round(normal * step, 3).tolist()} is "
            "expected"
        )
    return headers, normal * (move @ normal)


def _read_pixels(folder: Path, headers: list, max_bytes: int) -> np.ndarray:
    """The voxels (x, y, z) in dcm2niix's order."""
    import pydicom

    first = headers[0][1]
    scales = [
        (float(h.get("RescaleSlope", 1) or 1), float(h.get("RescaleIntercept", 0) or 0))
        for _, h in headers
    ]
    scaled = any(scale != (1.0, 0.0) for scale in scales)
    kinds = {(h.get("BitsAllocated"), h.get("PixelRepresentation")) for _, h in headers}
    bits, signed = kinds.pop()
    if kinds or bits not in (8, 16, 32) or signed not in (0, 1) or not np.isfinite(scales).all():
        raise InputError(f"{folder}: pixels of different or unknown types, expected integers")
    dtype = np.dtype(np.float32 if scaled else f"{'ui'[signed]}{bits // 8}")
    shape = (int(first.Columns), int(first.Rows), len(headers))
    if (size := math.prod(shape) * dtype.itemsize) > max_bytes or 0 in shape:
        raise InputError(
            f"{folder}: {size} bytes of voxels declared (shape {shape}), expected 1 to {max_bytes}"
        )
    array = np.empty(shape, dtype, order="F")
    for number, ((path, _), (slope, intercept)) in enumerate(zip(headers, scales)):
        try:
            pixels = pydicom.dcmread(path).pixel_array
        except Exception as error:
            raise _damaged(path, error) from error
        if pixels.shape != (shape[1], shape[0]):
            raise InputError(f"{path}: pixels of shape {pixels.shape}, expected {shape[1::-1]}")
        pixels = pixels[::-1].T
        array[:, :, number] = (
            pixels * np.float32(slope) + np.float32(intercept) if scaled else (pixels)
        )
    return array


def _floats(values) -> np.ndarray:
    return np.atleast_1d(np.asarray(values, np.float64))


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return InputError(f"{path}: damaged or not readable ({reason}), expected a DICOM image")
