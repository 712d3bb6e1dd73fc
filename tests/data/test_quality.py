"""Each way a case can be wrong is found, by its code, and nothing is found in a good one."""

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.config.choices import ALLOWED, SEVERITY
from lagseg_jax.data.cases import Case
from lagseg_jax.data.checks import CHECKS
from lagseg_jax.data.dataset_checks import find_duplicates, find_unlike_values
from lagseg_jax.data.quality import Inspection, errors_of, inspect_case
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.reading import Reading

SHAPE = (61, 53, 37)
SPACING = (1.5, 1.5, 2.5)  # 37 slices cover 92.5 mm
AFFINE = np.diag([-1.5, -1.5, 2.5, 1.0])


def good():
    """Voxels of an image, and of a label with an atrium of 94.5 mL (28 x 30 x 20 voxels)."""
    label = np.zeros(SHAPE, np.uint8)
    label[10:38, 10:40, 8:28] = 1
    return np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16), label


def write(folder, image, label, affine=AFFINE, label_affine=None, name="a"):
    paths = [folder / f"{name}_{part}.nii.gz" for part in ("image", "label")]
    for path, array, matrix in zip(paths, (image, label), (affine, label_affine)):
        nib.save(nib.Nifti1Image(array, affine if matrix is None else matrix), path)
    return Case(name, name, *paths)


def codes(case, **options):
    inspection, _, _ = inspect_case(case, **options)
    for problem in inspection.problems:
        assert problem.severity == SEVERITY[problem.code] and problem.case == case.name
        assert "\n" not in problem.sentence and problem.sentence.endswith(".")
        assert problem.sentence.startswith(str(case.image.parent))
    assert inspection.usable == all(p.code in ALLOWED for p in inspection.problems)
    return [problem.code for problem in inspection.problems]


def test_a_good_case_has_no_problem(tmp_path):
    inspection, image, mask = inspect_case(write(tmp_path, *good()))
    assert inspection.problems == [] and inspection.usable
    facts = inspection.facts
    assert facts["atrium_ml"] == pytest.approx(28 * 30 * 20 * 1.5 * 1.5 * 2.5 / 1000)
    assert facts["shape"] == list(SHAPE) and facts["spacing_mm"] == list(SPACING)
    assert image.array.shape == mask.array.shape == SHAPE and mask.array.max() == 1


def test_missing_and_damaged_files(tmp_path):
    case = write(tmp_path, *good())
    whole = case.label.read_bytes()
    case.label.write_bytes(whole[:-30])
    assert codes(case) == ["unreadable_label"]
    case.label.unlink()
    assert codes(case) == ["missing_label"]
    case.label.write_bytes(whole)
    case.image.write_bytes(b"not a volume")
    assert codes(case) == ["unreadable_image"]
    case.image.unlink()
    case.label.unlink()
    assert codes(case) == ["unreadable_image", "missing_label"]
    assert codes(Case("x", "x", tmp_path / "x.nii", None)) == ["unreadable_image", "missing_label"]


def test_the_cap_on_decoded_bytes(tmp_path):
    case = write(tmp_path, *good())
    assert codes(case, reading=Reading(10**5)) == ["unreadable_image", "unreadable_label"]


def test_all_that_is_wrong_with_a_case_is_found_at_once(tmp_path):
    image, label = good()
    image = image.astype(np.float32)
    image[3, 5, 7] = np.nan
    label[0, 0, 0] = 7
    moved = AFFINE.copy()
    moved[0, 3] = 3
    case = write(tmp_path, image, label, label_affine=moved)
    assert codes(case) == ["not_finite", "label_values", "geometry"]
    assert codes(case, rule=LabelRule(7)) == ["not_finite", "geometry"]


def test_geometry_is_an_error(tmp_path):
    image, label = good()
    assert codes(write(tmp_path, image, label[:-1])) == ["shape"]
    assert codes(write(tmp_path, image, label, label_affine=np.diag([1.5, -1.5, 2.5, 1]))) == [
        "geometry"
    ]


def test_label_values(tmp_path):
    image, label = good()
    case = write(tmp_path, image, np.int16(420) * label)
    assert codes(case) == codes(case, rule=LabelRule(420)) == []
    assert codes(case, rule=LabelRule(1)) == ["label_values"]


def test_empty_label_and_blank_image(tmp_path):
    image, label = good()
    assert codes(write(tmp_path, image, 0 * label)) == ["empty_label"]
    assert codes(write(tmp_path, 0 * image + 7, label)) == ["no_contrast"]
    image[:, :, :] = 0
    image[0, 0, 0] = 1000  # one bright voxel is no picture
    assert codes(write(tmp_path, image, label)) == ["no_contrast"]


@pytest.mark.parametrize(
    "spacing, found",
    [
        ((1.0, 1.0, 2.5), "exactly 1 mm"),
        ((0.02, 0.02, 2.5), "expected 0.2 to 3"),
        ((1.5, 3.5, 4.0), "expected 0.2 to 3"),
        ((1.5, 1.5, 25.0), "0.4 to 12"),
    ],
)
def test_suspicious_spacing_is_a_warning(tmp_path, spacing, found):
    image, label = good()
    label[:] = 0
    millilitres = 100_000 / np.prod(spacing)  # voxels of an atrium of about 100 mL
    label.ravel()[: int(min(millilitres, label.size))] = 1
    inspection, _, _ = inspect_case(write(tmp_path, image, label, np.diag([*spacing, 1.0])))
    problem = next(p for p in inspection.problems if p.code == "spacing")
    assert problem.severity == "warning" and found in problem.sentence and inspection.usable


def test_the_through_plane_axis_need_not_be_the_last(tmp_path):
    image, label = (np.moveaxis(part, 2, 0) for part in good())
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 2.5, -1.5, -1.5, 1
    assert codes(write(tmp_path, image, label, affine)) == []


def test_a_thin_slab_is_a_warning(tmp_path):
    image, label = good()
    assert codes(write(tmp_path, image[:, :, :24], label[:, :, :24])) == []  # 60 mm
    assert codes(write(tmp_path, image[:, :, :23], label[:, :, :23])) == ["slab"]


@pytest.mark.parametrize("slices, expected", [(6, ["volume"]), (8, []), (35, [])])
def test_implausible_atrium_volume_is_a_warning(tmp_path, slices, expected):
    """Slices of 28 x 18 voxels of 5.625 mm3 are 2.835 mL each: 17, 23 and 99 mL."""
    image, label = good()
    label[:] = 0
    label[:28, :18, :slices] = 1
    assert codes(write(tmp_path, image, label)) == expected
    label[:, :26, :] = 1  # 330 mL, a little less than half of the volume
    assert codes(write(tmp_path, image, label)) == ["volume"]


def test_duplicates(tmp_path):
    """The same file is a warning; the same voxels in another format, type and orientation an error.

    So are voxels whose orientation was lost: axes in another order, and an affine of another scan.

    An image that differs in one voxel is no duplicate.
    """
    image, label = good()
    one = write(tmp_path, image, label, name="one")
    (tmp_path / "two_image.nii.gz").write_bytes(one.image.read_bytes())
    two = Case("two", "two", tmp_path / "two_image.nii.gz", one.label)
    path = tmp_path / "three.nrrd"
    flipped = image[::-1].astype(np.float32)  # x now grows to the right: other order, same patient
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([-1.5, 1.5, 2.5]),
        "space origin": [1.5 * (SHAPE[0] - 1), 0, 0],
    }
    nrrd.write(str(path), flipped, header)
    three = Case("three", "three", path, one.label)
    changed = image.copy()
    changed[1, 2, 3] += 1
    four = write(tmp_path, changed, label, name="four")
    turned = image.transpose(1, 2, 0)[:, ::-1]
    nib.save(nib.Nifti1Image(turned, np.diag([1.5, -2.5, 1.5, 1])), tmp_path / "five.nii")
    five = Case("five", "five", tmp_path / "five.nii", one.label)
    inspections = [inspect_case(case)[0] for case in (one, two, three, four, five)]
    found = [(p.case, p.code, p.severity) for p in find_duplicates(inspections)]
    copies = [(name, "duplicate", "error") for name in ("three", "five")]
    assert found == [("two", "same_file", "warning"), *copies]
    assert find_duplicates(inspections[:1] + inspections[3:4]) == []


def test_cases_that_cannot_be_read_are_no_duplicates():
    nothing = [Inspection(Case(name, name, Path(name), None), {}, []) for name in "ab"]
    assert find_duplicates(nothing) == []


def test_only_errors_forbid_training_and_some_can_be_allowed(tmp_path):
    image, label = good()
    problems = inspect_case(write(tmp_path, image[:, :, :23], 0 * label[:, :, :23]))[0].problems
    assert [p.code for p in problems] == ["empty_label", "slab"]
    assert [p.code for p in errors_of(problems)] == ["empty_label"]
    assert errors_of(problems, ("empty_label",)) == []


def test_every_check_has_a_severity():
    assert set(CHECKS) < set(SEVERITY) and set(SEVERITY.values()) == {"error", "warning"}
    assert not set(ALLOWED) & {
        "not_finite",
        "shape",
        "orientation",
        "label_values",
        "fractional_label",
    }
    assert not set(ALLOWED) & {"missing_label", "unreadable_image", "unreadable_label"}


def test_labels_that_are_something_else(tmp_path):
    image, label = good()
    assert codes(write(tmp_path, image, 1 - label)) == ["volume", "inverted_label"]
    assert codes(write(tmp_path, image, np.ones_like(label))) == ["volume", "full_label"]
    assert codes(write(tmp_path, image, image)) == ["label_is_image"]
    measured = np.zeros_like(image)
    measured[:, 45:] = image[:, 45:]
    assert codes(write(tmp_path, measured, label)) == ["label_outside"]
    soft = label.astype(np.float32)
    soft[10] *= np.float32(0.5)
    assert codes(write(tmp_path, image, soft)) == ["fractional_label"]
    assert codes(write(tmp_path, image, soft), rule=LabelRule(threshold=0.5)) == []
    soft = label * np.float32(0.9999999)
    assert codes(write(tmp_path, image, soft)) == ["rounded_label"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1, 1, 255), ["mixed_values"]), ((1, 1, 2), ["unlike_values"]), ((420, 420, 420), [])],
)
def test_values_that_differ_between_cases(tmp_path, values, expected):
    image, label = good()
    inspections = [
        inspect_case(write(tmp_path, image + n, np.int16(value) * label, name=f"case{n}"))[0]
        for n, value in enumerate(values)
    ]
    found = find_unlike_values(inspections, LabelRule())
    assert [p.code for p in found] == expected and all(p.case == "case2" for p in found)
    assert find_unlike_values(inspections, LabelRule(1)) == []
