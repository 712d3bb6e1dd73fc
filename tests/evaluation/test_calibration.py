"""Calibration: probabilities whose error is known, volumes by hand, brute force over voxels."""

import math

import numpy as np
import pytest

from lagseg_jax.evaluation.calibration import (
    bin_sums,
    brier_score,
    expected_calibration_error,
    expected_ml,
    near_atrium,
    reliability_curve,
)

SHAPE = (61, 53, 47)  # 151 951 voxels


def drawn(chance, seed=0):
    """Truth in which every voxel is atrium with its own chance."""
    return np.random.default_rng(seed).random(chance.shape) < chance


def uniform(seed=1):
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


def test_calibrated_probabilities_have_no_error():
    """Bernoulli draws: the frequency in a bin is off by its standard error, 0.004, at most."""
    probability = uniform()
    sums = bin_sums(probability, drawn(probability))
    assert expected_calibration_error(sums) < 0.006
    for one in reliability_curve(sums):
        assert abs(one["probability"] - one["frequency"]) < 0.016  # 4 standard errors
        assert abs(one["probability"] - (one["low"] + one["high"]) / 2) < 0.002
    # The mean of p (1 - p) over 0..1 is 1/6.
    np.testing.assert_allclose(brier_score(sums), 1 / 6, atol=0.002)


def test_over_confident_probabilities_have_the_error_that_was_put_in():
    """What is predicted as 0.95 is right 3 times of 4, what is predicted as 0.05 wrong 1 of 4."""
    sure = np.random.default_rng(2).random(SHAPE) < 0.3
    truth = drawn(np.where(sure, 0.75, 0.25))
    sums = bin_sums(np.where(sure, np.float32(0.95), np.float32(0.05)), truth)
    np.testing.assert_allclose(expected_calibration_error(sums), 0.2, atol=0.005)
    # chance * (1 - p)^2 + (1 - chance) * p^2
    np.testing.assert_allclose(brier_score(sums), 0.75 * 0.05**2 + 0.25 * 0.95**2, atol=0.005)
    curve = reliability_curve(sums)
    assert [i for i, one in enumerate(curve) if one["voxels"]] == [0, 9]
    np.testing.assert_allclose(
        [curve[0]["frequency"], curve[9]["frequency"]], [0.25, 0.75], atol=0.01
    )
    assert curve[5] | {"low": 0.5, "probability": None, "frequency": None} == curve[5]


def test_errors_of_low_and_high_probabilities_do_not_cancel():
    """Binned by the confidence in the predicted class, both of these would be in one bin."""
    probability = np.repeat(np.float32([0.1, 0.9]), 1000).reshape(20, 10, 10)
    truth = np.zeros(2000, bool)
    truth[:200], truth[1000:] = True, True  # 0.2 of the first half, all of the second
    sums = bin_sums(probability, truth.reshape(20, 10, 10))
    np.testing.assert_allclose(expected_calibration_error(sums), 0.1, atol=1e-6)


@pytest.mark.parametrize("bins", [1, 7, 10])
def test_brute_force(bins):
    """One voxel after the other, from the definitions; edges, 0 and 1 among them."""
    rng = np.random.default_rng(bins)
    probability = np.round(rng.random((7, 5, 3)), 1)
    probability[0, 0] = 0, 1, 0.5
    truth = (rng.random((7, 5, 3)) < 0.4).astype(np.int16) * 420
    sums = bin_sums(probability, truth, bins)
    pairs = [(float(p), int(t > 0)) for p, t in zip(probability.ravel(), truth.ravel())]
    ece = 0.0
    for number, one in enumerate(reliability_curve(sums)):
        low, high = one["low"], one["high"]
        inside = [(p, t) for p, t in pairs if low <= p < high or (p == 1 and number == bins - 1)]
        assert one["voxels"] == len(inside)
        if inside:
            predicted, found = np.mean(inside, axis=0)
            np.testing.assert_allclose([one["probability"], one["frequency"]], [predicted, found])
            ece += len(inside) / len(pairs) * abs(predicted - found)
    np.testing.assert_allclose(expected_calibration_error(sums), ece)
    np.testing.assert_allclose(brier_score(sums), np.mean([(p - t) ** 2 for p, t in pairs]))


def test_sums_of_cases_are_the_sum_over_their_voxels():
    probability, truth = uniform(), drawn(uniform(3))
    parts = [bin_sums(probability[part], truth[part]) for part in (slice(0, 20), slice(20, None))]
    np.testing.assert_allclose(sum(parts), bin_sums(probability, truth))


def test_nothing_has_no_error():
    sums = bin_sums(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)))
    assert math.isnan(expected_calibration_error(sums)) and math.isnan(brier_score(sums))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 4, 3\), expected the same"):
        bin_sums(np.zeros((2, 3, 4)), np.zeros((2, 4, 3)))


def test_volume_by_hand():
    probability = np.zeros((5, 7, 3), np.float32)
    probability[1, 2] = 0.25, 0.5, 1
    # 1.75 voxels of 0.5 x 2 x 4 = 4 mm3 are 7 mm3.
    np.testing.assert_allclose(expected_ml(probability, (0.5, 2, 4)), 0.007)


def test_expected_volume_is_right_on_average_where_probabilities_are_calibrated():
    probability = uniform() ** 3  # few voxels reach 0.5: a threshold would lose volume
    truth = drawn(probability)
    found, true_ml = expected_ml(probability, (1, 1, 1)), truth.sum() / 1000
    np.testing.assert_allclose(found, true_ml, rtol=0.01)
    assert abs((probability >= 0.5).sum() / 1000 - true_ml) > 0.1 * true_ml


def test_the_box_around_the_atrium():
    truth = np.zeros((47, 43, 11), np.uint8)
    truth[20:23, 1, 5] = 1
    # 10 mm are 4 voxels of 2.5 mm, 7 of 1.5 mm, 2 of 5 mm; the volume ends at 0.
    box = near_atrium(truth, (2.5, 1.5, 5.0))
    assert box == (slice(16, 27), slice(0, 9), slice(3, 8))
    assert near_atrium(truth, (2.5, 1.5, 5.0), 0) == (slice(20, 23), slice(1, 2), slice(5, 6))
    assert truth[near_atrium(truth * 0, (2.5, 1.5, 5.0))].size == 0
