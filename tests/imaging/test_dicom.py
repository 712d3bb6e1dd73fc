"""DICOM series: voxels lie where their headers say, in dcm2niix's order; the rest is refused."""

import builtins
import importlib.util

import numpy as np
import pytest

from lagseg_jax.imaging.dicom import is_dicom_file, read_series, series_folders
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
        (shear, "gantry tilt"),
        (lambda p: edit(p[3], SeriesInstanceUID="1.2.9", SeriesDescription="scout"), "scout, 1 im"),
        (lambda p: edit(p[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "ImageOrientation"),
        (lambda p: edit(p[3], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "unit vectors"),
        (lambda p: edit(p[3], PixelSpacing=[1, 1]), "PixelSpacing"),
        (lambda p: edit(p[0], PixelSpacing=[0, 1]), "two lengths"),
        (lambda p: edit(p[3], PixelSpacing=None), "no PixelSpacing"),
        (lambda p: edit(p[3], ImagePositionPatient=None), "no ImagePositionPatient"),
        (lambda p: edit(p[3], Rows=4, PixelData=bytes(88)), "Rows is 4"),
        (lambda p: edit(p[3], NumberOfFrames=3), "enhanced"),
        (lambda p: edit(p[3], SamplesPerPixel=3, PhotometricInterpretation="RGB"), "RGB"),
        (lambda p: edit(p[3], PixelData=bytes(50)), "damaged"),
        (lambda p: edit(p[3], BitsAllocated=8), "different or unknown types"),
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
    with pytest.raises(InputError, match=r"pip install 'lagseg_jax\[dicom\]'"):
        read_series(tmp_path)
