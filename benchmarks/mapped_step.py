"""one batch per device -> time of the mapped training step over that of a single device's step.

    python -m benchmarks.mapped_step

The recipe of `configs/cpu.py` on a CPU, of `configs/base.py` elsewhere, with random weights and
random slices. The step is `jax.pmap`ped as the training does it, over one device and over all of
this process; the single device's step is the same functions, compiled by `jax.jit`. Timed in turn,
so that other work on the machine meets both; ratios are of medians. Simulated CPU devices share
the cores, so of them only the first ratio means anything.
"""

import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, cpu
from lagseg_jax.data.batches import split_over_devices
from lagseg_jax.model import backend
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.runtime.devices import AXIS
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import (
    augmentation_of,
    init_state,
    make_encode,
    make_train_step,
    make_update,
)

ROUNDS, STEPS = 15, 3  # so many timings of so many steps each, after one that compiles


def make_batch(config, slices: int) -> dict[str, np.ndarray]:
    """So many random slices, as the training gets them."""
    rng = np.random.default_rng(0)
    shape = (slices, config.data.image_size, config.data.image_size)
    return {
        "image": rng.random(shape).astype(np.float16),
        "mask": (rng.random(shape) < 0.1).astype(np.uint8),
        "slice": np.arange(slices, dtype=np.int32),
        "case": np.zeros(slices, np.int32),
    }


def timer(config, encoder, devices: int, mapped: bool) -> Callable[[], float]:
    """A function that takes a few steps and returns the seconds of one."""
    model = build_model(config, encoder.spec)
    optimizer = make_optimizer(config.train, steps=1000)
    options = backend.decoder_compiler_options(model.head.decoder.dtype)
    parts = model, optimizer, config.train.loss, augmentation_of(config.augment), config.seed
    if mapped:
        call = make_train_step(*parts, devices=jax.local_devices()[:devices])
    else:  # a vmap over one batch gives the averages over devices their axis
        encode = jax.vmap(make_encode(model, *parts[3:]), (None, None, 0), axis_name=AXIS)
        axes = {"in_axes": (None, 0, 0), "out_axes": None, "axis_name": AXIS}
        update = jax.vmap(make_update(*parts[:3]), **axes)
        for_encoder = backend.encoder_compiler_options(model.encoder.form)
        encode = jax.jit(encode, compiler_options=for_encoder)
        update = jax.jit(update, donate_argnums=0, compiler_options=options)

        def call(state, params, batch):
            return update(state, encode(state.step, params, batch))

    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:devices]), ("devices",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = jax.device_put(encoder.params, everywhere)
    head = model.init_head(jax.random.key(0), config.data.image_size)
    state = jax.device_put(init_state(head, optimizer), everywhere)
    batch = split_over_devices(make_batch(config, config.train.batch_size * devices), devices)

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(STEPS):
            state, _, outcome = call(state, params, batch)
            jax.block_until_ready(outcome)  # as on CPU devices in the training
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / STEPS

    assert run() > 0 and jnp.isfinite(jax.tree.leaves(state.params)[0]).all()  # compiles
    return run


def main() -> int:
    """Prints the medians and their ratios."""
    config = (cpu if jax.default_backend() == "cpu" else base).get_config()
    encoder = load_frozen_encoder(config)
    counts = sorted({1, jax.local_device_count()})
    timers = {"jit, 1 device": timer(config, encoder, 1, mapped=False)}
    for count in counts:
        timers[f"pmap, {count} device{'s' * (count > 1)}"] = timer(config, encoder, count, True)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(ROUNDS):
        for name, run in timers.items():
            seconds[name].append(run())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    single = medians["jit, 1 device"]
    kind = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {kind}, {config.train.batch_size} slices per device")
    for name, median in medians.items():
        spread = np.subtract(*np.percentile(seconds[name], (75, 25)))
        times = f"{1e3 * median:.1f} ms (IQR {1e3 * spread:.1f})"
        print(f"{name}: {times}, {median / single:.3f} of a single device's step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
