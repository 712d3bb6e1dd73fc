"""DICOM series: voxels lie where their headers say, in dcm2niix's order; the rest is refused."""

import builtins
import importlib.util

import numpy as np
import pytest

from lagseg_jax.imaging.dicom import read_series
from lagseg_jax.imaging.dicom_files import is_dicom_file, series_folders
from lagseg_jax.imaging.grid import shear_degrees, voxel_mm3
from lagseg_jax.imaging.remarks import remarks
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")

import dicom_series
from dicom_series import AXIAL, CORONAL, OBLIQUE, SAGITTAL, SPACING, write_series

SHAPE = (7, 5, 11)  # slices, rows, columns


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "turn", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, -OBLIQUE], ids="axial sag cor oblique back".split()
)
def test_every_voxel_is_where_its_header_says(tmp_path, pixels, turn, reverse):
    paths = write_series(tmp_path / "a", pixels, turn, reverse=reverse)
    assert [p.name for p in paths] != sorted(p.name for p in paths)
    volume = read_series(tmp_path / "a")
    assert volume.array.shape == SHAPE[::-1] and volume.array.dtype == np.uint16
    for number in range(SHAPE[0]):
        for row in range(SHAPE[1]):
            for column in (0, 3, 10):
                where = dicom_series.position(turn, SPACING, row, column, number)
                index = np.linalg.inv(volume.affine) @ [*where, 1]
                np.testing.assert_allclose(index, np.round(index), atol=1e-4)
                x, y, z, _ = np.round(index).astype(int)
                assert volume.array[x, y, z] == pixels[number, row, column]
    np.testing.assert_allclose(volume.spacing, (0.75, 1.25, 3.5), atol=1e-6)
    # dcm2niix: rows upside down, so that the voxels are left-handed whatever the orientation.
    assert np.linalg.det(volume.affine[:3, :3]) < 0
    np.testing.assert_array_equal(volume.array[:, ::-1, 0].T, pixels[0])


def test_mask_is_nifti_in_the_same_geometry(tmp_path, pixels):
    write_series(tmp_path / "a", pixels, OBLIQUE)
    volume = read_series(tmp_path / "a")
    write_mask(tmp_path / "mask.nii.gz", volume.array > 2000, volume)
    mask = read_volume(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-5)
    np.testing.assert_array_equal(mask.array, volume.array > 2000)
    assert (mask.header["qform_code"], mask.header["sform_code"]) == (1, 1)
    np.testing.assert_allclose(mask.header.get_qform(), volume.affine, atol=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16"])
def test_stored_type_and_rescaling(tmp_path, pixels, kind):
    values = (pixels % 251).astype(kind)
    write_series(tmp_path / "a", values)
    assert read_series(tmp_path / "a").array.dtype == kind
    write_series(tmp_path / "b", values, RescaleSlope=2.5, RescaleIntercept=-7)
    found = read_series(tmp_path / "b").array
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, ::-1].T, values * 2.5 - 7)


def test_one_image_takes_its_thickness(tmp_path, pixels):
    write_series(tmp_path / "a", pixels[:1])
    np.testing.assert_allclose(read_series(tmp_path / "a").spacing, (0.75, 1.25, 3.5))


def test_other_files_are_ignored(tmp_path, pixels, caplog):
    write_series(tmp_path / "a", pixels, Modality="CT")
    (tmp_path / "a" / "notes.txt").write_text("x" * 200)
    (tmp_path / "a" / ".IM0").write_bytes(b"x")
    report = pydicom.dcmread(next((tmp_path / "a").glob("IM*")))
    report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a text report
    report.save_as(tmp_path / "a" / "report.dcm")
    assert read_series(tmp_path / "a").array.shape == SHAPE[::-1]
    assert "modality 'CT' found, expected MR" in caplog.text


def test_folders(tmp_path, pixels):
    for name in ("b/study 2/x", "b/study 1/x", "a"):
        write_series(tmp_path / name, pixels[:1])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "c" / "x.txt").touch()
    found = [str(f.relative_to(tmp_path)) for f in series_folders(tmp_path)]
    assert found == ["a", "b/study 1/x", "b/study 2/x"]
    assert not is_dicom_file(tmp_path / "c" / "x.txt") and not is_dicom_file(tmp_path)


def edit(path, **fields):
    image = pydicom.dcmread(path)
    for name, value in fields.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    image.save_as(path)


def shear(paths):
    for number, path in enumerate(paths):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y + 0.3 * number, z])


def deflate(paths):
    image = pydicom.dcmread(paths[2])
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    image.save_as(paths[2])


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda p: p[3].unlink(), "7.000 mm between"),
        (lambda p: edit(p[3], ImagePositionPatient=[-71.3, 12.9, 215.0]), "even spacing"),
        (lambda p: edit(p[3], ImagePositionPatient=list(dicom_series.ORIGIN)), "the same position"),
        (lambda p: p[0].unlink(), "instance numbers 2 to 7 for 6 images found, without 1,"),
        (lambda p: [one.unlink() for one in p[1::2]], "without 2, 4, 6, expected"),
        (lambda p: [edit(one, SpacingBetweenSlices=1.75) for one in p], "is 1.75 mm, but"),
        (lambda p: edit(p[2], ImagePositionPatient=[-71.3, 12.9 + 1, 210.7]), "IM0716 lies 0.66"),
        (lambda p: edit(p[3], PixelSpacing=[1.25, 0.765]), "PixelSpacing"),
        (
            lambda p: edit(p[3], ImageOrientationPatient=[0.9999, 0.014, 0, -0.014, 0.9999, 0]),
            "Ori",
        ),
        (lambda p: edit(p[3], SeriesInstanceUID="1.2.9", SeriesDescription="scout"), "7.000 mm"),
        (lambda p: edit(p[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "ImageOrientation"),
        (lambda p: edit(p[3], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "unit vectors"),
        (lambda p: edit(p[3], PixelSpacing=[1, 1]), "PixelSpacing"),
        (lambda p: edit(p[0], PixelSpacing=[0, 1]), "two lengths"),
        (lambda p: edit(p[3], PixelSpacing=None), "no PixelSpacing"),
        (lambda p: edit(p[3], ImagePositionPatient=None), "no ImagePositionPatient"),
        (lambda p: edit(p[3], Rows=4, PixelData=bytes(88)), "Rows is 4"),
        (lambda p: edit(p[3], NumberOfFrames=3), "a film of 3 frames"),
        (lambda p: edit(p[3], SamplesPerPixel=3, PhotometricInterpretation="RGB"), "RGB"),
        (lambda p: edit(p[3], PixelData=bytes(50)), "damaged"),
        (lambda p: edit(p[3], BitsAllocated=8), "different or unknown types"),
        (lambda p: edit(p[3], BitsStored=12), "different or unknown types"),  # the highest 12
        (lambda p: edit(p[3], PixelData=None), "damaged"),
        (lambda p: edit(p[3], Rows=None), "ends early"),
        (lambda p: p[3].write_bytes(p[3].read_bytes()[:600]), "ends early"),
        (lambda p: p[3].write_bytes(bytes(128) + b"DICM" + b"\xff" * 99), "damaged"),
        (lambda p: [edit(one, Rows=60000, Columns=60000) for one in p], "bytes of voxels declared"),
        (lambda p: [one.unlink() for one in p], "no DICOM images"),
        (deflate, "deflated"),
    ],
)
def test_refusals_name_the_file_or_folder_in_one_sentence(tmp_path, pixels, spoil, found):
    folder = tmp_path / "series"
    paths = write_series(folder, pixels)
    spoil(paths)
    with pytest.raises(InputError) as error:
        read_series(folder)
    text = str(error.value)
    assert found in text and str(folder) in text and "expected" in text and "\n" not in text


def test_gantry_tilt_is_a_shear_of_the_affine(tmp_path, pixels):
    paths = write_series(tmp_path / "a", pixels)
    shear(paths)
    volume = read_series(tmp_path / "a")
    np.testing.assert_allclose(volume.affine[:3, 2], (0, -0.3, 3.5), atol=1e-6)
    assert voxel_mm3(volume.affine) == pytest.approx(1.25 * 0.75 * 3.5)
    assert shear_degrees(volume.affine) == pytest.approx(np.degrees(np.arctan(0.3 / 3.5)))
    assert any("shear" in remark for remark in remarks(volume))
    np.testing.assert_array_equal(volume.array[:, ::-1].T, pixels)


@pytest.mark.parametrize("decimals", [1, 2, 4])
def test_rounded_positions_are_even(tmp_path, pixels, decimals):
    """DICOM writes numbers as text; a tenth of a millimetre is 0.03 of a slice, 0.1 of a pixel."""
    paths = write_series(tmp_path / "a", pixels, OBLIQUE)
    for path in paths:
        place = [round(float(x), decimals) for x in pydicom.dcmread(path).ImagePositionPatient]
        edit(path, ImagePositionPatient=place)
    volume = read_series(tmp_path / "a")
    np.testing.assert_allclose(volume.spacing, (0.75, 1.25, 3.5), atol=0.02)
    np.testing.assert_array_equal(volume.array[:, ::-1].T, pixels)


def test_gaps_in_the_numbers_can_be_allowed_by_name(tmp_path, pixels, caplog):
    paths = write_series(tmp_path / "a", pixels, SpacingBetweenSlices=2.0)
    for number, path in enumerate(paths):
        edit(path, InstanceNumber=41 + 2 * number)
    with pytest.raises(InputError, match=r"without 1, 2, 3, 4, 5, 6, \.\.\., .*--allow=instances"):
        read_series(tmp_path / "a")
    with pytest.raises(InputError, match="--allow=spacing"):
        read_series(tmp_path / "a", allow=("instances",))
    volume = read_series(tmp_path / "a", allow=("instances", "spacing"))
    assert caplog.text.count("images may be missing, which --allow=") == 2
    np.testing.assert_array_equal(volume.array[:, ::-1].T, pixels)


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_may_begin_at_0_and_may_be_lost(tmp_path, pixels, first, caplog):
    paths = write_series(tmp_path / "a", pixels, SpacingBetweenSlices=3.5)
    for number, path in enumerate(paths):
        edit(path, InstanceNumber=first + number)
    assert read_series(tmp_path / "a").array.shape == SHAPE[::-1]
    assert not caplog.text
    for path in paths:
        edit(path, InstanceNumber=None)
    assert read_series(tmp_path / "a").array.shape == SHAPE[::-1]
    assert "0 different instance numbers for 7 images" in caplog.text


@pytest.mark.parametrize("meta", [True, False], ids=["with meta", "without meta"])
def test_files_without_preamble(tmp_path, pixels, meta):
    """The same voxels; with some files like that, all of them count."""
    paths = write_series(tmp_path / "a", pixels)
    expected = read_series(tmp_path / "a")
    for path in paths[2:5]:
        content = path.read_bytes()
        path.write_bytes(content[132:] if meta else content[content.index(b"\x08\x00\x16\x00") :])
        assert is_dicom_file(path)
    found = read_series(tmp_path / "a")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_other_files_are_not_taken_for_dicom_without_preamble(tmp_path):
    for number, content in enumerate(
        [b"", b"\x08\x00", bytes(400), b"\x08\x00\x05\x00" + b"\xff" * 200, b"\x5c\x01" * 200]
    ):
        (tmp_path / str(number)).write_bytes(content)
        assert not is_dicom_file(tmp_path / str(number))


def test_deflated_files_without_preamble_are_refused_before_they_are_inflated(tmp_path, pixels):
    paths = write_series(tmp_path / "a", pixels)
    deflate(paths)
    paths[2].write_bytes(paths[2].read_bytes()[132:])
    with pytest.raises(InputError, match="deflated"):
        read_series(tmp_path / "a")


@pytest.mark.parametrize(
    "kind",
    [
        "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
        "1.2.840.10008.5.1.4.1.1.7.4",  # the same in colour
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.5.1.4.1.1.88.11",  # text report
        "1.2.840.10008.5.1.4.1.1.66",  # raw data
    ],
)
def test_what_is_no_slice_is_skipped_with_a_line(tmp_path, pixels, kind, caplog):
    paths = write_series(tmp_path / "a", pixels)
    other = pydicom.dcmread(paths[0])
    other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID = kind
    other.SOPInstanceUID = "1.2.76"
    other.save_as(tmp_path / "a" / "other.dcm")
    with caplog.at_level("INFO"):
        assert read_series(tmp_path / "a").array.shape == SHAPE[::-1]
    assert ": skipped" in caplog.text and pydicom.uid.UID(kind).name in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path, pixels):
    write_series(tmp_path / "set" / "p1", pixels)
    write_series(tmp_path / "store" / "p2" / "lge", pixels)
    (tmp_path / "set" / "p2").symlink_to(tmp_path / "store" / "p2")
    (tmp_path / "set" / "p1" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "store" / "p2" / "round").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "p1" / "IM_link").symlink_to(tmp_path / "nowhere")
    found = [str(f.relative_to(tmp_path / "set")) for f in series_folders(tmp_path / "set")]
    assert found == ["p1", "p2/lge"]
    assert read_series(tmp_path / "set" / "p2" / "lge").array.shape == SHAPE[::-1]


def test_memory_is_bounded(tmp_path, pixels):
    write_series(tmp_path, pixels)
    assert read_series(tmp_path, max_bytes=pixels.nbytes).array.nbytes == pixels.nbytes
    with pytest.raises(InputError, match="bytes of voxels declared"):
        read_series(tmp_path, max_bytes=pixels.nbytes - 1)


def test_without_pydicom_one_sentence(tmp_path, pixels, monkeypatch):
    write_series(tmp_path, pixels)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    real = builtins.__import__

    def refuse(name, *rest, **options):
        assert not name.startswith("pydicom")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install '.*\[dicom\]'"):
        read_series(tmp_path)
