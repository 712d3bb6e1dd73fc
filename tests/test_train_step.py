"""One training step: device invariance, what moves and what does not, and that it can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lagseg_jax.batches import split_over_devices
from lagseg_jax.devices import replicate
from lagseg_jax.encoder import EncoderSpec
from lagseg_jax.model import build_model
from lagseg_jax.train_step import (
    AXIS,
    augmentation_of,
    init_state,
    learning_rate,
    make_optimizer,
    make_train_step,
    make_validation_step,
)
from lagseg_jax.weights import random_params

SIZE = 42


def tiny_config(**train):
    config = default.get_config()
    config.data.image_size = SIZE
    config.encoder.variant = "tiny"
    config.encoder.dtype = config.decoder.dtype = "float32"
    config.decoder.scales, config.decoder.widths = (4, 2), (16, 16, 8)
    config.decoder.image_path = "pyramid"
    config.train.warmup_steps = 0
    config.train.update(train)
    return config


def setup(config, steps=50):
    spec = EncoderSpec("tiny")
    model = build_model(config, spec)
    encoder = random_params(spec, 0, "float32")
    optimizer = make_optimizer(config.train, steps)
    state = init_state(model.init_head(jax.random.key(1), SIZE), optimizer)
    step = make_train_step(
        model, optimizer, config.train.loss, augmentation_of(config.augment), seed=3
    )
    return model, encoder, state, step


def batch_of(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((count, SIZE, SIZE)).astype(np.float16)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for b in range(count):
        masks[b, 5 + b : 20 + b, 11:29] = 1
    images[masks == 1] = np.minimum(images[masks == 1] + 0.5, 1)
    return {
        "image": images,
        "mask": masks,
        "slice": np.arange(count, dtype=np.int32),
        "case": np.zeros(count, np.int32),
    }


def pmapped(step, devices):
    return jax.pmap(
        step, AXIS, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:devices]
    )


@pytest.mark.parametrize("loss", ["bce", "bce+dice"])
def test_two_devices_equal_one(loss):
    """With augmentation: gradients are averaged, metrics gathered, keys follow the slices."""
    config = tiny_config(loss=loss)
    _, encoder, state, step = setup(config)
    batch = batch_of(4)
    one, one_metrics = pmapped(step, 1)(state, encoder, split_over_devices(batch, 1))
    two, two_metrics = pmapped(step, 2)(state, encoder, split_over_devices(batch, 2))
    # Adam divides by the gradient's size, so compare what it was given: its moments.
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(two.opt_state)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7)
    for name, value in one_metrics.compute().items():
        np.testing.assert_allclose(value, two_metrics.compute()[name], rtol=1e-5, err_msg=name)
    # And a mistake that would show only on device 1 must show: its half of the batch counts.
    changed = {**batch, "mask": np.concatenate([batch["mask"][:2], 1 - batch["mask"][2:]])}
    other, _ = pmapped(step, 2)(state, encoder, split_over_devices(changed, 2))
    moments = [jax.tree.leaves(s.opt_state)[1] for s in (two, other)]
    assert np.abs(np.asarray(moments[0]) - np.asarray(moments[1])).max() > 0


def test_moves_every_trained_parameter_and_never_the_encoder():
    config = tiny_config()
    _, encoder, state, step = setup(config)
    before = jax.tree.map(np.array, encoder)
    # The fusion weights get a gradient only once the decoder tells blocks apart: two steps.
    new = state
    for _ in range(2):
        new, _ = pmapped(step, 1)(new, encoder, split_over_devices(batch_of(2), 1))
    assert int(new.step) == 2
    flat = zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(new.params), strict=True
    )
    for (path, old), moved in flat:
        assert np.any(np.asarray(old) != np.asarray(moved)), jax.tree_util.keystr(path)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, encoder))
    assert set(new.params) == {"fusion", "decoder"}


def test_donated_replicated_state_stays_replicated():
    """What main uses: state on all devices, donated; nothing is copied to other devices later."""
    config = tiny_config()
    _, encoder, state, step = setup(config)
    step = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)
    state, encoder = replicate(state), replicate(encoder)
    batch = split_over_devices(batch_of(4), jax.local_device_count())
    state, _ = step(state, encoder, batch)
    with jax.transfer_guard_device_to_device("disallow"):
        state, metrics = step(state, encoder, batch)
        jax.block_until_ready(metrics)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == jax.local_device_count()


def test_overfits_one_slice():
    config = tiny_config(loss="bce+dice", learning_rate=1e-2)
    config.augment.update({name: 0.0 for name in config.augment})
    _, encoder, state, step = setup(config, steps=160)
    step = pmapped(step, 1)
    batch = split_over_devices(batch_of(1), 1)
    for _ in range(160):
        state, metrics = step(state, encoder, batch)
        jax.block_until_ready(metrics)
    assert float(metrics.compute()["dice"]) > 0.97


def test_validation_dice_is_the_mean_over_cases():
    config = tiny_config()
    model, encoder, state, _ = setup(config)
    batch = batch_of(4) | {"case": np.array([0, 1, 1, 0], np.int32)}
    batch["weight"] = np.array([1, 1, 1, 0], np.float32)
    logits = np.asarray(model.logits(encoder, state.params, jnp.asarray(batch["image"], float)))
    expected = []
    for slices in ([0], [1, 2]):
        predicted, truth = logits[slices] > 0, batch["mask"][slices] > 0
        expected.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    step = make_validation_step(model, "bce", cases=2)
    for devices in (1, 2):
        metrics = pmapped(step, devices)(state.params, encoder, split_over_devices(batch, devices))
        np.testing.assert_allclose(metrics.compute()["dice"], np.mean(expected), rtol=1e-5)


def test_schedule_is_a_function_of_the_step():
    config = default.get_config()
    schedule = learning_rate(config.train, 1000)
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(50), 0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 1e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(550), 0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(1000), 0, atol=1e-9)
