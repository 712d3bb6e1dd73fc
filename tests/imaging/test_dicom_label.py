"""DICOM as training data: folders as images, segmentation objects of any program as labels."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lagseg_jax.data.layouts.detect import Case, detect
from lagseg_jax.data.prepare import Preparation, _key, prepare_cases
from lagseg_jax.data.quality import inspect_case
from lagseg_jax.data.seen_cases import image_hashes
from lagseg_jax.imaging.dicom import read_series, read_stack
from lagseg_jax.imaging.dicom_choice import choose
from lagseg_jax.imaging.dicom_derived import Algorithm, header_of
from lagseg_jax.imaging.dicom_segmentation import write_segmentation
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.labels import LabelRule, read_image_and_label, read_label
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume, write_mask, write_voxels
from lagseg_jax.inference.inputs import find_inputs
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import content_sha256

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from dicom_series import OBLIQUE, write_series

SHAPE = (13, 19, 17)  # slices, rows, columns
PREPARATION = Preparation(14, (1.0, 99.0))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Folder of a series, its mask (x, y, z) with empty slices at both ends, and its stack."""
    root = tmp_path_factory.mktemp("case")
    rng = np.random.default_rng(0)
    write_series(root / "series", rng.integers(0, 4096, SHAPE).astype(np.uint16), OBLIQUE)
    mask = (rng.random(SHAPE[::-1]) > 0.6).astype(np.uint8)
    mask[..., :3] = mask[..., -2:] = mask[..., 6] = 0
    (stacks,) = find_studies(root / "series")
    return root / "series", mask, choose("x", stacks)


def segmentation(path, stack, mask, **options):
    """As another program writes it; `mask` has a segment's number in each voxel."""
    codes = pydicom.sr.codedict.codes
    described = [
        highdicom.seg.SegmentDescription(
            number, f"part {number}", codes.SCT.AnatomicalStructure, codes.SCT.LeftAtrium, "MANUAL"
        )
        for number in range(1, int(mask.max()) + 1)
    ]
    about = dict(segmentation_type="BINARY", segment_descriptions=described, series_number=2)
    about |= dict(series_instance_uid=highdicom.UID(), sop_instance_uid=highdicom.UID())
    about |= dict(instance_number=1, manufacturer="x", manufacturer_model_name="x")
    about |= dict(software_versions="1", device_serial_number="1")
    found = highdicom.seg.Segmentation(
        [header_of(frame.file) for frame in stack.frames],
        np.ascontiguousarray(mask[:, ::-1].T),
        **(about | options),
    )
    found.save_as(path)
    return path


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["dicom", "turned nifti"])
def test_a_segmentation_is_laid_on_its_image(case, tmp_path, sparse, order):
    folder, mask, stack = case
    label = segmentation(tmp_path / "seg.dcm", stack, mask, omit_empty_frames=sparse)
    image, expected = folder, mask
    if order != (0, 1, 2):  # the same image as a file, axes in another order, one reversed
        volume = read_stack(stack)
        import nibabel as nib

        turned = nib.Nifti1Image(volume.array, volume.affine).as_reoriented(
            np.array([[order.index(0), 1], [order.index(1), -1], [order.index(2), 1]])
        )
        nib.save(turned, tmp_path / "image.nii.gz")
        image = tmp_path / "image.nii.gz"
        expected = np.transpose(mask[:, ::-1], order)
    read, found = read_image_and_label(image, label)
    np.testing.assert_array_equal(found.array, expected)
    np.testing.assert_array_equal(found.affine, read.affine)
    whole = read_label(label)
    assert (whole.array.shape[2] < 13) == sparse and whole.array.sum() == mask.sum()


def test_ours_is_read_back(case, tmp_path):
    folder, mask, stack = case
    write_segmentation(tmp_path / "seg.dcm", mask, stack, Algorithm("1", "ab"))
    _, found = read_image_and_label(folder, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(found.array, mask)


def test_a_nifti_label_of_a_folder(case, tmp_path):
    folder, mask, stack = case
    write_mask(tmp_path / "label.nii.gz", mask, read_stack(stack))
    image, found = read_image_and_label(folder, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(found.array, mask)
    np.testing.assert_array_equal(image.array, read_series(folder).array)


def test_several_segments_are_values(case, tmp_path):
    folder, mask, stack = case
    both = mask.copy()
    both[5:] *= 2
    label = segmentation(tmp_path / "seg.dcm", stack, both)
    with pytest.raises(InputError, match="non-zero values 1, 2"):
        read_image_and_label(folder, label)
    _, found = read_image_and_label(folder, label, LabelRule(2))
    np.testing.assert_array_equal(found.array, both == 2)


def test_the_check_of_a_dataset_accepts_them(case, tmp_path):
    folder, mask, stack = case
    label = segmentation(tmp_path / "seg.dcm", stack, mask)
    inspection, image, found = inspect_case(Case("a", "a", folder, label))
    errors = [problem for problem in inspection.problems if problem.severity == "error"]
    assert not errors and image is not None
    np.testing.assert_array_equal(found.array, mask)


def test_what_a_series_may_have_is_allowed_in_a_dataset_too(case, tmp_path):
    """A gap in the numbers of images; what was read so is not reused where it may not be."""
    _, mask, stack = case
    folder = shutil.copytree(case[0], tmp_path / "series")
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        header.InstanceNumber += 2 * (header.InstanceNumber > 5)
        header.save_as(file)
    write_mask(tmp_path / "label.nii.gz", mask, read_stack(stack))
    one = Case("a", "a", folder, tmp_path / "label.nii.gz")
    allowed = replace(PREPARATION, reading=Reading(allow=("instances", "volume")))
    with pytest.raises(InputError, match=r"config\.data\.allow"):
        prepare_cases([one], PREPARATION, tmp_path / "cache", 1)
    (prepared,) = prepare_cases([one], allowed, tmp_path / "cache", 1)
    assert prepared.masks.any() and prepared.images.std() > 0
    with pytest.raises(InputError, match="instance numbers"):
        prepare_cases([one], PREPARATION, tmp_path / "cache", 1)
    read_image_and_label(one.image, one.label, reading=Reading(allow=("instances",)))
    for allow in ((), ("instances",)):
        inspection = inspect_case(one, reading=Reading(allow=allow))[0]
        assert bool(image_hashes([inspection])["a"][1]) == bool(allow)


def test_a_folder_with_its_segmentation_in_it_is_a_case(case, tmp_path):
    folder, mask, stack = case
    patient = shutil.copytree(folder, tmp_path / "data" / "P1")
    segmentation(patient / "la_seg.dcm", stack, mask)
    (found,) = detect(tmp_path).cases
    assert (found.name, found.image, found.label) == ("P1", patient, patient / "la_seg.dcm")
    image, label = read_image_and_label(found.image, found.label)
    np.testing.assert_array_equal(image.array, read_stack(stack).array)
    np.testing.assert_array_equal(label.array, mask)
    (scan,) = find_inputs(tmp_path / "data")
    assert scan.name == "P1" and scan.stack is not None


def test_a_table_names_folders_and_segmentations(case, tmp_path):
    folder, mask, stack = case
    (tmp_path / "patient 1").symlink_to(folder)
    segmentation(tmp_path / "seg.dcm", stack, mask)
    (tmp_path / "cases.csv").write_text("image,label\npatient 1,seg.dcm\n")
    (found,) = detect(tmp_path, "cases.csv").cases
    np.testing.assert_array_equal(read_image_and_label(found.image, found.label)[1].array, mask)
    before = _key(found, PREPARATION, "decoded")
    assert _key(found, PREPARATION, "decoded") == before
    (folder / "notes.txt").write_text("another file in the folder")
    assert _key(found, PREPARATION, "decoded") != before
    (folder / "notes.txt").unlink()


def test_a_label_of_another_series_is_refused(case, tmp_path):
    _, mask, stack = case
    other = np.random.default_rng(2).integers(0, 99, SHAPE).astype(np.uint16)
    write_series(tmp_path / "other", other, OBLIQUE, spacing=(1.0, 0.75, 3.5))
    label = segmentation(tmp_path / "seg.dcm", stack, mask, omit_empty_frames=False)
    with pytest.raises(InputError, match=r"seg\.dcm: (position|shape)"):
        read_image_and_label(tmp_path / "other", label)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda d: setattr(d, "SegmentationType", "FRACTIONAL"), "SegmentationType FRACTIONAL"),
        (lambda d: setattr(d, "NumberOfFrames", 2**31 - 1), "NumberOfFrames is 2147483647"),
        (lambda d: setattr(d, "Rows", 65535), "damaged"),
        (lambda d: setattr(d, "PixelData", b"\1\2"), "damaged"),
        (lambda d: d.pop("PerFrameFunctionalGroupsSequence"), "no ImagePositionPatient"),
    ],
)
def test_damaged_objects_are_one_sentence(case, tmp_path, spoil, found):
    _, mask, stack = case
    path = segmentation(tmp_path / "seg.dcm", stack, mask)
    dataset = pydicom.dcmread(path)
    spoil(dataset)
    dataset.save_as(path)
    with pytest.raises(InputError) as error:
        read_volume(path, Reading(10**7))
    assert found in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_an_image_is_no_label_and_a_folder_has_one_hash(case, tmp_path):
    folder, mask, stack = case
    with pytest.raises(InputError, match="no DICOM segmentation of segments"):
        read_volume(stack.frames[0].file)
    write_voxels(tmp_path / "x.nii", mask, read_stack(stack))
    before = content_sha256(folder)
    assert before == content_sha256(folder) != content_sha256(tmp_path / "x.nii")
