"""Small components go: by rank, by volume, or both."""

from pathlib import Path

import numpy as np
import pytest

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import bounding_box, check_grey, clean_mask, label_components
from lagseg_jax.runtime.errors import InputError

SPACING = (0.5, 2.0, 3.0)  # 3 mm3 a voxel


@pytest.fixture
def mask():
    """Components of 3, 2 and 2 voxels; the first is joined by corners only."""
    mask = np.zeros((11, 7, 5), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = 7
    mask[5:7, 3, 3] = 7
    mask[9:, 5, 1] = 7
    return mask


def test_largest_components(mask):
    one = clean_mask(mask, SPACING)
    assert one.dtype == mask.dtype
    assert sorted(map(tuple, np.argwhere(one))) == [(i, i, i) for i in range(3)]
    assert set(np.unique(one)) == {0, 7}
    two = clean_mask(mask, SPACING, keep=2)
    assert two[5, 3, 3] == 7 and two[9, 5, 1] == 0  # equal sizes: the first one stays
    for keep in (0, 3, 4):
        np.testing.assert_array_equal(clean_mask(mask, SPACING, keep), mask)
    assert not clean_mask(np.zeros_like(mask), SPACING).any()


@pytest.mark.parametrize(
    ("min_mm3", "keep", "voxels"),
    [(0, 0, 7), (6, 0, 7), (6.1, 0, 3), (9, 0, 3), (9.1, 0, 0), (6, 2, 5), (9, 3, 3)],
)
def test_small_components_go(mask, min_mm3, keep, voxels):
    """2 voxels are 6 mm3, 3 voxels 9 mm3."""
    assert np.count_nonzero(clean_mask(mask, SPACING, keep, min_mm3)) == voxels


def test_a_volume_at_the_limit_stays_for_any_spacing():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 1:3, 1:4] = True
    for spacing in ((0.1, 0.7, 0.3), (0.625, 0.625, 2.5), (1 / 3, 1 / 7, 1 / 11)):
        assert clean_mask(mask, spacing, 0, 6 * np.prod(spacing)).any()
        assert not clean_mask(mask, spacing, 0, 6.6 * np.prod(spacing)).any()


@pytest.mark.parametrize("numbers", [(-1, 0.0), (1, -0.5)])
def test_refuses_negative_numbers(mask, numbers):
    with pytest.raises(ValueError, match="-"):
        clean_mask(mask, SPACING, *numbers)


def test_box_and_sizes(mask):
    assert bounding_box(mask) == (slice(0, 11), slice(0, 6), slice(0, 4))
    assert mask[bounding_box(np.zeros_like(mask))].size == 0
    labels, sizes = label_components(mask)
    assert sizes.tolist() == [np.count_nonzero(labels == i + 1) for i in range(3)] == [3, 2, 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1], "2 values, 0, 1, and looks like a mask"),
        ([0, 1, 2, 255], "4 values, 0, 1, 2, 255, and looks like a mask"),
        ([0, 1, 2, 3, 4], ""),
        ([0, 0.25, 1], ""),
        ([7], "1 value, 7, and shows nothing"),
        ([0.25], "1 value, 0.25, and shows nothing"),
    ],
)
def test_up_to_four_whole_numbers_are_a_mask_and_one_number_is_nothing(values, said):
    array = np.resize(np.array(values, np.float32), (3, 5, 7))
    volume = Volume(array, np.eye(4), array.shape, {}, Path("a.nii.gz"))
    if not said:
        check_grey(volume)
        return
    with pytest.raises(InputError, match=rf"a\.nii\.gz: it has only {said}, expected"):
        check_grey(volume)
