"""Reads the bytes of one NRRD file: voxels, affine and header.

As in `formats`, what a file may make us do is bounded, and no other file is opened.
"""

import bz2
import gzip
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import nrrd
import numpy as np

from lagseg_jax.imaging.formats import Volume, check_size, damaged, read_voxels
from lagseg_jax.imaging.grid import column_lengths
from lagseg_jax.imaging.orientation import (
    WAY_OUT,
    OrientationError,
    affine_of_letters,
    spacing_contradiction,
)
from lagseg_jax.runtime.errors import InputError

# The sign of each world axis in RAS.
_SPACES = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
# Without a unit the field's tools mean mm; `???` is how NRRD writes "not known".
_UNITS_MM = {"": 1.0, "???": 1.0, "none": 1.0, "m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3}
_UNITS_MM |= {"meter": 1000.0, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3}
_UNITS_MM |= {"metre": 1000.0, "centimetre": 10.0, "millimetre": 1.0, "micrometre": 1e-3}
_UNITS_MM |= {"micron": 1e-3, "nm": 1e-6}
_UNITS_MM |= {f"{name}s": factor for name, factor in _UNITS_MM.items() if len(name) > 4}
# What a mask inherits from its image; the rest of a header is about intensities or people.
_GEOMETRY = (
    *("space", "space dimension", "space directions", "space origin", "space units"),
    *("spacings", "thicknesses", "units", "kinds", "centerings"),
)
_OPEN: dict[str, Callable] = {"raw": lambda stream: stream, "gzip": gzip.open, "gz": gzip.open}
_OPEN |= {"bzip2": bz2.open, "bz2": bz2.open}
_TEXT = ("ascii", "text", "txt")
_MAX_HEADER_BYTES = 2**20  # pynrrd needs seconds for more; real ones are a few kB
_MAX_NUMBER_BYTES = 64  # of one voxel written as text


def read_nrrd(path: Path, max_bytes: int, orientation: str = "") -> Volume:
    """Reads .nrrd with its data inside, raw, packed or text; raises as `read_nifti` does."""
    with path.open("rb") as stream:
        header = _read_header(path, stream)
        encoding = header["encoding"].lower()
        stored_shape = tuple(int(size) for size in header["sizes"])
        # pynrrd knows the thirty spellings of the types and the endian rule: ask it for one voxel.
        voxel = {**header, "dimension": 1, "sizes": np.array([1]), "encoding": "raw"}
        if encoding in _TEXT:
            voxel["endian"] = "little"
        dtype = nrrd.read_data(voxel, io.BytesIO(bytes(8))).dtype
        shape = check_size(path, stored_shape, dtype, 1, max_bytes)
        affine, note = _affine(path, header, shape, orientation)
        if encoding in _TEXT:
            array = _read_text(path, stream, shape, dtype)
        else:
            array = read_voxels(path, _OPEN[encoding](stream), shape, dtype)
    return Volume(array, affine, stored_shape, header, path, note)


def _read_header(path: Path, stream: io.BufferedReader) -> dict:
    """The fields, all that are needed; the stream is left where the data begin."""
    # Parsed from a bounded piece: a line of the header can be as long as the file.
    lines = []
    for line in io.BytesIO(stream.read(_MAX_HEADER_BYTES)):
        lines.append(line)
        if len(lines) > 1 and not line.strip():
            break
    text = b"".join(lines)
    stream.seek(len(text))
    # Blanks inside vectors are allowed by the format and not by pynrrd, which also drops all bytes
    # that are not ASCII, so that micrometres would become metres.
    text = re.sub(rb"\xc2\xb5|\xce\xbc|\xb5", b"u", text)
    text = re.sub(rb"\([^()\n]*\)", lambda vector: re.sub(rb"[ \t]+", b"", vector[0]), text)
    header = dict(nrrd.read_header(io.BytesIO(text)))
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
    if encoding not in (*_OPEN, *_TEXT) or skips:
        raise InputError(
            f"{path}: NRRD encoding {encoding}{' with skipped bytes' * skips} found, expected raw, "
            "gzip, bzip2 or ascii without line skip or byte skip."
        )
    if len(header["sizes"]) != header["dimension"]:
        raise InputError(
            f"{path}: dimension {header['dimension']} and sizes {header['sizes'].tolist()} in the "
            "NRRD header, expected as many sizes as dimensions."
        )
    return header


def _affine(path: Path, header: dict, shape: Sequence[int], told: str) -> tuple[np.ndarray, str]:
    """(4, 4) voxel index -> RAS mm, and a note of what was told: see `nifti_affine`."""
    spacings = None
    if "spacings" in header:
        units = _factors(path, header, "units")
        spacings = np.asarray(header["spacings"], np.float64)[:3] * units
    affine = np.eye(4)
    if "space directions" in header:
        units = _factors(path, header, "space units")
        # One row per axis; a unit for each world axis.
        affine[:3, :3] = np.asarray(header["space directions"], np.float64)[:3].T * units[:, None]
        affine[:3, 3] = header.get("space origin", np.zeros(3)) * units
    elif spacings is not None:
        affine[:3, :3] = np.diag(spacings)
        affine[:3, 3] = header.get("space origin", np.zeros(3))
    else:
        raise InputError(
            f"{path}: neither 'space directions' nor 'spacings' in the NRRD header, "
            "expected the voxel size in mm."
        )
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        return affine, ""  # which the caller refuses
    if "space directions" in header and spacings is not None and np.isfinite(spacings).all():
        found = spacing_contradiction("spacings", spacings, affine, shape, "space directions")
        if found:
            raise InputError(f"{path}: {found} found, expected one voxel size.")
    space = str(header.get("space", ""))
    if space.lower() in _SPACES:
        return np.diag([*_SPACES[space.lower()], 1.0]) @ affine, ""
    problem = f"NRRD space '{space}'" if space else "an NRRD header without 'space'"
    if len(told) == 3:
        note = f"{told} as told, the file has {problem}"
        return affine_of_letters(told, column_lengths(affine)), note
    raise OrientationError(
        f"{path}: {problem} found, so that its orientation is not known, expected one of "
        f"{', '.join(_SPACES)}: {WAY_OUT}."
    )


def _factors(path: Path, header: dict, field: str) -> np.ndarray:
    """mm (3,) in the units of a field, one for each axis."""
    names = [str(name).strip().strip('"').lower() for name in header.get(field, [""] * 3)][:3]
    for name in names:
        if name not in _UNITS_MM:
            raise InputError(
                f"{path}: {field} {name!r} found, expected a unit of length: mm, m, cm, um or nm."
            )
    names += [""] * (3 - len(names))
    return np.array([_UNITS_MM[name] for name in names])


def _read_text(
    path: Path, stream: io.BufferedIOBase, shape: Sequence[int], dtype: np.dtype
) -> np.ndarray:
    """Voxels written as numbers with blanks between them, in pieces."""
    data, filled, rest = np.empty(int(np.prod(shape)), dtype), 0, b""
    while True:
        piece = stream.read(2**16)
        words = (rest + piece).replace(b",", b" ").split()
        if piece and words and not piece[-1:].isspace():
            rest = words.pop()
        else:
            rest = b""
        if len(rest) > _MAX_NUMBER_BYTES:
            raise damaged(path, "text that is no number")
        if filled + len(words) > data.size:
            raise damaged(path, f"more than the {data.size} numbers that its header declares")
        values = np.array(words, np.float64)
        info = np.iinfo(dtype) if dtype.kind in "iu" else None
        if info and not ((values >= info.min) & (values <= info.max) & (values % 1 == 0)).all():
            raise damaged(path, f"numbers that are not of type {dtype}")
        data[filled : filled + len(words)] = values
        filled += len(words)
        if not piece:
            break
    if filled < data.size:
        raise InputError(f"{path}: truncated, {filled} numbers found, expected {data.size}.")
    return data.reshape(shape, order="F")


def nrrd_bytes(voxels: np.ndarray, like: Volume) -> bytes:
    """The content of a .nrrd file: as `nifti_bytes`."""
    if isinstance(like.header, dict):
        header = {key: like.header[key] for key in _GEOMETRY if key in like.header}
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
    if like.note:
        header["content"] = like.note
    stream = io.BytesIO()
    nrrd.write(stream, voxels, header | {"encoding": "gzip"}, compression_level=6)
    return stream.getvalue()
