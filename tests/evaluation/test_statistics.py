"""Intervals and tests against hand-made answers, enumeration and scipy's own bootstrap."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lagseg_jax.evaluation.statistics import (
    bland_altman,
    bootstrap_interval,
    mean_and_sd,
    paired_wilcoxon,
)

VALUES = np.random.default_rng(3).beta(9, 2, 41)


def test_mean_and_sd_by_hand():
    mean, sd = mean_and_sd([1, None, 2, math.nan, 6])
    assert mean == 3 and sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    mean, sd = mean_and_sd([3])
    assert mean == 3 and math.isnan(sd)
    assert mean_and_sd([1, 3])[1] == pytest.approx(math.sqrt(2))
    assert np.isnan(mean_and_sd([])).all()


def test_bootstrap_agrees_with_scipy():
    low, high = bootstrap_interval(VALUES)
    other = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=20_000, rng=5)
    np.testing.assert_allclose((low, high), other.confidence_interval, atol=0.002)
    assert low < VALUES.mean() < high


def test_bootstrap_is_repeatable_and_narrows_with_less_confidence():
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    wide, narrow = bootstrap_interval(VALUES), bootstrap_interval(VALUES, confidence=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_leaves_out_what_is_missing():
    assert bootstrap_interval([0.8, math.nan, 0.9, None, 0.7]) == bootstrap_interval(
        [0.8, 0.9, 0.7]
    )
    assert np.isnan(bootstrap_interval([math.nan])).all()
    assert np.isnan(bootstrap_interval([])).all()
    assert bootstrap_interval([0.83]) == (0.83, 0.83)


def test_wilcoxon_against_all_signs():
    a = np.array([0.91, 0.84, 0.77, 0.95, 0.88, 0.69, 0.93])
    difference = np.array([0.011, -0.002, 0.047, 0.023, 0.005, -0.031, 0.017])
    ranks = stats.rankdata(np.abs(difference))
    observed = ranks[difference > 0].sum()
    sums = [np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=7)]
    tail = min(np.mean(np.array(sums) >= observed), np.mean(np.array(sums) <= observed))
    p = paired_wilcoxon(a, a - difference)
    np.testing.assert_allclose(p, 2 * tail, rtol=1e-9)
    assert paired_wilcoxon(a - difference, a) == p


def test_wilcoxon_needs_six_pairs_that_are_there():
    a, zero = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0] * 6
    np.testing.assert_allclose(paired_wilcoxon(a, zero), 2 / 2**6)
    assert math.isnan(paired_wilcoxon(a[:5], zero[:5]))
    assert math.isnan(paired_wilcoxon([*a[:5], math.nan], zero))
    assert math.isnan(paired_wilcoxon(a, a))
    with pytest.raises(ValueError, match="5 and 6"):
        paired_wilcoxon(a[:5], zero)


def test_bland_altman_by_hand():
    limits = bland_altman([10, 20, 30, math.nan], [11, 22, 36, 9])
    np.testing.assert_allclose(limits["bias"], 3)
    np.testing.assert_allclose(limits["high"] - 3, 1.96 * math.sqrt(7))
    np.testing.assert_allclose(3 - limits["low"], 1.96 * math.sqrt(7))
    one = bland_altman([50], [47])
    assert one["bias"] == -3 and math.isnan(one["low"]) and math.isnan(one["high"])
    assert all(map(math.isnan, bland_altman([], []).values()))
