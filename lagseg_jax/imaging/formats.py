"""bytes of one NIfTI or NRRD file <-> voxels (x, y, z), affine voxel -> RAS mm, and header.

What a file may make us do is bounded: nothing larger than its header declares, and the caller
allows, is allocated or unpacked, and no other file is opened.
"""

import gzip
import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np

from lagseg_jax.runtime.errors import InputError

# The sign of each world axis in RAS. Without the field, ITK and 3D Slicer take LPS, and so do we.
_NRRD_SPACES = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
# What a mask inherits from its image; the rest of an NRRD header is about intensities or people.
_NRRD_GEOMETRY = (
    *("space", "space dimension", "space directions", "space origin", "space units"),
    *("spacings", "thicknesses", "units", "kinds", "centerings"),
)
_METRES = {1: 1000.0, 3: 0.001}  # NIfTI xyzt_units & 7: metre, micrometre; all else counts as mm
_MAX_HEADER_BYTES = 2**24
_MAX_NRRD_HEADER_BYTES = 2**20  # pynrrd needs seconds for more; real ones are a few kB
_SILENT = logging.getLogger(f"{__name__}.nibabel")  # the refusal says it already
_SILENT.disabled = True


@dataclass(frozen=True, eq=False)
class Volume:
    """One image or label as stored, no axis turned.

    array: (x, y, z), the stored dtype in native byte order (float32 where the header scales).
    affine: (4, 4) float64, voxel index -> RAS position in mm.
    stored_shape: the shape in the file, with the trailing singleton axes that `array` lacks.
    header: nibabel header (NIfTI) or dict (NRRD), for writing masks back.
    """

    array: np.ndarray
    affine: np.ndarray
    stored_shape: tuple[int, ...]
    header: nib.Nifti1Header | dict
    path: Path

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the three axes of `array`."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_nifti(path: Path, max_bytes: int) -> Volume:
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
        sizes = kind(block, check=False)["pixdim"][1:4]
        if header["sform_code"] == 0 and not sizes.all():
            raise InputError(f"{path}: voxel size {sizes} mm found, expected three above 0.")
        slope, intercept = header.get_slope_inter()
        scaled = (slope or 1.0, intercept or 0.0) != (1.0, 0.0)
        dtype = header.get_data_dtype()
        stored_shape = tuple(int(size) for size in header.get_data_shape())
        shape = _check_size(path, stored_shape, dtype, 4 if scaled else 1, max_bytes)
        stream.read(offset - len(block))
        array = _read_voxels(path, stream, shape, dtype)
    if scaled:
        array = array.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
    affine = header.get_best_affine()
    affine[:3] *= _METRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return Volume(array, affine, stored_shape, header, path)


def read_nrrd(path: Path, max_bytes: int) -> Volume:
    """Reads .nrrd with its data inside, raw or gzip; raises as `read_nifti` does."""
    with path.open("rb") as stream:
        # Parsed from a bounded piece: a line of the header can be as long as the file.
        beginning = io.BytesIO(stream.read(_MAX_NRRD_HEADER_BYTES))
        header = dict(nrrd.read_header(beginning))
        for field in ("data file", "datafile"):
            if field in header:
                raise InputError(
                    f"{path}: the data lie in another file ({field}: {header[field]}), "
                    "expected header and data in one file."
                )
        for field in ("type", "dimension", "sizes", "encoding"):
            if field not in header:
                raise InputError(f"{path}: no field '{field}' in the NRRD header, expected one.")
        encoding = header["encoding"].lower()
        skips = any(header.get(f"{unit}skip") for unit in ("line", "line ", "byte", "byte "))
        if encoding not in ("raw", "gzip", "gz") or skips:
            raise InputError(
                f"{path}: NRRD encoding {encoding}{' with skipped bytes' * skips} found, "
                "expected raw or gzip without line skip or byte skip."
            )
        stored_shape = tuple(int(size) for size in header["sizes"])
        if len(stored_shape) != header["dimension"]:
            raise InputError(
                f"{path}: dimension {header['dimension']} and sizes {stored_shape} in the NRRD "
                "header, expected as many sizes as dimensions."
            )
        # pynrrd knows the thirty spellings of the types and the endian rule: ask it for one voxel.
        voxel = {**header, "dimension": 1, "sizes": np.array([1]), "encoding": "raw"}
        dtype = nrrd.read_data(voxel, io.BytesIO(bytes(8))).dtype
        shape = _check_size(path, stored_shape, dtype, 1, max_bytes)
        stream.seek(beginning.tell())
        data = stream if encoding == "raw" else gzip.GzipFile(fileobj=stream)
        array = _read_voxels(path, data, shape, dtype)
    return Volume(array, _nrrd_affine(path, header), stored_shape, header, path)


def _nrrd_affine(path: Path, header: dict) -> np.ndarray:
    space = str(header.get("space", "left-posterior-superior"))
    if space.lower() not in _NRRD_SPACES:
        raise InputError(
            f"{path}: NRRD space '{space}' found, expected one of {', '.join(_NRRD_SPACES)}."
        )
    if "space directions" in header:
        directions = np.asarray(header["space directions"], np.float64)[:3]  # one row per axis
    elif "spacings" in header:
        directions = np.diag(np.asarray(header["spacings"], np.float64)[:3])
    else:
        raise InputError(
            f"{path}: neither 'space directions' nor 'spacings' in the NRRD header, "
            "expected the voxel size in mm."
        )
    affine = np.eye(4)
    affine[:3, :3] = directions.T
    affine[:3, 3] = header.get("space origin", 0.0)
    return np.diag([*_NRRD_SPACES[space.lower()], 1.0]) @ affine


def _check_size(
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


def _read_voxels(
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
    # Gzip compares the checksum only when its end is reached, and damaged streams often run on.
    if stream.read(1):
        raise InputError(
            f"{path}: damaged, more than the {data.size} bytes of voxels found that its header "
            "declares."
        )
    array = data.view(dtype).reshape(shape, order="F")
    if not dtype.isnative:
        array.byteswap(inplace=True)
    return array.view(dtype.newbyteorder("="))


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
    kind = nib.Nifti2Image if isinstance(header, nib.nifti2.Nifti2Header) else nib.Nifti1Image
    # Affine None: qform, sform and their codes stay as they are in the header.
    return kind(voxels, None, header).to_bytes()


def nrrd_bytes(voxels: np.ndarray, like: Volume) -> bytes:
    """The content of a .nrrd file: as `nifti_bytes`."""
    if isinstance(like.header, dict):
        header = {key: like.header[key] for key in _NRRD_GEOMETRY if key in like.header}
    else:
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ like.affine
        directions = np.full((voxels.ndim, 3), np.nan)  # NaN is written as `none`
        directions[:3] = lps[:3, :3].T
        header = {
            "space": "left-posterior-superior",
            "space directions": directions,
            "space origin": lps[:3, 3],
            "kinds": ["domain"] * 3 + ["list"] * (voxels.ndim - 3),
        }
    stream = io.BytesIO()
    nrrd.write(stream, voxels, header | {"encoding": "gzip"}, compression_level=6)
    return stream.getvalue()
