"""Dice pooled over the slices of each case, as sums that batches and devices can share."""

import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.training.metrics import Dice, ValidationMetrics, overlap_counts

CASES = np.array([0, 0, 1, 1, 1, 2, 2])  # of 7 slices


@pytest.fixture
def slices():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 5, 11)).astype(np.float32)
    mask = (rng.random((7, 5, 11)) < 0.3).astype(np.uint8)
    return logits, mask


def dice_of(logits, mask, weight=None, cases=CASES, groups=3):
    weight = np.ones(len(logits), np.float32) if weight is None else weight
    counts = np.zeros((groups, 3), np.float32)
    np.add.at(counts, cases, overlap_counts(logits, mask, weight))
    return Dice.from_model_output(jnp.asarray(counts))


def pooled(logits, mask, keep):
    predicted, truth = logits[keep] > 0, mask[keep] == 1
    return 2 * np.sum(predicted & truth) / (predicted.sum() + truth.sum())


def test_counts_by_hand():
    logits = np.array([[[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]])  # 0 is no atrium: p = 1/2 is not more
    mask = np.array([[[1, 1, 0], [1, 1, 0]]], np.uint8)
    counts = overlap_counts(logits, mask, np.ones(1))
    assert counts.dtype == jnp.float32
    np.testing.assert_array_equal(counts, [[2, 4, 3]])
    np.testing.assert_array_equal(overlap_counts(logits, mask, np.zeros(1)), [[0, 0, 0]])


def test_dice_is_pooled_over_each_case_and_averaged_over_cases(slices):
    expected = np.mean([pooled(*slices, CASES == case) for case in range(3)])
    np.testing.assert_allclose(dice_of(*slices).compute(), expected, rtol=1e-6)
    # Which is neither the mean over slices nor one pool of all slices.
    by_slice = np.mean([pooled(*slices, [number]) for number in range(7)])
    assert abs(expected - by_slice) > 1e-3
    assert abs(expected - pooled(*slices, slice(None))) > 1e-4


def test_padding_is_left_out(slices):
    weight = np.array([1, 1, 1, 0, 1, 1, 1], np.float32)
    kept = [pooled(*slices, (CASES == case) & (weight == 1)) for case in range(3)]
    np.testing.assert_allclose(dice_of(*slices, weight).compute(), np.mean(kept), rtol=1e-6)


def test_parts_merge_to_the_whole_also_within_a_case(slices):
    logits, mask = slices
    parts = [
        dice_of(logits[part], mask[part], cases=CASES[part])
        for part in (slice(0, 3), slice(3, 4), slice(4, 7))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    np.testing.assert_array_equal(merged.counts, dice_of(*slices).counts)
    np.testing.assert_array_equal(merged.compute(), dice_of(*slices).compute())


def test_empty_cases():
    # Both empty is left out; one of them empty is 0; no case left is not a number.
    both, missed, perfect = [0, 0, 0], [0, 7, 0], [5, 5, 5]
    for counts, expected in (
        ([both, perfect], 1),
        ([missed, perfect], 0.5),
        ([both, missed, perfect], 0.5),
        ([[0, 1, 0], [0, 0, 1], perfect, perfect], 0.5),  # one pixel is not nothing
        ([both, both], np.nan),
    ):
        dice = Dice.from_model_output(jnp.array(counts, jnp.float32))
        np.testing.assert_array_equal(dice.compute(), expected)


def test_validation_loss_is_the_mean_over_real_slices(slices):
    loss = np.array([1.0, 2, 4, 100], np.float32)
    weight = np.array([1, 1, 1, 0], np.float32)
    counts = jnp.array([[1, 2, 2]], jnp.float32)
    parts = [
        ValidationMetrics.single_from_model_output(
            loss=loss[part], mask=weight[part], counts=counts
        )
        for part in (slice(0, 1), slice(1, 4))
    ]
    values = parts[0].merge(parts[1]).compute()
    np.testing.assert_allclose(values["loss"], 7 / 3, rtol=1e-6)
    np.testing.assert_allclose(values["dice"], 0.5, rtol=1e-6)
