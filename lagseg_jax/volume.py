"""volume file -> array (x, y, z) + affine voxel -> RAS mm, and masks back in the same geometry."""

import gzip
import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import nrrd
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    io_orientation,
    ornt_transform,
)

from lagseg_jax.errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".nrrd")

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
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))


def is_volume_file(path: str | Path) -> bool:
    """Whether the name is that of a volume; dot-files (AppleDouble `._x.nii.gz`) are not."""
    name = Path(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def case_name(path: str | Path) -> str:
    """File name without `.nii.gz`, `.nii` or `.nrrd`."""
    name = Path(path).name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def read_volume(path: str | Path, max_bytes: int = 2**31) -> Volume:
    """Reads a 3-D volume from `.nii`, `.nii.gz` or `.nrrd`.

    Raises:
        InputError: missing, damaged or truncated file, not exactly one 3-D volume, more than
            `max_bytes` of voxels declared (refused before they are allocated), NaN or infinite
            voxels, singular affine, NRRD whose data lie in another file.
    """
    path = Path(path)
    if not is_volume_file(path):
        raise InputError(f"{path}: not a volume file name, expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: {found}, expected a volume file.")
    read = _read_nrrd if path.name.lower().endswith(".nrrd") else _read_nifti
    try:
        volume = read(path, max_bytes)
    except InputError:
        raise
    except Exception as error:  # the parsers raise whatever a damaged header makes them stumble on
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise InputError(
            f"{path}: damaged or not what its name says ({reason}), expected an intact "
            f"{'NRRD' if read is _read_nrrd else 'NIfTI'} file."
        ) from error
    _check_content(volume)
    return volume


def read_label(path: str | Path, label_value: int | None = None) -> Volume:
    """Reads a label as a uint8 mask (x, y, z) of 0 and 1.

    Data sets write the atrium as 1, 255 or 420, so its value is the only non-zero one, or else
    `label_value`. An all-zero label is an empty mask.

    Raises:
        InputError: as `read_volume`; several non-zero values and no `label_value`; or
            `label_value` not among them.
    """
    volume = read_volume(path)
    values = np.unique(volume.array[volume.array != 0]).tolist()
    listed = ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if values[10:] else "")
    if label_value is None and len(values) > 1:
        raise InputError(
            f"{path}: the label has the non-zero values {listed}, expected exactly one; "
            "name the atrium's with config.data.label_value."
        )
    if label_value is not None and values and label_value not in values:
        raise InputError(
            f"{path}: the label has the non-zero values {listed}, expected "
            f"config.data.label_value={label_value} among them."
        )
    mask = volume.array == label_value if label_value is not None else volume.array != 0
    return replace(volume, array=mask.astype(np.uint8))


def check_same_geometry(image: Volume, label: Volume) -> None:
    """Image and label must share one voxel grid: equal shape, affines within 1e-3 mm.

    Raises:
        InputError: they do not; they are never aligned by index.
    """
    if image.array.shape != label.array.shape:
        raise InputError(
            f"{label.path}: shape {label.array.shape} found, expected {image.array.shape} "
            f"as in {image.path}."
        )
    difference = np.abs(image.affine - label.affine).max()
    if difference > 1e-3:
        raise InputError(
            f"{label.path}: position or orientation differs from {image.path} (affines by up to "
            f"{difference:.4g} mm), expected the same geometry."
        )


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
    """Writes a mask (x, y, z) as uint8 with the geometry of `like`, complete or not at all.

    The file gets the affine and stored shape of `like`, and where the format is the same also its
    header: qform and sform codes, voxel sizes, units. What describes intensities is reset.

    Raises:
        InputError: `path` does not end in .nii.gz, .nii or .nrrd.
        ValueError: the shape of `mask` is not that of `like.array`.
    """
    path = Path(path)
    if not is_volume_file(path):
        raise InputError(f"{path}: cannot write a mask here, expected {', '.join(SUFFIXES)}.")
    if mask.shape != like.array.shape:
        raise ValueError(f"mask of shape {mask.shape}, expected {like.array.shape}")
    voxels = mask.astype(np.uint8).reshape(like.stored_shape)
    name = path.name.lower()
    content = _nrrd_bytes(voxels, like) if name.endswith(".nrrd") else _nifti_bytes(voxels, like)
    if name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_nifti(path: Path, max_bytes: int) -> Volume:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        start = stream.read(4)
        version_2 = int.from_bytes(start, "little") == 540 or int.from_bytes(start, "big") == 540
        kind = nib.nifti2.Nifti2Header if version_2 else nib.Nifti1Header
        block = start + stream.read(kind.template_dtype.itemsize - 4)
        header = kind(block)
        offset = header.get_data_offset()
        if header["magic"].item() != header.single_magic or offset > _MAX_HEADER_BYTES:
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
        with np.errstate(over="ignore", invalid="ignore"):  # _check_content reports what overflows
            array *= np.float32(slope)
            array += np.float32(intercept)
    affine = header.get_best_affine()
    affine[:3] *= _METRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return Volume(array, affine, stored_shape, header, path)


def _read_nrrd(path: Path, max_bytes: int) -> Volume:
    with path.open("rb") as stream:
        # Parsed from a bounded piece: a line of the header can be as long as the file.
        beginning = io.BytesIO(stream.read(_MAX_HEADER_BYTES))
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
    path: Path, stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype
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
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_content(volume: Volume) -> None:
    directions = volume.affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    regular = np.isfinite(volume.affine).all() and lengths.all()
    if not regular or abs(np.linalg.det(directions / lengths)) < 1e-6:
        raise InputError(
            f"{volume.path}: affine {volume.affine[:3].tolist()} is singular or not finite, "
            "expected three independent voxel directions in mm."
        )
    # Slice by slice, so that no second volume is allocated.
    bad = sum(int((~np.isfinite(plane)).sum()) for plane in np.moveaxis(volume.array, 2, 0))
    if bad:
        raise InputError(f"{volume.path}: {bad} voxels are NaN or infinite, expected none.")


def _nifti_bytes(voxels: np.ndarray, like: Volume) -> bytes:
    if isinstance(like.header, dict):
        image = nib.Nifti1Image(voxels, like.affine)
        image.header.set_xyzt_units("mm")
        return image.to_bytes()
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_intent("none")
    for field in ("cal_min", "cal_max", "descrip", "aux_file"):
        header[field] = np.zeros_like(header[field])
    kind = nib.Nifti2Image if isinstance(header, nib.nifti2.Nifti2Header) else nib.Nifti1Image
    # Affine None: qform, sform and their codes stay as they are in the header.
    return kind(voxels, None, header).to_bytes()


def _nrrd_bytes(voxels: np.ndarray, like: Volume) -> bytes:
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
