"""Reads a folder with one DICOM series of single-frame MR images as a volume.

Axes are those of dcm2niix: x along the image's rows, y up its columns (the stored order reversed),
z along the normal of the image (DICOM PS3.3 C.7.6.2), whatever the names and numbers of the files.
"""

import importlib.util
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.dicom_geometry import check_image, series_affine, sort_slices
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.volume import MAX_BYTES
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import open_file

log = logging.getLogger(__name__)

_PLAIN = {False: "1.2.840.10008.1.2.1", True: "1.2.840.10008.1.2"}  # explicit, implicit types
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # and below it: a picture of a screen
_NEEDED = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SeriesInstanceUID")


def is_dicom_file(path: Path) -> bool:
    """Whether the file has the mark of DICOM files, `DICM` at byte 128, or begins without it."""
    try:
        with open_file(path) as stream:
            start = stream.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    # Without the preamble of 128 bytes: the first element of group 2 or 8, little endian.
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    if len(start) < 132 or group not in (2, 8) or element > 0x20:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= 64


def series_folders(root: Path) -> list[Path]:
    """`root` and the folders below it, as far as DICOM files lie right in them, in name order.

    Links are followed, but none to a folder that was there before: they may run in circles.
    """
    found, seen = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and not _came_before(Path(folder, name), seen)
        )
        if any(is_dicom_file(Path(folder, name)) for name in _listed(names)):
            found.append(Path(folder))
    return sorted(found)


def _came_before(folder: Path, seen: set[str]) -> bool:
    if not folder.is_symlink() or os.path.realpath(folder) not in seen:
        return False
    log.info("%s: links to a folder that is searched already, skipped", folder)
    return True


def check_dicom_support() -> None:
    """Raises InputError if pydicom, an optional dependency, is not installed."""
    if importlib.util.find_spec("pydicom") is None:
        raise InputError(
            "DICOM files need pydicom, which is not installed, expected it after "
            f"{install_command('dicom')}"
        )


def read_series(folder: Path, max_bytes: int = MAX_BYTES, allow: Sequence[str] = ()) -> Volume:
    """Reads the one series in a folder, slices sorted by position.

    Args:
        folder: with DICOM files, not those of its subfolders; what is no image is skipped.
        max_bytes: of decoded voxels; more is refused before they are allocated.
        allow: "instances" accepts numbers of images with gaps, "spacing" a SpacingBetweenSlices
            that contradicts the positions, which then count.

    Returns:
        The volume, in the stored dtype, or float32 where slope and intercept scale it. What is
        written like it is NIfTI. Slices that are shifted against each other evenly (gantry tilt)
        make a sheared affine.

    Raises:
        InputError: not exactly one series, colour or multi-frame images, missing slices, several
            images at one position, uneven spacing, turned slices, a damaged file, or no pydicom.
    """
    check_dicom_support()
    try:
        return _read_series(folder, max_bytes, allow)
    except InputError:
        raise
    except Exception as error:  # pydicom parses a value when it is asked for
        raise _damaged(folder, error) from error


def _read_series(folder: Path, max_bytes: int, allow: Sequence[str]) -> Volume:
    headers = _images(folder, _read_headers(folder))
    _check_one_series(folder, headers)
    for path, header in headers:
        check_image(path, header, headers[0])
    modality = headers[0][1].get("Modality", "")
    if modality != "MR":
        log.warning("WARNING: %s: modality %r found, expected MR", folder, modality)
    headers, step = sort_slices(folder, headers, allow)
    array = _read_pixels(folder, headers, max_bytes)
    affine = series_affine(headers[0][1], step)
    image = nib.Nifti1Image(np.zeros(array.shape, np.uint8, order="F"), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return Volume(array, affine, array.shape, image.header, folder)


def _listed(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name != "DICOMDIR")


def _read_headers(folder: Path) -> list[tuple[Path, Any]]:
    """File and data set, without pixels, of every DICOM file in the folder."""
    import pydicom

    headers = []
    for name in _listed(os.listdir(folder)):
        path = folder / name
        if not path.is_file() or not is_dicom_file(path):
            continue
        try:
            # It would be inflated as a whole, however large, before anything can be checked.
            if _transfer_syntax(path) == _DEFLATED:
                raise InputError(f"{path}: a deflated DICOM file, expected plain transfer syntax")
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if _kind(header) is None:
                raise ValueError("the header ends early")
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path, error) from error
        headers.append((path, header))
    return headers


def _transfer_syntax(path: Path) -> str:
    """From the file's meta information, which some files lack."""
    import pydicom

    with path.open("rb") as stream:
        start = io.BytesIO(stream.read(2**16))
    pydicom.filereader.read_preamble(start, force=True)
    meta = pydicom.filereader.read_dataset(
        start, is_implicit_VR=False, is_little_endian=True, stop_when=_after_meta
    )
    return str(meta.get("TransferSyntaxUID", ""))


def _after_meta(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _images(folder: Path, headers: list) -> list:
    """Without reports, presentation states and, beside others, pictures of a screen."""

    images = [one for one in headers if "Image" in _kind(one[1]).name]
    originals = [one for one in images if not _kind(one[1]).startswith(_SECONDARY)]
    kept = originals or images
    for path, header in headers:
        if all(path != other for other, _ in kept):
            log.info("%s: skipped, it is no image of a series (%s)", path, _kind(header).name)
        elif "Rows" not in header:
            raise _damaged(path, ValueError("the header ends early"))
    return kept


def _kind(header: Any) -> Any:
    """The SOP class, which says what the object is; None in a file that does not know."""
    return header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")


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


def _read_pixels(folder: Path, headers: list, max_bytes: int) -> np.ndarray:
    """The voxels (x, y, z) in dcm2niix's order."""
    import pydicom
    from pydicom.uid import UID

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
            image = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in image.file_meta:  # lost with the preamble: not compressed
                implicit, _ = image.original_encoding
                image.file_meta.TransferSyntaxUID = UID(_PLAIN[bool(implicit)])
            pixels = image.pixel_array
        except Exception as error:
            raise _damaged(path, error) from error
        if pixels.shape != (shape[1], shape[0]):
            raise InputError(f"{path}: pixels of shape {pixels.shape}, expected {shape[1::-1]}")
        pixels = pixels[::-1].T
        array[:, :, number] = (
            pixels * np.float32(slope) + np.float32(intercept) if scaled else (pixels)
        )
    return array


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return InputError(f"{path}: damaged or not readable ({reason}), expected a DICOM image")
