"""A file says which way its axes grow, or the user does: nothing is guessed."""

import bz2
import gzip
import itertools

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.orientation import OrientationError, affine_of_letters, check_orientation
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.runtime.errors import InputError

SHAPE = (97, 89, 23)
SPACING = (1.5, 1.25, 2.75)
LPS = np.diag([-1.5, -1.25, 2.75, 1.0])
RAS = np.diag([1.5, 1.25, 2.75, 1.0])
LPS[:3, 3], RAS[:3, 3] = (70, 60, -30), (-70, -60, -30)


def voxels(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)


def save(path, qform=(LPS, 1), sform=(LPS, 1), **fields):
    """A NIfTI file whose forms, codes and other fields are what the test says."""
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_zooms(SPACING)
    image.header.set_xyzt_units("mm")
    image.set_sform(*sform)
    image.set_qform(*qform)
    content = image.to_bytes()
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()[0]
    for field, value in fields.items():
        header[field] = value
    content = header.tobytes() + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def refused(path, *expected, **options):
    with pytest.raises(InputError) as error:
        read_volume(path, Reading(**options))
    message = str(error.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    for text in expected:
        assert text in message, message
    return error.value


def turn(degrees):
    """A rotation about the patient's long axis."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


# NIfTI


def test_codes_0_are_refused_until_the_orientation_is_told(tmp_path):
    path = save(tmp_path / "a.nii", qform_code=0, sform_code=0)
    error = refused(path, "qform_code and sform_code 0", "orientation", "--orientation", "LPS")
    assert isinstance(error, OrientationError)
    for letters in ("LPS", "RAS", "PIR"):
        volume = read_volume(path, Reading(orientation=letters))
        assert nib.aff2axcodes(volume.affine) == tuple(letters) and letters in volume.note
        np.testing.assert_allclose(volume.spacing, SPACING)
        np.testing.assert_array_equal(volume.array, voxels())
    np.testing.assert_allclose(read_volume(path, Reading(orientation="sform")).affine, LPS)
    turned = read_volume(path, Reading(orientation="qform")).affine
    np.testing.assert_allclose(turned, LPS, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        RAS,
        LPS @ turn(0.3),  # a corner lies 0.7 voxels away
        LPS @ np.diag([1, 1, 1.01, 1]),  # 0.23 voxels at the far end
        LPS + np.outer([0, 0, 1, 0], [0, 0, 0, 1.4]),  # half a voxel
    ],
    ids=["mirrored", "turned", "stretched", "shifted"],
)
def test_a_qform_that_contradicts_the_sform_is_refused(tmp_path, other):
    path = save(tmp_path / "a.nii", qform=(LPS, 1), sform=(other, 1))
    refused(path, "qform that contradicts the sform", "voxels apart", "sform or qform")
    np.testing.assert_allclose(
        read_volume(path, Reading(orientation="qform")).affine, nib.load(path).get_qform()
    )
    volume = read_volume(path, Reading(orientation="sform"))
    np.testing.assert_allclose(volume.affine, other, rtol=1e-6)
    assert volume.note.startswith("sform as told")


@pytest.mark.parametrize("degrees", [0, 1e-3, 0.01, 0.03, 0.1, 1, 33, 90, 179.99, 180])
def test_rounding_of_the_quaternion_is_no_contradiction(tmp_path, degrees):
    """Near a half turn, float32 leaves the angle uncertain by half a voxel at the far corner."""
    affine = np.diag([-0.625, -0.625, 2.5, 1]) @ turn(degrees)
    image = nib.Nifti1Image(np.zeros((640, 640, 1), np.uint8), None)
    image.header.set_zooms((0.625, 0.625, 2.5))
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    # Other writers round the components each on its own.
    for field in ("quatern_b", "quatern_c", "quatern_d"):
        image.header[field] = np.nextafter(image.header[field], np.float32(0))
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert not volume.note


def test_a_zero_sform_beside_a_valid_qform_is_not_there(tmp_path):
    zeros = dict.fromkeys(("srow_x", "srow_y", "srow_z"), 0)
    path = save(tmp_path / "a.nii", qform=(RAS, 1), **zeros)
    np.testing.assert_allclose(read_volume(path).affine, RAS, atol=1e-5)
    refused(save(tmp_path / "b.nii", qform_code=0, **zeros), "singular")


def test_what_is_told_counts_only_where_the_file_does_not_say(tmp_path):
    for number, codes in enumerate([(1, 1), (1, 0), (0, 2)]):
        path = save(tmp_path / f"{number}.nii", (LPS, codes[0]), (LPS, codes[1]))
        for told in ("RAS", "qform", "sform"):
            volume = read_volume(path, Reading(orientation=told))
            np.testing.assert_allclose(volume.affine, LPS, atol=1e-5)
            assert not volume.note


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (1.5, 1.25, 2.5), (1.5, 1.27, 2.75), (1.5, np.nan, 2)]
)
def test_spacing_that_contradicts_the_sform_is_refused(tmp_path, sizes):
    path = save(tmp_path / "a.nii", (LPS, 0), (LPS, 1), pixdim=[1, *sizes, 1, 1, 1, 1])
    refused(path, "pixdim", "contradicts the sform", "1.5 x 1.25 x 2.75")
    np.testing.assert_allclose(read_volume(path, Reading(orientation="sform")).affine, LPS)


def test_rounded_and_lost_voxel_sizes_are_no_contradiction(tmp_path):
    affine = np.diag([0.78125, 0.78125, 2.5, 1])
    for number, sizes in enumerate([(0.781, 0.781, 2.5), (0, 0, 0), (0.78125, 0, 2.5)]):
        image = nib.Nifti1Image(np.zeros((512, 512, 1), np.uint8), None)
        image.set_sform(affine, 1)
        image.header["pixdim"][1:4] = sizes
        (tmp_path / f"{number}.nii").write_bytes(image.to_bytes())
        np.testing.assert_allclose(read_volume(tmp_path / f"{number}.nii").affine, affine)


def test_the_mask_says_what_was_told(tmp_path):
    for suffix in (".nii.gz", ".nrrd"):
        if suffix == ".nrrd":
            path = tmp_path / "a.nrrd"
            nrrd.write(str(path), voxels(), {"spacings": SPACING})
        else:
            path = save(tmp_path / "a.nii.gz", qform_code=0, sform_code=0)
        volume = read_volume(path, Reading(orientation="LPS"))
        write_mask(tmp_path / f"mask{suffix}", volume.array > 50, volume)
        mask = read_volume(tmp_path / f"mask{suffix}", Reading(orientation="LPS"))
        np.testing.assert_allclose(mask.affine, volume.affine)
        said = mask.header["content"] if suffix == ".nrrd" else str(mask.header["descrip"])
        assert "LPS as told" in said


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3), (10, 1)])
def test_nifti_units_of_length(tmp_path, code, factor):
    forms = [np.diag([*np.divide([-1, -1, 1, factor], factor)]) @ LPS for _ in range(2)]
    for qform, sform in ((1, 1), (1, 0), (0, 1)):
        path = save(
            tmp_path / "a.nii",
            (forms[0], qform),
            (forms[1], sform),
            pixdim=[1, *np.divide(SPACING, factor), 1, 1, 1, 1],
            xyzt_units=code,
        )
        volume = read_volume(path)
        np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ LPS, rtol=1e-6)


@pytest.mark.parametrize("code", [4, 7, 12])
def test_an_unknown_nifti_unit_is_refused(tmp_path, code):
    refused(save(tmp_path / "a.nii", xyzt_units=code), f"unit of length {code & 7}", "mm")


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_voxel_size_of_0_is_refused_where_only_it_says_the_spacing(tmp_path, axis):
    """nibabel would read 1 mm."""
    pixdim = [1, *SPACING, 1, 1, 1, 1]
    pixdim[axis] = 0
    refused(save(tmp_path / "a.nii", sform=(None, 0), pixdim=pixdim), "voxel size", "above 0")


def test_zeros_behind_the_voxels_are_read_anything_else_is_not(tmp_path):
    path = save(tmp_path / "a.nii")
    content = path.read_bytes()
    for tail in (bytes(1), bytes(512), bytes(2**16)):
        path.write_bytes(content + tail)
        np.testing.assert_array_equal(read_volume(path).array, voxels())
    for tail in (b"x", bytes(511) + b"x", bytes(2**16 + 1)):
        path.write_bytes(content + tail)
        refused(path, "damaged, more than")


# NRRD


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


# The option


def test_letters():
    letters = [
        "".join(axes)
        for sides in itertools.product("RL", "AP", "SI")
        for axes in itertools.permutations(sides)
    ]
    assert len(letters) == 48
    for one in letters:
        check_orientation("--orientation", one)
        affine = affine_of_letters(one, np.array(SPACING))
        assert "".join(nib.aff2axcodes(affine)) == one
        np.testing.assert_allclose(nib.affines.voxel_sizes(affine), SPACING)
    for one in ("", "sform", "qform"):
        check_orientation("--orientation", one)
    for one in ("lps", "LLS", "LP", "LPSS", "LRS", "best", "XYZ"):
        with pytest.raises(InputError, match="--orientation"):
            check_orientation("--orientation", one)
