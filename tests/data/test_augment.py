"""Augmentation: image and mask move together, in bounds, and only step and slice number decide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.data.augment import Augmentation, augment, slice_keys

SIZE = 61
STRONG = {
    "rotation_degrees": 180.0,
    "scale": 0.5,
    "translation": 0.1,
    "gamma": 1.0,
    "contrast": 0.5,
    "brightness": 0.5,
    "noise": 0.3,
    "bias_field": 1.0,
}
NONE = dict.fromkeys(STRONG, 0.0)
GREY = {name: STRONG[name] for name in ("gamma", "contrast", "brightness", "noise", "bias_field")}


@functools.partial(jax.jit, static_argnums=0)
def run(strength, keys, images, masks):
    return augment(strength, keys, images, masks)


def augmented(images, masks, step=0, slices=None, seed=0, **strength):
    slices = np.arange(len(images)) if slices is None else np.asarray(slices)
    keys = slice_keys(seed, step, slices)
    result = run(Augmentation(**NONE | strength), keys, jnp.asarray(images, jnp.float32), masks)
    return [np.asarray(x) for x in result]


def disc(row, column, radius):
    rows, columns = np.indices((SIZE, SIZE))
    return (np.hypot(rows - row, columns - column) < radius).astype(np.uint8)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def masks():
    return np.stack([disc(20 + 4 * n, 36 - 3 * n, 7 + n) for n in range(5)])


def centres(masks):
    return np.array([np.argwhere(mask > 0.5).mean(axis=0) for mask in masks])


def test_strength_0_changes_not_one_bit(images, masks):
    images[0, :2] = [[0.0], [1.0]]
    moved, moved_masks = augmented(images, masks)
    np.testing.assert_array_equal(moved, images)
    np.testing.assert_array_equal(moved_masks, masks)
    assert moved.dtype == moved_masks.dtype == np.float32


@pytest.mark.parametrize("name", NONE)
def test_every_transformation_does_something_and_can_be_used_alone(images, masks, name):
    moved, moved_masks = augmented(images, masks, **{name: STRONG[name]})
    assert all((a != b).any() for a, b in zip(moved, images))
    assert (moved_masks != masks).any() == (name not in GREY)


def test_bounds(images, masks):
    images[0], images[1], images[2, ::2] = 0, 1, 0
    for step in range(5):
        moved, moved_masks = augmented(images, masks, step, **STRONG)
        assert np.isfinite(moved).all()
        assert moved.min() >= 0 and moved.max() <= 1
        assert set(np.unique(moved_masks)) == {0, 1}


# Keys


def test_same_seed_step_and_slice_same_result(images, masks):
    same = np.stack([images[0]] * 5)
    first, again = (augmented(same, masks, step=3, **STRONG)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [
        augmented(same, masks, step=4, **STRONG)[0][0],
        augmented(same, masks, step=3, seed=1, **STRONG)[0][0],
        first[1],  # another slice number
    ]
    assert all((first[0] != other).any() for other in others)


def test_the_place_in_the_batch_does_not_matter(images, masks):
    """So one device or many, and any number of processes, augment a slice in the same way."""
    numbers, order = np.arange(11, 16), [3, 0, 4, 4, 1]
    whole, whole_masks = augmented(images, masks, step=7, slices=numbers, **STRONG)
    other, other_masks = augmented(
        images[order], masks[order], step=7, slices=numbers[order], **STRONG
    )
    np.testing.assert_array_equal(other, whole[order])
    np.testing.assert_array_equal(other_masks, whole_masks[order])
    keys = [jax.random.key_data(slice_keys(0, 7, n)) for n in (numbers, numbers[2:3])]
    np.testing.assert_array_equal(keys[0][2:3], keys[1])


# Geometry


def test_image_and_mask_move_together(masks):
    movement = {k: v for k, v in STRONG.items() if k not in GREY}
    moved, moved_masks = augmented(masks, masks, step=1, **movement)
    away = np.linalg.norm(centres(moved_masks) - centres(masks), axis=1)
    assert (away > 3).sum() >= 3
    for image, mask in zip(moved > 0.5, moved_masks > 0.5):
        assert mask.any()
        assert 2 * (image & mask).sum() / (image.sum() + mask.sum()) > 0.95


def test_rotation_turns_about_the_centre_within_its_bound():
    masks = np.stack([disc(30, 52, 5)] * 200)  # 22 pixels to the right of the centre
    moved = centres(augmented(masks, masks, rotation_degrees=15.0)[1]) - (SIZE - 1) / 2
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 22, atol=0.4)
    angles = np.rad2deg(np.arctan2(moved[:, 0], moved[:, 1]))
    assert -15.5 < angles.min() < -12 and 12 < angles.max() < 15.5


def test_the_centre_stays_under_rotation_and_scale(masks):
    images = np.zeros((5, SIZE, SIZE), np.float32)
    images[:, SIZE // 2, SIZE // 2] = 0.75
    moved, _ = augmented(images, masks, rotation_degrees=180.0, scale=0.5)
    np.testing.assert_allclose(moved[:, SIZE // 2, SIZE // 2], 0.75, atol=1e-4)


def test_scale_stays_within_its_bound():
    masks = np.stack([disc(30, 30, 15)] * 200)
    _, moved = augmented(masks, masks, scale=0.25)
    zoom = np.sqrt(moved.sum(axis=(1, 2)) / masks.sum(axis=(1, 2)))
    assert 0.78 < zoom.min() < 0.85 and 1.18 < zoom.max() < 1.27  # 1 / 1.25 to 1.25


def test_translation_stays_within_its_bound():
    masks = np.stack([disc(30, 30, 5)] * 200)
    moved = centres(augmented(masks, masks, translation=0.1)[1]) - centres(masks)
    assert 5.5 < np.abs(moved).max() < 6.3  # 6.1 pixels
    assert np.abs(moved.mean(axis=0)).max() < 1


# Grey values


def test_gamma_keeps_the_order_of_grey_values(masks):
    ramp = np.broadcast_to(np.linspace(0, 1, SIZE, dtype=np.float32), (5, SIZE, SIZE))
    moved, _ = augmented(ramp, masks, gamma=1.0)
    assert (np.diff(moved, axis=2) >= 0).all()
    np.testing.assert_allclose(moved[..., 0], 0, atol=0.01)
    np.testing.assert_allclose(moved[..., -1], 1, atol=1e-6)
    exponents = np.log(moved[:, 0, 30]) / np.log(ramp[:, 0, 30])
    assert (np.abs(np.log(exponents)) <= 1 + 1e-4).all() and np.ptp(exponents) > 0.1


def test_contrast_multiplies_grey_values_within_its_bound(masks):
    ramp = np.broadcast_to(np.linspace(0, 0.5, SIZE, dtype=np.float32), (5, SIZE, SIZE))
    moved, _ = augmented(ramp, masks, contrast=0.6)
    factors = moved[:, 0, -1] / 0.5
    np.testing.assert_allclose(moved, ramp * factors[:, None, None], rtol=1e-5)
    assert (np.abs(np.log(factors)) <= 0.6 + 1e-5).all() and np.ptp(factors) > 0.1
    bright = np.full((5, SIZE, SIZE), 0.9, np.float32)
    assert augmented(bright, masks, contrast=0.6)[0].max() <= 1


def test_bias_field_is_smooth_and_bounded(masks):
    flat = np.full((5, SIZE, SIZE), 0.3, np.float32)
    field = np.log(augmented(flat, masks, bias_field=1.0)[0] / 0.3)
    assert np.abs(field).max() <= 1 + 1e-5 and field.std(axis=(1, 2)).min() > 0.01
    assert np.abs(np.diff(field, axis=1)).max() < 0.15


def test_noise_has_at_most_its_standard_deviation(masks):
    flat = np.full((5, SIZE, SIZE), 0.5, np.float32)
    deviation = augmented(flat, masks, noise=0.05)[0].std(axis=(1, 2))
    assert (deviation <= 0.052).all() and np.ptp(deviation) > 0.01
