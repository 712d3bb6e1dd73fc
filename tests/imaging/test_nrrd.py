"""NRRD: orientation, units of length, and every encoding of the voxels."""

import bz2
import gzip

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.orientation import OrientationError
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from oriented_files import LPS, SHAPE, SPACING, refused, voxels


def nrrd_file(path, encoding="raw", data=None, **fields):
    """A file written byte by byte; a field of None is left out."""
    header = {
        "type": "short",
        "dimension": 3,
        "sizes": "{} {} {}".format(*SHAPE),
        "endian": "little",
        "encoding": encoding,
        "space": "left-posterior-superior",
        "space directions": "(1.5,0,0) (0,1.25,0) (0,0,2.75)",
        "space origin": "(-70,-60,-30)",
    } | fields
    lines = [f"{key}: {value}" for key, value in header.items() if value is not None]
    raw = voxels().tobytes(order="F") if data is None else data
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + raw)
    return path


@pytest.mark.parametrize("space", [None, "scanner-xyz", "3D-right-handed"])
def test_nrrd_without_an_anatomical_space_is_refused_until_told(tmp_path, space):
    path = nrrd_file(tmp_path / "a.nrrd", space=space)
    if space is None:
        path = nrrd_file(tmp_path / "a.nrrd", space=None, **{"space dimension": 3})
    error = refused(path, "orientation", "--orientation", space or "without 'space'")
    assert isinstance(error, OrientationError)
    refused(path, orientation="sform")
    volume = read_volume(path, Reading(orientation="LPS"))
    np.testing.assert_allclose(volume.affine[:3, :3], LPS[:3, :3])
    assert "LPS as told" in volume.note


@pytest.mark.parametrize("letters", ["LPS", "RAS", "SAR"])
def test_nrrd_with_spacings_only_needs_an_orientation(tmp_path, letters):
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), voxels(), {"spacings": SPACING, "units": ["mm"] * 3})
    refused(path, "without 'space'")
    volume = read_volume(path, Reading(orientation=letters))
    assert nib.aff2axcodes(volume.affine) == tuple(letters)
    assert volume.spacing == pytest.approx(SPACING)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *(("mm", 1), ("m", 1000), ("cm", 10), ("um", 1e-3), ("nm", 1e-6), ("µm", 1e-3), ("", 1)),
        *(("Millimeters", 1), ("millimetre", 1), ("centimetre", 10), ("centimeters", 10)),
        *(("metres", 1000), ("meter", 1000), ("none", 1), ("???", 1)),
        *(("micron", 1e-3), ("micrometer", 1e-3), ("micrometres", 1e-3)),
    ],
)
def test_nrrd_units_of_length(tmp_path, unit, factor):
    path = nrrd_file(tmp_path / "a.nrrd", **{"space units": " ".join([f'"{unit}"'] * 3)})
    np.testing.assert_allclose(read_volume(path).affine[:3], factor * LPS[:3])
    path = nrrd_file(
        path,
        **{"space": None, "space directions": None, "space origin": None, "spacings": "3 2 1"},
        units=" ".join([f'"{unit}"'] * 3),
    )
    found = read_volume(path, Reading(orientation="RAS")).spacing
    np.testing.assert_allclose(found, np.multiply((3, 2, 1), factor))


def test_an_nrrd_unit_per_axis(tmp_path):
    path = nrrd_file(tmp_path / "a.nrrd", **{"space units": '"mm" "mm" "cm"'})
    np.testing.assert_allclose(read_volume(path).affine, np.diag([1, 1, 10, 1]) @ LPS)


@pytest.mark.parametrize("unit", ["inch", "pixel", "s", "ms", "mms"])
def test_an_unknown_nrrd_unit_is_refused(tmp_path, unit):
    path = nrrd_file(tmp_path / "a.nrrd", **{"space units": " ".join([f'"{unit}"'] * 3)})
    refused(path, f"'{unit}'", "unit of length")


def test_nrrd_spacings_that_contradict_the_directions_are_refused(tmp_path):
    refused(nrrd_file(tmp_path / "a.nrrd", spacings="1 1 1"), "spacings", "contradicts")
    path = nrrd_file(tmp_path / "b.nrrd", spacings="1.5 1.25 2.75")
    np.testing.assert_allclose(read_volume(path).affine, LPS)


def test_blanks_inside_vectors(tmp_path):
    path = nrrd_file(
        tmp_path / "a.nrrd",
        **{"space directions": "( 1.5 , 0 , 0 ) (0, 1.25,\t0) ( 0,0 ,2.75 )"},
        **{"space origin": "( -70, -60 ,-30 )"},
    )
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, LPS)
    np.testing.assert_array_equal(volume.array, voxels())


def as_text(array, separator=" "):
    return separator.join(map(str, array.ravel(order="F").tolist())).encode()


@pytest.mark.parametrize("encoding", ["bzip2", "bz2", "ascii", "text", "txt", "gzip", "raw"])
def test_nrrd_encodings(tmp_path, encoding):
    raw = voxels().tobytes(order="F")
    data = {"b": lambda: bz2.compress(raw), "a": lambda: as_text(voxels(), "\n"), "r": lambda: raw}
    data |= {"t": lambda: as_text(voxels()) + b"\n", "g": lambda: gzip.compress(raw)}
    path = nrrd_file(tmp_path / "a.nrrd", encoding, data[encoding[0]]())
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, voxels())


def test_text_of_real_numbers_and_of_every_size_of_piece(tmp_path):
    values = np.random.default_rng(0).normal(0, 1e6, (17, 31, 37))
    header = {"type": "double", "sizes": "17 31 37"}
    path = nrrd_file(tmp_path / "a.nrrd", "ascii", as_text(values, "  "), **header)
    np.testing.assert_array_equal(read_volume(path).array, values)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (as_text(voxels())[:-3] + b"  ", "truncated"),
        (as_text(voxels()) + b" 1", "more than"),
        (as_text(voxels()) + b" 1" * 10**5, "more than"),
        (b"1 " * 7 + b"9" * 10**6, "no number"),
        (b"70000 " * voxels().size, "not of type int16"),
        (b"0.5 " * voxels().size, "not of type int16"),
        (b"nan " * voxels().size, "not of type int16"),
        (b"one " * voxels().size, "damaged"),
    ],
)
def test_damaged_text_is_refused(tmp_path, data, found):
    refused(nrrd_file(tmp_path / "a.nrrd", "ascii", data), found)


def test_a_bzip2_bomb_is_not_unpacked(tmp_path):
    path = nrrd_file(tmp_path / "a.nrrd", "bzip2", bz2.compress(bytes(2**27)))
    refused(path, "damaged, more than")
