"""One training step: device invariance, what moves and what does not, and that it can learn."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from lagseg_jax.data.batches import split_over_devices
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.weights import random_params
from lagseg_jax.runtime.devices import replicate
from lagseg_jax.runtime.errors import TrainingError
from lagseg_jax.training import step as step_module
from lagseg_jax.training.losses import slice_losses
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.step import TrainStep, augmentation_of, make_encode, make_validation_step
from steps import batch_of, on_devices, scheduled, setup, tiny_config


@pytest.mark.parametrize("loss", ["bce", "bce+dice"])
def test_two_devices_equal_one(loss):
    """With augmentation: gradients are averaged, metrics gathered, keys follow the slices."""
    config = tiny_config(loss=loss)
    _, encoder, state, step = setup(config)
    batch = batch_of(4)
    one, one_metrics, _ = on_devices(step, 1)(state, encoder, split_over_devices(batch, 1))
    two, two_metrics, _ = on_devices(step, 2)(state, encoder, split_over_devices(batch, 2))
    # Adam divides by the gradient's size, so compare what it was given: its moments.
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(two.opt_state)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7)
    for name, value in one_metrics.compute().items():
        np.testing.assert_allclose(value, two_metrics.compute()[name], rtol=1e-5, err_msg=name)
    # And a mistake that would show only on device 1 must show: its half of the batch counts.
    changed = {**batch, "mask": np.concatenate([batch["mask"][:2], 1 - batch["mask"][2:]])}
    other, *_ = on_devices(step, 2)(state, encoder, split_over_devices(changed, 2))
    moments = [jax.tree.leaves(s.opt_state)[1] for s in (two, other)]
    assert np.abs(np.asarray(moments[0]) - np.asarray(moments[1])).max() > 0


def test_in_bfloat16_two_devices_equal_one():
    """There the step is compiled with options of its own; gradients up to bfloat16's rounding."""
    config = tiny_config()
    config.encoder.dtype = config.decoder.dtype = "bfloat16"
    _, encoder, state, step = setup(config)
    encoder = random_params(EncoderSpec("tiny"), 0, "bfloat16")
    batch = batch_of(4)
    steps = [on_devices(step, n) for n in (1, 2)]
    found = [s(state, encoder, split_over_devices(batch, n)) for n, s in enumerate(steps, 1)]
    (one, *_), (two, *_) = found
    moments = [
        np.concatenate([x.ravel() for x in jax.tree.leaves(s.opt_state)]) for s in (one, two)
    ]
    assert np.linalg.norm(moments[0] - moments[1]) < 0.02 * np.linalg.norm(moments[0])
    again, metrics, _ = steps[0](one, encoder, split_over_devices(batch, 1))
    assert int(again.step) == 2 and np.isfinite(metrics.compute()["loss"])


def test_moves_every_trained_parameter_and_never_the_encoder():
    config = tiny_config()
    _, encoder, state, step = setup(config)
    before = jax.tree.map(np.array, encoder)
    # The fusion weights get a gradient only once the decoder tells blocks apart: two steps.
    new = state
    for _ in range(2):
        new, *_ = on_devices(step, 1)(new, encoder, split_over_devices(batch_of(4), 1))
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
    step = step()
    state, encoder = replicate(state), replicate(encoder)
    batch = split_over_devices(batch_of(4), jax.local_device_count())
    given = jax.tree.leaves((state.params, state.opt_state))
    state, *_ = step(state, encoder, batch)
    assert all(leaf.is_deleted() for leaf in given)  # their memory is the new state's
    with jax.transfer_guard_device_to_device("disallow"):
        state, metrics, _ = step(state, encoder, batch)
        jax.block_until_ready(metrics)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == jax.local_device_count()


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("what", ["loss", "gradient", "loss alone"])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(what, monkeypatch):
    """One bad slice, on the second device only; the next step is as if it were the first to come.

    `gradient`: the loss is finite, and only its derivative is not; `loss alone`: the reverse.
    """
    config = tiny_config(warmup_steps=3, weight_decay=0.1)
    config.augment.update({name: 0.0 for name in config.augment})
    model, encoder, state, step = setup(config, steps=9)
    good, bad = batch_of(4), batch_of(4)
    bad["image"][3] = np.nan
    if what == "gradient":
        step = with_broken_gradient(config, model)
        bad["image"][3] = 0
    if what == "loss alone":
        monkeypatch.setattr(step_module, "slice_losses", broken_for_empty_masks)
        step = compiled_anew(config, model)
        bad["image"][3], bad["mask"][3] = good["image"][3], 0
    run = on_devices(step, 2)
    state, first, outcome = run(state, encoder, split_over_devices(good, 2))
    assert not outcome.skipped and int(state.step) == 1
    before = jax.tree.map(np.array, state)
    skipped, metrics, outcome = run(state, encoder, split_over_devices(bad, 2))
    assert outcome.skipped and int(skipped.step) == 2
    equal((skipped.params, skipped.opt_state), (before.params, before.opt_state))
    # Logged means are those of the good steps.
    equal(first.merge(metrics).compute(), first.compute())
    # Schedule and augmentation are functions of the step, Adam's moments are those of the updates.
    after, _, outcome = run(skipped, encoder, split_over_devices(good, 2))
    as_if, *_ = run(before.replace(step=np.int32(2)), encoder, split_over_devices(good, 2))
    assert not outcome.skipped
    equal(after, as_if)
    for leaf in jax.tree.leaves(after):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        np.testing.assert_array_equal(copies[0], copies[-1])


def broken_for_empty_masks(loss, logits, masks):
    """Losses (B,) that are NaN where a mask is empty, with the gradient of the finite ones."""
    added = jnp.where(masks.any(axis=(1, 2)), 0.0, jnp.nan)
    return slice_losses(loss, logits, masks) + jax.lax.stop_gradient(added)


def with_broken_gradient(config, model):
    """A step whose gradient, not whose loss, is NaN for images that are 0 everywhere."""

    @jax.custom_jvp
    def poisoned(logits, images):
        return logits

    @poisoned.defjvp
    def _(primals, tangents):
        bad = jnp.any(primals[1].max(axis=(1, 2)) == 0)
        return primals[0], tangents[0] * jnp.where(bad, jnp.nan, 1.0)

    class Poisoned:
        def __getattr__(self, name):
            return getattr(model, name)

        def head_logits(self, params, tokens, images):
            return poisoned(model.head_logits(params, tokens, images), images)

    return compiled_anew(config, Poisoned())


def compiled_anew(config, model):
    parts = model, make_optimizer(config.train), "bce", augmentation_of(config.augment), 3
    return lambda devices: scheduled(TrainStep(*parts, devices), config, 9)


def test_the_learning_rate_is_that_of_the_step_and_the_update_that_of_adamw():
    """Against optax's own AdamW, which counts its updates itself."""
    train = tiny_config(warmup_steps=2, weight_decay=0.1, gradient_clip=0.5).train
    ours, schedule = make_optimizer(train), learning_rate(train, 9)
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(schedule, weight_decay=0.1))
    params = {"a": jnp.arange(5.0), "b": jnp.ones((2, 3))}
    state, reference = ours.init(params), theirs.init(params)
    for step in range(4):
        gradients = jax.tree.map(lambda x, s=step: jnp.cos(x + s), params)
        expected, reference = theirs.update(gradients, reference, params)
        found, state = ours.update(gradients, state, params, rate=schedule(step))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
        params = optax.apply_updates(params, found)


def test_overfits_one_slice():
    config = tiny_config(loss="bce+dice", learning_rate=1e-2)
    config.augment.update({name: 0.0 for name in config.augment})
    _, encoder, state, step = setup(config, steps=160)
    step = on_devices(step, 1)
    batch = split_over_devices(batch_of(1), 1)
    for _ in range(160):
        state, metrics, _ = step(state, encoder, batch)
        jax.block_until_ready(metrics)
    assert float(metrics.compute()["dice"]) > 0.97


def test_validation_dice_is_the_mean_over_cases():
    config = tiny_config()
    model, encoder, state, _ = setup(config)
    batch = batch_of(4) | {"case": np.array([0, 1, 1, 0], np.int32)}
    batch["weight"] = np.array([1, 1, 1, 0], np.float32)
    images = jnp.asarray(batch["image"], float)
    tokens = jax.jit(model.tokens)(encoder, images)
    logits = np.asarray(jax.jit(model.head_logits)(state.params, tokens, images))
    expected = []
    for slices in ([0], [1, 2]):
        predicted, truth = logits[slices] > 0, batch["mask"][slices] > 0
        expected.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    for devices in (1, 2):
        step = make_validation_step(model, "bce", cases=2, devices=jax.devices()[:devices])
        metrics = step(state.params, encoder, split_over_devices(batch, devices))
        found = metrics.compute()
        np.testing.assert_allclose(found["dice"], np.mean(expected), rtol=1e-5)
        losses = slice_losses("bce", jnp.asarray(logits), jnp.asarray(batch["mask"]))
        np.testing.assert_allclose(found["loss"], np.mean(losses[:3]), rtol=1e-5)  # no padding


def test_warm_up_takes_half_of_a_short_training_at_most():
    train = tiny_config(warmup_steps=100, learning_rate=1e-3).train
    rates = [float(learning_rate(train, 14)(step)) for step in range(15)]
    assert max(rates) == rates[7] == pytest.approx(1e-3) and rates[14] == pytest.approx(0, abs=1e-9)


def test_every_step_augments_anew():
    """An adapter leaves the encoder to the update, so that this needs no network."""
    encode = make_encode(
        SimpleNamespace(adapter=True), augmentation_of(tiny_config().augment), seed=3
    )
    first, again, second = (encode(step, {}, batch_of(2))["image"] for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max(axis=(1, 2)).min() > 0.01


def test_schedule_is_a_function_of_the_step():
    config = default.get_config()
    schedule = learning_rate(config.train, 1000)
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(50), 0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 1e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(550), 0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(1000), 0, atol=1e-9)


@pytest.mark.parametrize("text", ["RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes", "other"])
def test_a_step_too_large_for_the_device_is_a_sentence(monkeypatch, text):
    def full(*_):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(step_module, "pmapped", lambda *_, **__: full)
    model, encoder, state, _ = setup(tiny_config())
    step = TrainStep(model, optax.identity(), "bce", augmentation_of(tiny_config().augment), 0)
    sentence = "a step with 2 slices of 42 x 42 pixels on each device needs more memory"
    expected = (TrainingError, sentence) if "EXHAUSTED" in text else (RuntimeError, "other")
    with pytest.raises(expected[0], match=expected[1]):
        step(state, jnp.float32(1e-3), encoder, split_over_devices(batch_of(4), 2))
