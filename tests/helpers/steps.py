"""One training step for the tests: config, model, state, batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.weights import random_params
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.step import TrainStep, augmentation_of, init_state

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
    """Model, encoder, state, and (devices) -> step; equal configs share what they compile."""
    key = f"{steps} {config.to_json()}"
    if key not in _made:
        _made[key] = _make(config.copy_and_resolve_references(), steps)
    model, optimizer, params, step = _made[key]
    state = init_state(jax.tree.map(jnp.copy, params), optimizer)
    return model, random_params(EncoderSpec("tiny"), 0, "float32"), state, step


_made: dict[str, tuple] = {}


def _make(config, steps):
    model = build_model(config, EncoderSpec("tiny"))
    optimizer = make_optimizer(config.train)
    augmentation = augmentation_of(config.augment)

    @functools.cache
    def of_devices(devices):
        step = TrainStep(model, optimizer, config.train.loss, augmentation, 3, devices)
        return scheduled(step, config, steps)

    params = model.init_params(jax.random.key(1), SIZE)
    return model, optimizer, params, lambda devices=None: of_devices(devices and tuple(devices))


def scheduled(step, config, steps):
    """The step with the learning rate of its number, as the loop calls it."""
    rate = jax.jit(learning_rate(config.train, steps))
    return lambda state, *rest: step(state, rate(state.step), *rest)


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


def on_devices(make_step, devices):
    """The step on so many devices; the state that it is given stays usable."""
    step = make_step(devices=jax.devices()[:devices])
    return lambda state, *rest: step(jax.tree.map(jnp.copy, state), *rest)
