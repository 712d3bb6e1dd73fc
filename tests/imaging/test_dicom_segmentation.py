"""DICOM segmentation objects: other programs find the voxels, the images and what made them."""

import shutil
import subprocess

import numpy as np
import pytest

from lagseg_jax.imaging.dicom import read_stack
from lagseg_jax.imaging.dicom_choice import choose
from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.dicom_segmentation import write_segmentation
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from dicom_series import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    PATIENT,
    SHAPE,
    order_of_frames,
    write_enhanced,
    write_series,
    zipped,
)

ALGORITHM = Algorithm("0.1.0", "ab" * 32)


def write(path, folder, mask, series=""):
    """The stack at a folder, and its segmentation as highdicom reads it."""
    (stacks,) = find_studies(folder)
    stack = choose(folder, stacks, series)
    write_segmentation(path, mask, stack, ALGORITHM)
    return stack, highdicom.seg.segread(path)


def check_voxels(found, stack, mask, tmp_path):
    """Every voxel of the mask's NIfTI file is one of the object, at the same place."""
    write_mask(tmp_path / "mask.nii.gz", mask, read_stack(stack))
    nifti = read_volume(tmp_path / "mask.nii.gz")
    volume = found.get_volume(combine_segments=True)
    to_index = np.linalg.inv(nifti.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    corner = np.array(volume.spatial_shape) - 1
    for axis in range(3):  # highdicom's axes are ours in another order and direction
        assert np.isclose(np.abs(to_index[axis, :3]), 1, atol=1e-4).sum() == 1
    index = np.indices(volume.spatial_shape).reshape(3, -1)
    place = to_index @ np.vstack([index, np.ones(index.shape[1])])
    np.testing.assert_allclose(place, np.round(place), atol=1e-3)
    x, y, z = np.round(place[:3]).astype(int)
    values = np.asarray(volume.array).reshape(-1)
    np.testing.assert_array_equal(values, nifti.array[x, y, z])
    assert len(values) == nifti.array.size and corner.min() > 0


@pytest.mark.parametrize("turn", [AXIAL, CORONAL, OBLIQUE, -OBLIQUE], ids="ax cor obl back".split())
@pytest.mark.parametrize("kind", ["single", "enhanced", "zip"])
def test_voxels_are_those_of_the_nifti_mask(tmp_path, pixels, mask, turn, kind):
    source = tmp_path / "in"
    if kind == "enhanced":
        order = [*np.random.default_rng(1).permutation(len(pixels))]
        write_enhanced(source / "x.dcm", pixels, turn, order)
    else:
        write_series(source, pixels, turn)
        source = zipped(source, tmp_path / "x.zip") if kind == "zip" else source
    stack, found = write(tmp_path / "seg.dcm", source, mask)
    check_voxels(found, stack, mask, tmp_path)


def test_one_time_point_of_an_enhanced_file(tmp_path, pixels, mask):
    write_enhanced(tmp_path / "in" / "x.dcm", pixels, OBLIQUE, parts=3)
    stack, found = write(tmp_path / "seg.dcm", tmp_path / "in", mask, "1.2")
    assert found.NumberOfFrames == len(pixels)
    check_voxels(found, stack, mask, tmp_path)


def test_an_enhanced_source_is_referred_to(tmp_path, pixels, mask):
    path = write_enhanced(tmp_path / "in" / "x.dcm", pixels, OBLIQUE)
    _, found = write(tmp_path / "seg.dcm", tmp_path / "in", mask)
    (instance,) = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID


def test_what_it_says(tmp_path, pixels, mask):
    paths = write_series(tmp_path / "in", pixels, OBLIQUE, PatientName=PATIENT, SeriesNumber=5)
    _, found = write(tmp_path / "seg.dcm", tmp_path / "in", mask)
    image = pydicom.dcmread(paths[0])
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == image[name].value, name
    assert (found.SegmentationType, found.Modality, found.SeriesNumber) == ("BINARY", "SEG", 7005)
    assert found.SeriesInstanceUID != image.SeriesInstanceUID
    (segment,) = found.SegmentSequence
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("82471001", "SCT")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lagseg_jax", "0.1.0")
    assert "ab" * 32 in algorithm.AlgorithmParameters
    for text in (algorithm.AlgorithmParameters, found.SeriesDescription, found.ContentDescription):
        assert "research use only" in text.lower()
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    references = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert references == {pydicom.dcmread(path).SOPInstanceUID for path in paths}


def test_an_empty_mask_is_an_object_too(tmp_path, pixels, mask):
    write_series(tmp_path / "in", pixels)
    _, found = write(tmp_path / "seg.dcm", tmp_path / "in", np.zeros_like(mask))
    assert found.NumberOfFrames == len(pixels) and not found.get_volume().array.any()


def test_headers_that_lack_what_is_needed(tmp_path, pixels, mask):
    for path in write_series(tmp_path / "in", pixels):
        image = pydicom.dcmread(path)
        del image.FrameOfReferenceUID, image.PatientName, image.StudyDate
        image.save_as(path)
    with pytest.raises(InputError, match="no FrameOfReferenceUID"):
        write(tmp_path / "seg.dcm", tmp_path / "in", mask)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    for path in (tmp_path / "in").iterdir():
        image = pydicom.dcmread(path)
        image.FrameOfReferenceUID = "1.2.3"
        image.save_as(path)
    assert write(tmp_path / "seg.dcm", tmp_path / "in", mask)[1].PatientName == ""


@pytest.mark.parametrize("kind", ["single", "enhanced"])
@pytest.mark.parametrize("program", ["dciodvfy", "dcmdump"])  # of dicom3tools and dcmtk
def test_other_programs_find_nothing_wrong(tmp_path, pixels, mask, program, kind):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if kind == "single":
        write_series(tmp_path / "in", pixels, OBLIQUE)
    else:
        write_enhanced(tmp_path / "in" / "x.dcm", pixels, OBLIQUE)
    _, found = write(tmp_path / "seg.dcm", tmp_path / "in", mask)
    options = ["+W", str(tmp_path)] if program == "dcmdump" else []
    command = [program, *options, str(tmp_path / "seg.dcm")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Error" not in said, said
    assert "Segmentation" in said
    if program == "dcmdump":  # the bits that it finds
        (raw,) = tmp_path.glob("*.raw")
        bits = np.unpackbits(np.fromfile(raw, np.uint8), bitorder="little")[: mask.size]
        planes = bits.reshape(SHAPE)[order_of_frames(found)]
        np.testing.assert_array_equal(planes[:, ::-1].T, mask)
