"""Smoothing across slices, against SciPy along the volume's own axis and against a plain sum."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing, smooth_across_slices

SIZES = dict(zip((0.75, 1.25, 3.5), (31, 29, 13)))  # prime, by spacing in mm


def volume(spacing):
    shape = [SIZES[step] for step in spacing]
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("spacing", list(itertools.permutations(SIZES)))
@pytest.mark.parametrize("sigma_mm", [0.6, 3.5, 50.0])
def test_it_is_scipys_filter_along_the_coarsest_axis(spacing, signs, sigma_mm):
    """Whatever the order of the axes; 50 mm is more than the 45.5 mm of all slices."""
    probability = volume(spacing)
    affine = np.diag([*np.multiply(spacing, signs), 1.0])
    axis = spacing.index(3.5)
    found = smooth_across_slices(probability, affine, sigma_mm)
    expected = gaussian_filter1d(
        probability.astype(np.float64), sigma_mm / 3.5, axis, mode="nearest"
    )
    assert found.dtype == np.float32 and found.shape == probability.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_axes_that_the_affine_permutes():
    """The second voxel axis runs from feet to head; spacing is the length of its column."""
    probability = volume((1.25, 3.5, 0.75))
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = 1.25, -3.5, 0.75, 1
    expected = gaussian_filter1d(probability.astype(float), 2.0 / 3.5, 1, mode="nearest")
    np.testing.assert_allclose(smooth_across_slices(probability, affine, 2.0), expected, atol=1e-6)


def test_a_point_by_hand():
    """A single slice of ones spreads as exp(-d^2 / 2 sigma^2), d in mm."""
    probability = np.zeros((3, 5, 17), np.float32)
    probability[:, :, 8] = 1
    found = smooth_across_slices(probability, np.diag([1.0, 1.0, 2.0, 1.0]), 3.0)
    weights = np.exp(-((2.0 * np.arange(-6, 7)) ** 2) / (2 * 3.0**2))
    np.testing.assert_allclose(found[1, 2, 2:15], weights / weights.sum(), rtol=1e-5)
    assert not found[:, :, :2].any()


def test_what_is_the_same_in_all_slices_stays_and_one_is_never_exceeded():
    probability = np.repeat(volume((0.75, 1.25, 3.5))[:, :, :1], 13, axis=2)
    probability[:5] = 1
    found = smooth_across_slices(probability, np.diag([0.75, 1.25, 3.5, 1]), 5.0)
    np.testing.assert_allclose(found, probability, atol=1e-6)
    sure = np.ones((3, 5, 41), np.float32)
    for sigma_mm in np.linspace(0.5, 30, 60):  # some of the sums are 1 + 1e-7 before rounding
        assert smooth_across_slices(sure, np.eye(4), sigma_mm).max() <= 1


def test_zero_changes_nothing_and_one_slice_is_fine():
    probability = volume((0.75, 1.25, 3.5))
    affine = np.diag([0.75, 1.25, 3.5, 1])
    assert smooth_across_slices(probability, affine, 0) is probability
    one = probability[:, :, :1]
    np.testing.assert_allclose(smooth_across_slices(one, affine, 7.0), one, atol=1e-6)


def test_a_mask_by_hand():
    """Three components of 4, 2 and 1 voxels of 6 mm3, at 0.4, 0.6 and 0.8."""
    probability = np.zeros((11, 3, 3), np.float32)
    probability[0:4, 1, 1], probability[6:8, 1, 1], probability[10, 1, 1] = 0.4, 0.6, 0.8
    for post, rows in (
        (PostProcessing(0.3), [0, 1, 2, 3]),
        (PostProcessing(0.4, 2), [0, 1, 2, 3, 6, 7]),
        (PostProcessing(0.5), [6, 7]),
        (PostProcessing(0.5, 0), [6, 7, 10]),
        (PostProcessing(0.5, 0, min_mm3=12), [6, 7]),
        (PostProcessing(0.7, min_mm3=7), []),
    ):
        mask = post.mask(probability, (1, 2, 3))
        assert mask.dtype == np.uint8
        assert np.argwhere(mask).tolist() == [[row, 1, 1] for row in rows], post


def test_it_is_what_the_config_says_and_says_so():
    predict = {"threshold": 0.3, "components": 2, "smooth_mm": 1.875, "stride": 4}
    post = PostProcessing.of(predict)
    assert post == PostProcessing(0.3, 2, 1.875, 0.0)
    assert predict | post.fields() == predict and len(post.fields()) == 3
    assert str(post) == "threshold 0.3, 2 components, smoothed by 1.875 mm"
    assert str(PostProcessing()) == "threshold 0.5, 1 component, not smoothed"
    assert str(PostProcessing(components=0)) == "threshold 0.5, all components, not smoothed"


def test_nothing_is_smoothed_or_dropped_unless_it_is_asked_for():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[1, 1, 1] = 1
    assert DEFAULT.clean(mask, (0.01, 0.01, 0.01)).sum() == 1
    assert not DEFAULT.smooth_mm and DEFAULT.min_mm3 == 0
