"""A training step as a call on a batch of the host, as training runs it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lagseg_jax.data.batches import Batch, split_over_devices
from lagseg_jax.model.segmentation import Model
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.step import TrainStep, augmentation_of, init_state

STEPS = 10_000  # of the learning rate schedule


def without_augmentation(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy with all of `config.augment` 0."""
    config = config.copy_and_resolve_references()
    config.augment.update(dict.fromkeys(config.augment, 0.0))
    return config


def step_call(
    config: ml_collections.ConfigDict,
    model: Model,
    encoder_params: dict,
    head_params: dict,
    devices: Sequence[jax.Device],
) -> Callable[[Batch], None]:
    """A function that takes one step with a batch of all devices, and waits for it."""
    optimizer = make_optimizer(config.train)
    parts = model, optimizer, config.train.loss, augmentation_of(config.augment), config.seed
    step, rate = TrainStep(*parts, devices), jax.jit(learning_rate(config.train, STEPS))
    # Placed as the loop places them; copied, because the step gives the memory of its state away.
    everywhere = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec())
    params = jax.device_put(encoder_params, everywhere)
    state = init_state(jax.tree.map(jnp.array, head_params), optimizer)
    state = jax.device_put(state, everywhere)

    def call(batch: Batch) -> None:
        nonlocal state
        state, *outcome = step(
            state, rate(state.step), params, split_over_devices(batch, len(devices))
        )
        jax.block_until_ready((state, outcome))

    return call
