"""Estimates of Dice and volume: stability by hand, what they promise, and records of strangers."""

import json

import numpy as np
import pytest

from lagseg_jax.evaluation.statistics import estimate_agreement
from lagseg_jax.evaluation.uncertainty import fit
from lagseg_jax.inference.uncertainty import (
    LEVEL,
    Uncertainty,
    estimate_line,
    estimate_warnings,
    stability,
)
from lagseg_jax.inference.uncertainty_record import read_uncertainty
from lagseg_jax.runtime.errors import InputError

SHAPE = (7, 5, 3)


def row(truth_ml, prediction_ml=100.0, stable=0.9, dice=0.9):
    values = {"dice": dice, "stability": stable}
    return values | {"truth_ml": truth_ml, "prediction_ml": prediction_ml}


def test_stability_by_hand():
    probability = np.zeros(SHAPE)
    probability[1:5, 2, 1] = 0.8, 0.6, 0.4, 0.2
    mask = probability >= 0.5  # of 3 voxels of 0.3 and more, 1 has 0.7 and more
    np.testing.assert_allclose(stability(probability, mask, 0.5, 2), 2 * 1 / (3 + 1))
    assert stability(mask.astype(float), mask, 0.5, 2) == 1
    assert stability(probability, np.zeros(SHAPE), 0.5, 2) == 0
    probability[6, 0, 1] = 0.9  # another component, which is not in the mask
    np.testing.assert_allclose(stability(probability, mask, 0.5, 2), 2 * 1 / (4 + 1))


def test_only_the_slices_of_the_mask_and_the_next_ones_count():
    probability = np.zeros((5, 3, 11))
    probability[2, 1, 4:7] = 0.9
    mask = probability >= 0.5
    for z, counts in ((3, True), (7, True), (2, False), (8, False)):
        more = probability.copy()
        more[0, 0, z] = 0.4
        assert (stability(more, mask, 0.5, 2) < 1) == counts


def test_a_sharper_probability_is_more_stable():
    x = np.linspace(-1, 1, 40)[:, None, None] * np.ones((1, 5, 3))
    found = [stability(1 / (1 + np.exp(x * s)), x < 0, 0.5, 2) for s in (2, 5, 20, 500)]
    assert found == sorted(found) and found[-1] == 1


def test_the_estimate_grows_with_stability_and_keeps_its_ends():
    for shift in (-2.0, 0.0, 1.5):
        estimates = [Uncertainty(1, 4, shift, 0.1).dice(s) for s in (0, 0.3, 0.8, 0.95, 1)]
        assert estimates == sorted(estimates) and estimates[0] == 0
        np.testing.assert_allclose(estimates[-1], 1)


def test_estimates_are_right_where_all_cases_are_off_by_the_same_odds():
    stable = np.array([0.7, 0.8, 0.9, 0.95, 0.6])
    odds = 0.5 * stable / (1 - stable)
    found = fit(3, [row(100, stable=s, dice=o / (1 + o)) for s, o in zip(stable, odds)])
    np.testing.assert_allclose([found.dice(s) for s in stable], odds / (1 + odds), rtol=1e-9)
    assert (found.step, found.cases) == (3, 5)


def test_one_failed_case_does_not_move_the_estimates():
    cases = [row(100, stable=0.8, dice=0.9)] * 4
    failed = row(100, prediction_ml=0, stable=0, dice=0)
    assert fit(1, cases).shift == fit(1, [*cases, failed]).shift
    assert fit(1, [*cases, failed]).volume_error > 10 * fit(1, cases).volume_error


@pytest.mark.parametrize("cases", [1, 2, 5, 20])
def test_the_interval_holds_the_true_volume_as_often_as_it_says(cases):
    """Also of one validation case, over many draws of it."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        stable = rng.uniform(0.7, 0.95, cases + 1)
        truth = 100 * np.exp(0.4 * (1 - stable) * rng.normal(size=cases + 1))
        found = fit(1, [row(t, stable=s) for t, s in zip(truth[1:], stable[1:])])
        low, high = found.volume_interval(100.0, stable[0])
        covered.append(low <= truth[0] <= high)
    assert abs(np.mean(covered) - LEVEL) < 0.025


def test_fewer_validation_cases_widen_the_interval():
    widths = []
    for cases in (1, 2, 5, 20):
        low, high = fit(1, [row(110)] * cases).volume_interval(100.0, 0.9)
        assert low < 100 < high
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)
    low, high = fit(1, [row(0), row(100)]).volume_interval(100.0, 0.9)
    assert 0 < low < high < np.inf


def test_agreement_by_hand():
    estimate, dice = np.array([0.8, 0.9, np.nan, 0.7]), np.array([0.9, 0.8, 0.5, 0.6])
    interval = np.array([80, 80, np.nan, 80.0]), np.array([120, 120, np.nan, 120.0])
    found = estimate_agreement(estimate, dice, np.array([100, 130, 90, 80.0]), interval)
    assert (found["n"], found["covered"]) == (3, 2)
    np.testing.assert_allclose(found["mean_absolute_error"], 0.1)
    np.testing.assert_allclose(found["spearman"], 0.5)
    none = estimate_agreement(*(np.full(2, np.nan) for _ in range(3)), (np.full(2, np.nan),) * 2)
    assert none["n"] == none["covered"] == 0 and np.isnan(none["pearson"])


def test_what_is_said_of_a_case():
    known = {"estimated_dice": 0.75, "volume_low_ml": 61.04, "volume_high_ml": 99.0}
    assert estimate_line(known) == ", estimated Dice 0.75, 90%: 61.0 to 99.0 mL"
    assert estimate_warnings(known) == ["the estimated Dice is below 0.8"]
    assert not estimate_warnings(known | {"estimated_dice": 0.9}) and not estimate_line({})
    (said,) = estimate_warnings({"unlike_training": "contrast, volume_ml"})
    assert "contrast, volume_ml" in said and "nothing is estimated" in said


@pytest.mark.parametrize(
    "change",
    [
        {"cases": 0},
        {"cases": 10**400},  # no float
        {"cases": True},
        {"shift": None},
        {"shift": 1000},  # its exponential would be no number
        {"shift": float("nan")},
        {"volume_error": -0.1},
        {"volume_error": True},
        {"step": "4"},
    ],
)
def test_a_record_that_was_edited_is_refused(tmp_path, change):
    content = {"step": 4, "cases": 2, "shift": 0.1, "volume_error": 0.3}
    path = tmp_path / "uncertainty.json"
    path.write_text(json.dumps(content))
    assert read_uncertainty(path) == Uncertainty(**content)
    path.write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=r"uncertainty\.json cannot be read"):
        read_uncertainty(path)
