"""Losses per slice: equal to torch, to hand-made answers, and finite for confident mistakes."""

import jax
import numpy as np
import pytest

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.training.losses import LOSSES, bce, slice_losses, soft_dice

SHAPE = (3, 7, 11)
SURE = 1e4  # a logit whose sigmoid is 0 or 1 in float32


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=4, size=SHAPE).astype(np.float32)


@pytest.fixture
def mask():
    return np.random.default_rng(1).integers(0, 2, SHAPE).astype(np.uint8)


def test_bce_equals_torch(logits, mask):
    torch = pytest.importorskip("torch")
    logits[0, 0, :2] = [200, -200]  # exp overflows in float32
    loss = torch.nn.BCEWithLogitsLoss(reduction="none")
    reference = loss(torch.from_numpy(logits), torch.from_numpy(mask).float()).mean((1, 2))
    np.testing.assert_allclose(bce(logits, mask), reference, rtol=1e-5)


def test_bce_by_hand():
    # Undecided costs ln 2; a probability of 3/4 costs -ln 3/4 inside and -ln 1/4 outside.
    logits = np.array([[[0.0, 0.0]], [[np.log(3), np.log(3)]]], np.float32)
    mask = np.array([[[0, 1]], [[1, 0]]], np.float32)
    expected = [np.log(2), (np.log(4 / 3) + np.log(4)) / 2]
    np.testing.assert_allclose(bce(logits, mask), expected, rtol=1e-6)


def test_soft_dice_by_hand():
    # p = 1/2 on 4 pixels, 3 of them atrium: overlap 1.5, sums 2 and 3, smoothing 1.
    logits = np.zeros((1, 2, 2), np.float32)
    mask = np.array([[[1, 1], [1, 0]]], np.float32)
    np.testing.assert_allclose(soft_dice(logits, mask), 1 - (2 * 1.5 + 1) / (2 + 3 + 1), rtol=1e-6)
    np.testing.assert_allclose(soft_dice(logits, mask, smooth=0), 1 - 3 / 5, rtol=1e-6)


def test_soft_dice_of_certain_predictions():
    mask = np.zeros((4, 2, 3), np.float32)
    mask[1:] = 1
    logits = np.where(mask, SURE, -SURE)
    logits[2] = -SURE  # all missed
    logits[3, 0] = -SURE  # half of 6 missed
    # Both empty costs nothing, perfect costs nothing, 1 - 1 / 7, 1 - (2 * 3 + 1) / (3 + 6 + 1).
    np.testing.assert_allclose(soft_dice(logits, mask), [0, 0, 6 / 7, 0.3], atol=1e-6)


def test_the_sum(logits, mask):
    total = slice_losses("bce+dice", logits, mask)
    parts = slice_losses("bce", logits, mask) + slice_losses("dice", logits, mask)
    np.testing.assert_allclose(total, parts, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_per_slice_that_others_do_not_touch(name, logits, mask):
    losses = slice_losses(name, logits, mask)  # the mask is uint8, as it comes from the cache
    assert losses.shape == (3,) and losses.dtype == np.float32
    alone = [slice_losses(name, logits[b : b + 1], mask[b : b + 1])[0] for b in range(3)]
    np.testing.assert_allclose(losses, alone, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_point_at_the_mask_and_stay_finite(name, logits, mask):
    logits[0, 0, :2] = [SURE, -SURE]
    gradient = np.asarray(jax.grad(lambda x: slice_losses(name, x, mask).sum())(logits))
    assert np.isfinite(gradient).all()
    assert (gradient[mask == 1] <= 0).all() and (gradient[mask == 0] >= 0).all()
    assert (gradient[np.abs(logits) < 5] != 0).all()


def test_an_unknown_loss_is_named(logits, mask):
    expected = r"config\.train\.loss is 'focal', expected one of bce, dice, bce\+dice"
    with pytest.raises(InputError, match=expected):
        slice_losses("focal", logits, mask)
