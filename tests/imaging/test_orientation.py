"""A file says which way its axes grow, or the user does: nothing is guessed."""

import itertools

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.orientation import OrientationError, affine_of_letters, check_orientation
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.runtime.errors import InputError
from oriented_files import LPS, RAS, SPACING, refused, save, voxels


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
