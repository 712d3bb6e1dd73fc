"""Files made with nibabel and pynrrd, or byte by byte, against what lagseg_jax.volume reads."""

import itertools
import os

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.labels import LabelRule, read_label
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import (
    SUFFIXES,
    case_name,
    from_canonical,
    is_volume_file,
    read_volume,
    to_canonical,
    write_mask,
)
from volume_files import (
    LPS,
    SHAPE,
    SPACING,
    nifti_bytes,
    noise,
    oblique_affine,
    refused,
    save,
    save_nrrd,
)

ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3))
)


def reference(path):
    """Array and voxel -> RAS affine by the libraries themselves."""
    if path.suffix != ".nrrd":
        image = nib.load(path)
        return np.asarray(image.dataobj), image.affine
    array, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"][:3].T
    affine[:3, 3] = header["space origin"]
    return array, LPS @ affine


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_geometry_round_trip_over_all_48_orientations(tmp_path, suffix):
    assert len(ORIENTATIONS) == 48
    random = np.random.RandomState(1)
    for number, (permutation, signs) in enumerate(ORIENTATIONS):
        affine = oblique_affine(permutation, signs)
        path = save(tmp_path / f"{number}{suffix}", noise(seed=number), affine)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, reference(path)[0])
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5, rtol=0)

        # A network that marks one voxel in the canonical view, at a known place in the scanner.
        voxel = tuple(random.randint(size) for size in SHAPE)
        position = affine @ [*voxel, 1]
        one_hot = np.zeros(SHAPE, np.uint8)
        one_hot[voxel] = 1
        canonical, orientation = to_canonical(one_hot, volume.affine)
        mask = from_canonical(np.ascontiguousarray(canonical), orientation)
        write_mask(tmp_path / f"mask{suffix}", mask, volume)

        written, written_affine = reference(tmp_path / f"mask{suffix}")
        assert written.dtype == np.uint8 and written.shape == SHAPE
        np.testing.assert_allclose(written_affine, volume.affine, atol=1e-6, rtol=0)
        np.testing.assert_array_equal(written, one_hot)
        (found,) = np.argwhere(written)
        np.testing.assert_allclose(written_affine @ [*found, 1], position, atol=1e-4)


@pytest.mark.parametrize("permutation, signs", ORIENTATIONS)
def test_canonical_axes_grow_to_left_posterior_superior(permutation, signs):
    affine = oblique_affine(permutation, signs)
    index = np.stack([*np.indices(SHAPE), np.ones(SHAPE)])
    right, anterior, superior, _ = np.tensordot(affine, index, 1)
    for axis, (field, direction) in enumerate([(right, -1), (anterior, -1), (superior, 1)]):
        view, orientation = to_canonical(field, affine)
        assert np.shares_memory(view, field)
        assert (np.diff(view, axis=axis) * direction > 0).all()
        np.testing.assert_array_equal(from_canonical(view, orientation), field)


def test_canonical_is_stable_at_45_degrees():
    half = np.sqrt(0.5)
    affine = np.array([[half, -half, 0, 0], [half, half, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    view, orientation = to_canonical(noise(), affine)
    assert sorted(orientation[:, 0]) == [0, 1, 2]
    np.testing.assert_array_equal(from_canonical(view, orientation), noise())


def test_a_nifti_mask_keeps_every_geometric_field_and_no_intensity_field(tmp_path):
    path = tmp_path / "image.nii.gz"
    rotated = oblique_affine()
    other = rotated + np.diag([0, 0, 0.5, 0])  # qform and sform disagree: both must survive
    for qform, sform in [(0, 0), (1, 0), (0, 1), (1, 2), (2, 4)]:
        image = nib.Nifti1Image(noise((*SHAPE, 1)), None)
        image.header.set_zooms((*SPACING, 1.7))
        image.set_qform(rotated, qform)
        image.set_sform(other, sform)
        image.header.set_xyzt_units("mm", "sec")
        image.header["cal_max"], image.header["descrip"] = 99, b"gadolinium"
        image.header.set_intent("t test", (3,))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a patient's name"))
        nib.save(image, path)

        volume = read_volume(path, Reading(orientation="qform" if not sform else "sform"))
        assert volume.array.shape == SHAPE and volume.stored_shape == (*SHAPE, 1)
        expected = nib.load(path).header
        expected = expected.get_sform() if sform else expected.get_qform()
        np.testing.assert_array_equal(volume.affine, expected)
        write_mask(tmp_path / "mask.nii", volume.array > 50, volume)

        before, after = nib.load(path).header, nib.load(tmp_path / "mask.nii").header
        geometry = ("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b")
        geometry += ("quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "dim_info")
        for field in (*geometry, "srow_x", "srow_y", "srow_z"):
            np.testing.assert_array_equal(after[field], before[field], err_msg=field)
        assert (after["cal_max"], after["intent_code"]) == (0, 0)
        told = b"as told" if qform == sform == 0 or (qform and sform) else b""
        assert told in after["descrip"].item() and b"gadolinium" not in after["descrip"].item()
        assert not after.extensions
        raw = nib.Nifti1Header((tmp_path / "mask.nii").read_bytes()[:348])
        assert (raw["scl_slope"], raw["scl_inter"]) == (1, 0)
        assert (raw["vox_offset"], raw["bitpix"]) == (352, 8)


def test_an_nrrd_mask_keeps_the_geometry_and_nothing_else(tmp_path):
    path = save_nrrd(
        tmp_path / "lgemri.nrrd",
        noise((*SHAPE, 1)),
        centerings=["cell"] * 4,
        **{"space units": ["mm"] * 3, "content": "a patient's name", "old max": 99.0},
    )
    volume = read_volume(path)
    assert volume.array.shape == SHAPE and volume.stored_shape == (*SHAPE, 1)
    write_mask(tmp_path / "mask.nrrd", volume.array > 50, volume)
    before, after = nrrd.read_header(str(path)), nrrd.read_header(str(tmp_path / "mask.nrrd"))
    for field in ("sizes", "space", "space directions", "space origin", "space units", "kinds"):
        np.testing.assert_array_equal(after[field], before[field], err_msg=field)
    assert after["centerings"] == before["centerings"] and after["type"] == "uint8"
    assert "content" not in after and "old max" not in after


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)])
@pytest.mark.parametrize("source, target", [("a.nii.gz", "b.nrrd"), ("a.nrrd", "b.nii.gz")])
def test_masks_cross_formats(tmp_path, source, target, shape):
    volume = read_volume(save(tmp_path / source, noise(shape)))
    mask = (volume.array > 50).astype(np.uint8)
    write_mask(tmp_path / target, mask, volume)
    written, affine = reference(tmp_path / target)
    np.testing.assert_array_equal(written, mask.reshape(shape))
    if target == "b.nrrd":  # an axis that is not in space has no direction
        directions = nrrd.read_header(str(tmp_path / target))["space directions"]
        assert np.isnan(directions[3:]).all()
    np.testing.assert_allclose(affine, volume.affine, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "space, signs",
    [
        *(("RAS", [1, 1, 1]), ("right-anterior-superior", [1, 1, 1])),
        *(("LAS", [-1, 1, 1]), ("left-anterior-superior", [-1, 1, 1])),
        *(("LPS", [-1, -1, 1]), ("left-posterior-superior", [-1, -1, 1])),
    ],
)
def test_nrrd_spaces(tmp_path, space, signs):
    image = np.diag([*signs, 1.0]) @ oblique_affine()
    path = save_nrrd(tmp_path / "a.nrrd", noise(), LPS @ image, space=space)
    np.testing.assert_allclose(read_volume(path).affine, oblique_affine(), atol=1e-12)


def test_metres_become_millimetres_and_stay_metres_in_the_mask(tmp_path):
    image = nib.Nifti1Image(noise(), np.diag([0.0007, 0.0013, 0.0029, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.spacing == pytest.approx(SPACING)
    write_mask(tmp_path / "b.nii", volume.array > 50, volume)
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header.get_xyzt_units()[0] == "meter"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", ">i4", "<f4", "f8"])
def test_the_stored_type_is_kept_in_native_byte_order(tmp_path, suffix, dtype):
    path = save(tmp_path / f"a{suffix}", noise(dtype=dtype))
    array = read_volume(path).array
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(array, noise())


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_1_and_2_in_both_byte_orders(tmp_path, kind, endianness):
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.dtype("i2").newbyteorder(endianness))
    (tmp_path / "a.nii").write_bytes(kind(noise(), oblique_affine(), header).to_bytes())
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, noise())
    write_mask(tmp_path / "b.nii", volume.array > 50, volume)
    written = nib.load(tmp_path / "b.nii")
    assert isinstance(written, kind)
    np.testing.assert_array_equal(written.dataobj, noise() > 50)
    np.testing.assert_array_equal(written.affine, volume.affine)


def test_scaled_voxels_are_float32(tmp_path):
    image = nib.Nifti1Image(noise(), oblique_affine())
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, noise() * 0.5 - 3)
    np.testing.assert_array_equal(volume.array, nib.load(tmp_path / "a.nii.gz").get_fdata())
    write_mask(tmp_path / "b.nii.gz", volume.array > 9, volume)
    mask = read_volume(tmp_path / "b.nii.gz").array
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, volume.array > 9)


@pytest.mark.parametrize("slope", [0, np.nan, 1])
def test_voxels_without_a_slope_are_as_stored(tmp_path, slope):
    """0 and NaN are how NIfTI says that nothing scales, whatever the intercept."""
    inter = 0 if slope == 1 else 7
    (tmp_path / "a.nii").write_bytes(nifti_bytes(scl_slope=slope, scl_inter=inter))
    found = read_volume(tmp_path / "a.nii").array
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, noise())


def test_raw_nrrd(tmp_path):
    path = save_nrrd(tmp_path / "a.nrrd", noise(), encoding="raw")
    np.testing.assert_array_equal(read_volume(path).array, noise())


@pytest.mark.parametrize("value", [1, 255, 420])
def test_the_only_value_of_a_label_is_the_atrium(tmp_path, value):
    truth = noise() > 50
    path = save(tmp_path / "a.nii.gz", (truth * value).astype(np.int16))
    label = read_label(path)
    assert label.array.dtype == np.uint8
    np.testing.assert_array_equal(label.array, truth)
    np.testing.assert_array_equal(read_label(path, LabelRule(value)).array, truth)


def test_an_empty_label_is_an_empty_mask(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8))
    assert read_label(path).array.sum() == read_label(path, LabelRule(1)).array.sum() == 0


def test_names():
    assert case_name("a/train_1.nii.gz") == case_name("train_1.NRRD") == "train_1"
    assert case_name("a.b.nii") == "a.b" and case_name("readme.txt") == "readme.txt"
    assert is_volume_file("心房/a.nii.gz") and is_volume_file("A.NII")
    assert not is_volume_file("._la_003.nii.gz") and not is_volume_file("a.gz")


def test_a_mask_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    volume = read_volume(save(tmp_path / "a.nii.gz", noise()))
    target = tmp_path / "mask.nii.gz"
    target.write_bytes(b"the old one")

    def killed(source, destination):
        assert os.path.dirname(source) == os.path.dirname(destination)
        raise OSError(28, "disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "replace", killed)
        write_mask(target, volume.array > 50, volume)
    assert target.read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "mask.nii.gz"]


def test_write_mask_refuses_other_shapes_and_names(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", noise()))
    with pytest.raises(ValueError, match=r"\(7, 5, 11\)"):
        write_mask(tmp_path / "b.nii", np.zeros((7, 5, 11)), volume)
    refused(tmp_path / "b.png", ".nrrd", read=lambda path: write_mask(path, volume.array, volume))


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", noise()))
    for name in ("b.nii.gz", "c.nii.gz"):
        write_mask(tmp_path / name, volume.array > 50, volume)
    content = (tmp_path / "b.nii.gz").read_bytes()
    assert content == (tmp_path / "c.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # where gzip puts the time of day
