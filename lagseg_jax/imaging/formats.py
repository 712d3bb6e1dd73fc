"""Reads and writes the bytes of one NIfTI file: voxels, affine and header.

What a file may make us do is bounded: nothing larger than its header declares, and the caller
allows, is allocated or unpacked, and no other file is opened.
"""

import gzip
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from lagseg_jax.imaging.grid import column_lengths
from lagseg_jax.imaging.orientation import nifti_affine
from lagseg_jax.runtime.errors import InputError

MAX_BYTES = 2 * 10**9  # of voxels in one file; `config.data.max_gb` and `--max_gb` change it
# NIfTI xyzt_units & 7 -> mm. Most writers leave 0, "unknown", and mean mm.
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_MAX_HEADER_BYTES = 2**24
_MAX_PADDING_BYTES = 2**16
_SILENT = logging.getLogger(f"{__name__}.nibabel")  # the refusal says it already
_SILENT.disabled = True


@dataclass(frozen=True, eq=False)
class Volume:
    """One image or label as stored, no axis turned.

    array: (x, y, z), the stored dtype in native byte order (float32 where the header scales).
    affine: (4, 4) float64, voxel index -> RAS position in mm.
    stored_shape: the shape in the file, with the trailing singleton axes that `array` lacks.
    header: nibabel header (NIfTI) or dict (NRRD), for writing masks back.
    note: which orientation was told from outside, and why; "" where the file itself says it.
    """

    array: np.ndarray
    affine: np.ndarray
    stored_shape: tuple[int, ...]
    header: nib.Nifti1Header | dict
    path: Path
    note: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances in mm to the next voxel along the three axes of `array`."""
        x, y, z = column_lengths(self.affine)
        return float(x), float(y), float(z)


def read_nifti(path: Path, max_bytes: int, orientation: str = "") -> Volume:
    """Reads .nii or .nii.gz, NIfTI-1 or NIfTI-2; raises InputError or what the parser raises."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        start = stream.read(4)
        version_2 = int.from_bytes(start, "little") == 540 or int.from_bytes(start, "big") == 540
        kind = nib.nifti2.Nifti2Header if version_2 else nib.Nifti1Header
        block = start + stream.read(kind.template_dtype.itemsize - 4)
        header = kind(block, check=False)
        header.check_fix(logger=_SILENT)
        offset = header.get_data_offset()
        single_file = header["magic"].item() == header.single_magic
        if not single_file or not len(block) <= offset <= _MAX_HEADER_BYTES:
            raise InputError(
                f"{path}: half of a .hdr/.img pair, or data that start at byte {offset}, expected "
                "header and data in one file."
            )
        # nibabel has put 1 mm where the file says 0.
        sizes = kind(block, check=False)["pixdim"][1:4].astype(np.float64)
        if header["sform_code"] == 0 and not sizes.all():
            raise InputError(f"{path}: voxel size {sizes} mm found, expected three above 0.")
        slope, intercept = header.get_slope_inter()
        scaled = (slope or 1.0, intercept or 0.0) != (1.0, 0.0)
        dtype = header.get_data_dtype()
        stored_shape = tuple(int(size) for size in header.get_data_shape())
        shape = check_size(path, stored_shape, dtype, 4 if scaled else 1, max_bytes)
        affine, note = header_affine(path, header, sizes, shape, orientation)
        stream.read(offset - len(block))
        array = read_voxels(path, stream, shape, dtype)
    if scaled:
        array = array.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
    return Volume(array, affine, stored_shape, header, path, note)


def header_affine(
    path: Path, header: nib.Nifti1Header, sizes: np.ndarray, shape: Sequence[int], orientation: str
) -> tuple[np.ndarray, str]:
    """`nifti_affine` in mm, whatever the header's unit of length."""
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS_MM:
        raise InputError(
            f"{path}: unit of length {code} in xyzt_units found, expected 1 (m), 2 (mm), 3 (um) or "
            "0 (not stated, which counts as mm)."
        )
    factor = _UNITS_MM[code]
    if factor != 1:
        header = header.copy()
        header["pixdim"][1:4] *= factor
        for field in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
            header[field] = header[field] * factor
    return nifti_affine(path, header, sizes * factor, shape, orientation)


def check_size(
    path: Path, stored_shape: tuple[int, ...], dtype: np.dtype, itemsize: int, max_bytes: int
) -> tuple[int, ...]:
    """Stored shape -> (x, y, z); `itemsize` is that of the decoded array if it is the larger."""
    shape = stored_shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            f"{path}: {len(shape)}-D image of shape {stored_shape} found, expected one 3-D volume."
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: voxels of type {dtype} found, expected one real number each.")
    declared = math.prod(shape) * max(dtype.itemsize, itemsize)
    if declared > max_bytes:
        raise InputError(
            f"{path}: header declares {declared} bytes of voxels (shape {stored_shape}), "
            f"expected at most {max_bytes}."
        )
    return shape


def read_voxels(
    path: Path, stream: io.BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Exactly the declared bytes, in pieces: a bomb is never unpacked further than its header."""
    data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    filled = 0
    while filled < data.size and (piece := stream.read(min(2**20, data.size - filled))):
        data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if filled < data.size:
        raise InputError(
            f"{path}: truncated, {filled} bytes of voxels found, expected {data.size}."
        )
    # Gzip compares the checksum only when its end is reached, and damaged streams often run on. A
    # few zeros behind the voxels are the padding of some writers and archives.
    rest = stream.read(_MAX_PADDING_BYTES + 1)
    if len(rest) > _MAX_PADDING_BYTES or rest.strip(b"\0"):
        raise damaged(path, f"more than the {data.size} bytes of voxels that its header declares")
    array = data.view(dtype).reshape(shape, order="F")
    if not dtype.isnative:
        array.byteswap(inplace=True)
    return array.view(dtype.newbyteorder("="))


def damaged(path: Path, found: str) -> InputError:
    """The refusal of a file whose content is not what its header says."""
    return InputError(f"{path}: damaged, {found} found, expected exactly its voxels.")


def nifti_bytes(voxels: np.ndarray, like: Volume) -> bytes:
    """The content of a .nii file: voxels in the stored shape, with the geometry of `like`."""
    if isinstance(like.header, dict):
        image = nib.Nifti1Image(voxels, like.affine)
        image.header.set_xyzt_units("mm")
        return image.to_bytes()
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_intent("none")
    for field in ("cal_min", "cal_max", "descrip", "aux_file"):
        header[field] = np.zeros_like(header[field])
    header["descrip"] = like.note[:79]
    kind = nib.Nifti2Image if isinstance(header, nib.nifti2.Nifti2Header) else nib.Nifti1Image
    # Affine None: qform, sform and their codes stay as they are in the header.
    return kind(voxels, None, header).to_bytes()
