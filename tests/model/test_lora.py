"""The adapter: its gradient, its start, and its optimiser."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from adapters import merged_by_hand, training_form
from lagseg_jax.data.batches import split_over_devices
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.lora import Adapter, adapted
from lagseg_jax.model.segmentation import build_model, to_rgb
from lagseg_jax.model.weights import random_params
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.step import make_validation_step
from steps import SIZE, batch_of, on_devices, setup, tiny_config

DEPTH, WIDTH, RANK = 4, 64, 3


def lora_config(rank=RANK, blocks=2, **train):
    config = tiny_config(**train)
    config.encoder.lora_rank, config.encoder.lora_blocks = rank, blocks
    return config


def problem(blocks=2, dtype="float32"):
    """Model, encoder, trained parameters far from their start, images."""
    config = lora_config(blocks=blocks)
    config.encoder.dtype = dtype
    model = build_model(config, EncoderSpec("tiny"))
    start, rng = model.init_params(jax.random.key(1), SIZE), np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), start)
    images = jnp.asarray(rng.random((2, SIZE, SIZE)), jnp.float32)
    return model, strong_encoder(dtype), params, images


def strong_encoder(dtype="float32"):
    """Random kernels five times as large as usual, so that a block changes more than a little."""
    encoder = random_params(EncoderSpec("tiny"), 0, dtype)
    encoder["blocks"] = jax.tree.map(lambda x: 5 * x if x.ndim == 3 else x, encoder["blocks"])
    return encoder


def step_config(rank=RANK):
    """The decoder sees tokens alone, and learns slowly."""
    config = lora_config(rank, loss="bce+dice", learning_rate=1e-4, encoder_learning_rate=1e-2)
    config.decoder.image_injection = False
    config.augment.update({name: 0.0 for name in config.augment})
    return config


@pytest.mark.parametrize(("blocks", "dtype"), [(1, "float32"), (4, "float32"), (3, "bfloat16")])
def test_values_are_those_of_the_merged_encoder(blocks, dtype):
    model, encoder, params, images = problem(blocks, dtype)
    assert params["lora"]["a"].shape == (blocks, WIDTH, RANK)
    assert params["lora"]["b"].shape == (blocks, RANK, 3 * WIDTH)
    merged = flatten_dict(model.adapted(encoder, params))
    one_ulp = 2.0 ** (-7 if dtype == "bfloat16" else -22)
    for name, leaf in flatten_dict(encoder).items():
        assert merged[name].dtype == leaf.dtype
        if name != ("blocks", "qkv", "kernel"):
            np.testing.assert_array_equal(merged[name], leaf)
    kernel = np.float32(merged["blocks", "qkv", "kernel"])
    expected = np.float32(merged_by_hand(encoder, params["lora"]))
    np.testing.assert_allclose(kernel, expected, rtol=one_ulp, atol=1e-8)
    first = DEPTH - blocks
    np.testing.assert_array_equal(
        kernel[:first], np.float32(encoder["blocks"]["qkv"]["kernel"])[:first]
    )
    assert (kernel[first:] != np.float32(encoder["blocks"]["qkv"]["kernel"])[first:]).any()

    found = np.float32(jax.jit(model.adapted_tokens)(encoder, params, images))
    expected = np.float32(jax.jit(model.tokens)(model.adapted(encoder, params), images))
    frozen = np.float32(jax.jit(model.tokens)(encoder, images))
    assert found.shape == (DEPTH, 2, 3, 3, WIDTH)
    changed = np.abs(found[first:] - frozen[first:]).max()
    for difference in (found - expected, found[:first] - frozen[:first]):
        assert np.abs(difference).max(initial=0) < changed * (0.1 if dtype == "bfloat16" else 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_is_the_frozen_encoder(dtype):
    model, encoder, params, images = problem(dtype=dtype)
    start = params | {"lora": model.adapter.init(jax.random.key(5), WIDTH)}
    equal = np.testing.assert_array_equal
    jax.tree.map(equal, model.adapted(encoder, start), encoder)
    found = jax.jit(model.adapted_tokens)(encoder, start, images)
    expected = jax.jit(model.tokens)(encoder, images)
    np.testing.assert_allclose(np.float32(found), np.float32(expected), atol=1e-5)
    # Without adapter nothing is made for it, and the head's start is the same.
    frozen = build_model(tiny_config(), EncoderSpec("tiny"))
    key = jax.random.key(1)
    head = frozen.init_params(key, SIZE)
    assert frozen.adapter is None and set(head) == {"fusion", "decoder"}
    jax.tree.map(equal, head, frozen.init_head(key, SIZE))
    assert frozen.adapted(encoder, head) is encoder
    with_adapter = model.init_params(key, SIZE)
    lora = with_adapter.pop("lora")
    jax.tree.map(equal, with_adapter, head)
    assert not lora["b"].any()
    np.testing.assert_allclose(np.std(lora["a"]) * WIDTH**0.5, 1, atol=0.1)


@pytest.mark.parametrize("blocks", [1, 4])
def test_gradient_is_that_of_the_plain_form_and_of_finite_differences(blocks):
    """Plain: kernels merged one by one, the encoder's own scan, nothing computed again."""
    model, encoder, params, images = problem(blocks)
    masks = jnp.asarray(np.random.default_rng(1).random((2, SIZE, SIZE)) < 0.3, jnp.float32)

    def loss(tokens, params):
        logits = model.head_logits(params, tokens, images)
        return optax.sigmoid_binary_cross_entropy(logits, masks).mean()

    @jax.jit
    @jax.value_and_grad
    def ours(params):
        return loss(model.adapted_tokens(encoder, params, images), params)

    @jax.jit
    @jax.value_and_grad
    def plain(params):
        tree, lora = jax.tree.map(jnp.asarray, encoder), params["lora"]
        kernels = list(tree["blocks"]["qkv"]["kernel"])
        for number in range(blocks):
            kernels[DEPTH - blocks + number] += lora["a"][number] @ lora["b"][number]
        tree["blocks"]["qkv"]["kernel"] = jnp.stack(kernels)
        return loss(model.encoder.apply({"params": tree}, to_rgb(images)).patch_tokens, params)

    (value, found), (expected_value, expected) = ours(params), plain(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for (path, leaf), wanted in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert np.abs(wanted).max() > 0
        error = np.abs(leaf - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, (jax.tree_util.keystr(path), error)

    # Along the gradient itself, where the change of the loss is largest against its rounding.
    for name in ("a", "b"):
        gradient = found["lora"][name]
        direction, step = gradient / jnp.linalg.norm(gradient), 0.05
        sides = [
            ours(params | {"lora": params["lora"] | {name: params["lora"][name] + s * direction}})
            for s in (step, -step)
        ]
        slope = (float(sides[0][0]) - float(sides[1][0])) / (2 * step)
        np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=0.02)


def test_learning_rate_of_its_own_and_no_weight_decay():
    """Against optax's own AdamW for the head, and Adam for the adapter."""
    train = lora_config(
        warmup_steps=2, weight_decay=0.1, gradient_clip=0.0, encoder_learning_rate=3e-4
    ).train
    ours, schedule = make_optimizer(train), learning_rate(train, 9)
    parts = {"decoder": optax.adamw(schedule, weight_decay=0.1)}
    parts["lora"] = optax.adam(lambda step: 0.3 * schedule(step))  # 3e-4 of 1e-3
    params = {"decoder": {"w": jnp.arange(5.0)}, "lora": {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}}
    state, states = ours.init(params), {name: parts[name].init(params[name]) for name in parts}
    for step in range(4):
        gradients = jax.tree.map(lambda x, s=step: jnp.cos(x + s), params)
        found, state = ours.update(gradients, state, params, rate=schedule(step))
        for name, part in parts.items():
            expected, states[name] = part.update(gradients[name], states[name], params[name])
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
            jax.tree.map(close, found[name], expected)
        params = optax.apply_updates(params, found)


def test_a_frozen_run_keeps_the_tree_of_its_optimiser():
    """Checkpoints of earlier versions are restored into it."""
    params = {"decoder": {"w": jnp.ones(5)}}
    optimizer = make_optimizer(tiny_config(weight_decay=0.1).train)
    earlier = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.1),
        optax.stateless(lambda updates, params: updates),
    )
    assert jax.tree.structure(optimizer.init(params)) == jax.tree.structure(earlier.init(params))


def test_two_devices_equal_one_and_validation_sees_the_adapter():
    model, _, state, step = setup(step_config())
    encoder, rng = strong_encoder(), np.random.default_rng(4)
    lora = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape), state.params["lora"])
    state = state.replace(params={**state.params, "lora": jax.tree.map(jnp.float32, lora)})
    batch = batch_of(4)
    one, one_metrics, _ = on_devices(step, 1)(state, encoder, split_over_devices(batch, 1))
    two, two_metrics, _ = on_devices(step, 2)(state, encoder, split_over_devices(batch, 2))
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(two.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    for name, value in one_metrics.compute().items():
        np.testing.assert_allclose(value, two_metrics.compute()[name], rtol=1e-5, err_msg=name)
    for name in ("a", "b"):
        assert np.any(np.asarray(one.params["lora"][name] != state.params["lora"][name])), name

    judged = batch | {"weight": np.ones(4, np.float32)}
    images = jnp.asarray(batch["image"], jnp.float32)
    logits = jax.jit(functools.partial(training_form, model))(encoder, state.params, images)
    expected = optax.sigmoid_binary_cross_entropy(logits, batch["mask"]).mean()
    for devices in (1, 2):
        validate = make_validation_step(model, "bce", 1, devices=jax.devices()[:devices])
        found = validate(state.params, encoder, split_over_devices(judged, devices))
        np.testing.assert_allclose(found.compute()["loss"], expected, rtol=1e-4)


def test_the_adapter_learns_and_the_encoder_stays():
    """The same steps lower the loss more than the frozen encoder's; both start at the same."""
    losses, encoder = {}, strong_encoder()
    before = jax.tree.map(np.array, encoder)
    for rank in (0, RANK):
        *_, state, step = setup(step_config(rank))
        assert ("lora" in state.params) == bool(rank)
        step, batch = on_devices(step, 1), split_over_devices(batch_of(4), 1)
        losses[rank] = []
        for _ in range(30):
            state, metrics, _ = step(state, encoder, batch)
            losses[rank].append(float(metrics.compute()["loss"]))
    jax.tree.map(np.testing.assert_array_equal, encoder, before)
    np.testing.assert_allclose(losses[RANK][0], losses[0][0], rtol=1e-5)
    frozen, lora = (losses[rank][0] - losses[rank][-1] for rank in (0, RANK))
    assert lora > 1.3 * frozen > 0, losses


def test_the_words_for_results():
    adapter = Adapter(rank=8, blocks=40)
    assert adapter.adaptation(40) == "LoRA of rank 8 on the qkv kernels of the last 40 of 40 blocks"
    assert dataclasses.replace(adapter, blocks=1).adaptation(40).endswith("the last 1 of 40 blocks")
    lora = adapter.init(jax.random.key(0), 16)
    assert {name: leaf.shape for name, leaf in lora.items()} == {"a": (40, 16, 8), "b": (40, 8, 48)}
    kernel = jnp.zeros((41, 16, 48))
    merged = adapted({"blocks": {"qkv": {"kernel": kernel}}}, lora | {"b": lora["b"] + 1})
    assert not merged["blocks"]["qkv"]["kernel"][0].any()
