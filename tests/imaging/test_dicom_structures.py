"""RT Structure Sets: contours that hold the mask's voxels, for readers that know no voxels."""

import shutil
import subprocess

import numpy as np
import pytest

from lagseg_jax.imaging.dicom_choice import choose
from lagseg_jax.imaging.dicom_derived import Algorithm, write_derived
from lagseg_jax.imaging.dicom_files import quiet
from lagseg_jax.imaging.dicom_structures import write_structures
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")
matplotlib_path = pytest.importorskip("matplotlib.path")

from dicom_series import AXIAL, CORONAL, OBLIQUE, PATIENT, SHAPE, write_enhanced, write_series

ALGORITHM = Algorithm("0.1.0", "ab" * 32)


def write(path, folder, mask, series=""):
    (stacks,) = find_studies(folder)
    stack = choose(folder, stacks, series)
    write_structures(path, mask, stack, ALGORITHM)
    return pydicom.dcmread(path)


def rasterised(found, sources):
    """Pixels (slice, row, column) in the contours: which image by its UID, where by its header.

    By matplotlib, in mm of the patient, with the equation of DICOM PS3.3 C.7.6.2.1.1.
    """
    planes = {}
    for source in sources:
        planes |= planes_of(pydicom.dcmread(source))
    masks = {key: np.zeros(SHAPE[1:], bool) for key in planes}
    for contour in found.ROIContourSequence[0].get("ContourSequence", ()):
        (image,) = contour.ContourImageSequence
        key = image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber", 1))
        place, turn, spacing = planes[key]
        vertices = np.reshape(np.array(contour.ContourData, float), (-1, 3)) - place
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        assert contour.NumberOfContourPoints == len(vertices) > 3
        assert np.abs(vertices @ np.cross(*turn)).max() < 1e-3  # in the plane of its image
        column, row = vertices @ turn[0] / spacing[1], vertices @ turn[1] / spacing[0]
        pixel = np.indices(SHAPE[1:])[::-1].reshape(2, -1).T
        outline = matplotlib_path.Path(np.stack([column, row], 1), closed=False)
        masks[key] ^= outline.contains_points(pixel).reshape(SHAPE[1:])
    along = {key: planes[key][0] @ np.cross(*planes[key][1]) for key in planes}
    return np.stack([masks[key] for key in sorted(planes, key=along.get)])


def planes_of(image):
    """{(UID, frame from 1): position, directions of row and column, spacing} of an image."""
    uid = image.SOPInstanceUID
    if "NumberOfFrames" not in image:
        turn = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
        return {(uid, 1): (np.array(image.ImagePositionPatient, float), turn, image.PixelSpacing)}
    shared = image.SharedFunctionalGroupsSequence[0]
    turn = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    places = [
        np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for group in image.PerFrameFunctionalGroupsSequence
    ]
    return {(uid, n): (place, turn.astype(float), spacing) for n, place in enumerate(places, 1)}


@pytest.mark.parametrize("turn", [AXIAL, CORONAL, OBLIQUE, -OBLIQUE], ids="ax cor obl back".split())
@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_pixels_in_the_contours_are_those_of_the_mask(tmp_path, pixels, mask, turn, kind):
    if kind == "enhanced":
        order = [*np.random.default_rng(1).permutation(len(pixels))]
        sources = [write_enhanced(tmp_path / "in" / "x.dcm", pixels, turn, order)]
    else:
        sources = write_series(tmp_path / "in", pixels, turn)
    found = write(tmp_path / "rt.dcm", tmp_path / "in", mask)
    np.testing.assert_array_equal(rasterised(found, sources), mask[:, ::-1].T.astype(bool))


def test_what_it_says(tmp_path, pixels, mask):
    paths = write_series(tmp_path / "in", pixels, OBLIQUE, PatientName=PATIENT, SeriesNumber=5)
    found, image = write(tmp_path / "rt.dcm", tmp_path / "in", mask), pydicom.dcmread(paths[0])
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == image[name].value, name
    assert (found.Modality, found.SeriesNumber) == ("RTSTRUCT", 8005)
    assert found.ApprovalStatus == "UNAPPROVED"
    (region,), (observation,) = found.StructureSetROISequence, found.RTROIObservationsSequence
    (code,) = observation.RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("82471001", "SCT")
    assert (region.ROIName, region.ROIGenerationAlgorithm) == ("Left atrium", "AUTOMATIC")
    assert "ab" * 32 in found.StructureSetDescription
    for text in (found.StructureSetDescription, found.SeriesDescription, region.ROIDescription):
        assert "research use only" in text.lower()
    (place,) = found.ReferencedFrameOfReferenceSequence
    (series,) = place.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    references = {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence}
    assert references == {pydicom.dcmread(path).SOPInstanceUID for path in paths}


def test_the_same_mask_has_the_same_uid_and_another_has_another(tmp_path, pixels, mask):
    write_series(tmp_path / "in", pixels)
    first, again, other = (
        write(tmp_path / f"{number}.dcm", tmp_path / "in", one)
        for number, one in enumerate((mask, mask.copy(), 1 - mask))
    )
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[name] == again[name] != other[name]
    assert first.SOPInstanceUID != first.SeriesInstanceUID
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID


def test_contours_longer_than_explicit_types_allow(tmp_path):
    """A comb of 900 teeth, one polygon, is more than 64 kB of text."""
    comb = np.zeros((1801, 3, 2), np.uint8)
    comb[::2], comb[:, 0] = 1, 1
    write_series(tmp_path / "in", np.zeros(comb.shape[::-1], np.uint16))
    found = write(tmp_path / "rt.dcm", tmp_path / "in", comb)
    contours = found.ROIContourSequence[0].ContourSequence
    assert [len("\\".join(map(str, one.ContourData))) > 2**16 for one in contours] == [True, True]


def test_values_that_cannot_be_written_are_not_quoted(tmp_path, pixels):
    """pydicom raises OSError for them, with the value: it is no fault of the disk."""
    write_series(tmp_path / "in", pixels)
    ((stack,),) = find_studies(tmp_path / "in")
    made = pydicom.Dataset()
    with quiet():
        made.add_new("Rows", "US", "Secret")
    with pytest.raises(InputError, match=r"no DICOM object can be made .*expected") as caught:
        write_derived(tmp_path / "rt.dcm", stack, lambda: made)
    assert "Secret" not in str(caught.value) and not (tmp_path / "rt.dcm").exists()


def test_an_empty_mask_has_no_contours(tmp_path, pixels, mask):
    paths = write_series(tmp_path / "in", pixels)
    found = write(tmp_path / "rt.dcm", tmp_path / "in", np.zeros_like(mask))
    assert not rasterised(found, paths).any() and len(found.StructureSetROISequence) == 1


def test_it_is_no_image_and_no_label(tmp_path, pixels, mask):
    write_series(tmp_path / "in", pixels)
    write(tmp_path / "rt.dcm", tmp_path / "in", mask)
    with pytest.raises(InputError, match=r"rt\.dcm: .*expected"):
        read_volume(tmp_path / "rt.dcm")


@pytest.mark.parametrize("how", [(), ("--xor-contours",)], ids=["each alone", "xor"])
def test_plastimatch_finds_the_voxels_of_the_mask(tmp_path, pixels, mask, how):
    if shutil.which("plastimatch") is None:
        pytest.skip("plastimatch is not installed")
    write_series(tmp_path / "in", pixels)
    write(tmp_path / "rt.dcm", tmp_path / "in", mask)
    ((stack,),) = find_studies(tmp_path / "in")
    command = ["plastimatch", "convert", "--input", tmp_path / "rt.dcm", *how]
    command += ["--referenced-ct", tmp_path / "in", "--output-labelmap", tmp_path / "out.nii.gz"]
    subprocess.run(command, check=True, capture_output=True)
    found = read_volume(tmp_path / "out.nii.gz")
    to_ours = np.linalg.inv(stack.affine) @ found.affine
    index = np.argwhere(found.array).T
    places = np.round(to_ours[:3, :3] @ index + to_ours[:3, 3:]).astype(int)
    np.testing.assert_array_equal(sorted(map(tuple, places.T)), np.argwhere(mask))


@pytest.mark.parametrize("kind", ["single", "enhanced", "empty"])
@pytest.mark.parametrize("program", ["dciodvfy", "dcmdump"])  # of dicom3tools and dcmtk
def test_other_programs_find_nothing_wrong(tmp_path, pixels, mask, program, kind):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if kind == "enhanced":
        write_enhanced(tmp_path / "in" / "x.dcm", pixels, OBLIQUE)
    else:
        write_series(tmp_path / "in", pixels, OBLIQUE)
    write(tmp_path / "rt.dcm", tmp_path / "in", mask * (kind != "empty"))
    done = subprocess.run([program, tmp_path / "rt.dcm"], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Error" not in said, said
    assert "RTStructureSet" in said or "RTStructureSetStorage" in said
