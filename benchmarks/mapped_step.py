"""Measures what `jax.pmap` adds to a training step: on one device and on all of this process.

    python -m benchmarks.mapped_step

The recipe of `configs/cpu.py` on a CPU, of `configs/base.py` elsewhere, with random weights and
random slices. The step is mapped as the training does it, over one device and over all of this
process; beside it the same functions for a single device, compiled by `jax.jit`. Timed in turn, so
that other work on the machine meets both; ratios are of medians. Simulated CPU devices share the
cores, so of them only the first ratio means anything.
"""

import functools
import statistics
import sys
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from benchmarks.common.timing import in_turn, measure
from benchmarks.speed.training_step import step_call
from configs import base, cpu
from lagseg_jax.model import backend
from lagseg_jax.model.frozen_encoder import FrozenEncoder, load_frozen_encoder
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.runtime.devices import AXIS
from lagseg_jax.training.step import make_encode, make_train_step, make_update

ROUNDS, SECONDS = 15, 2.0  # of every side in turn, and of each of its rounds


def make_batch(size: int, slices: int) -> dict[str, np.ndarray]:
    """So many random slices, as the training gets them."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.random((slices, size, size)).astype(np.float16),
        "mask": (rng.random((slices, size, size)) < 0.1).astype(np.uint8),
        "slice": np.arange(slices, dtype=np.int32),
        "case": np.zeros(slices, np.int32),
    }


def make_jitted_step(model, optimizer, loss, augmentation, seed, devices) -> Callable:
    """`make_train_step` by jit; a vmap over one batch gives averages over devices their axis."""
    axes = {"in_axes": (None, 0, 0), "out_axes": None, "axis_name": AXIS}
    encode = jax.vmap(make_encode(model, augmentation, seed), (None, None, 0), axis_name=AXIS)
    update = jax.vmap(make_update(model, optimizer, loss), **axes)
    for_encoder = backend.encoder_compiler_options(model.encoder.form)
    for_decoder = backend.decoder_compiler_options(model.head.decoder.dtype)
    encode = jax.jit(encode, compiler_options=for_encoder)
    update = jax.jit(update, donate_argnums=0, compiler_options=for_decoder)

    def step(state, params, batch):
        stop = batch.pop("stop")
        return update(state, encode(state.step, params, batch), stop)

    return step


def timers(
    config: ml_collections.ConfigDict, encoder: FrozenEncoder
) -> dict[str, Callable[[int], list[float]]]:
    """{what: function of the number of steps that returns the seconds of each}."""
    model, size = build_model(config, encoder.spec), config.data.image_size
    head_params = model.init_head(jax.random.key(0), size)
    sides = {"jit, 1 device": (1, make_jitted_step)}
    for count in sorted({1, jax.local_device_count()}):
        sides[f"pmap, {count} device{'s' * (count > 1)}"] = count, make_train_step
    found = {}
    for name, (count, make_step) in sides.items():
        devices = jax.local_devices()[:count]
        step = step_call(config, model, encoder.params, head_params, devices, make_step)
        batch = make_batch(size, config.train.batch_size * count)
        found[name] = functools.partial(measure, functools.partial(step, batch))
    return found


def main() -> int:
    """Prints the medians and their ratios."""
    config = (cpu if jax.default_backend() == "cpu" else base).get_config()
    sides = timers(config, load_frozen_encoder(config))
    for compile_and_warm_up in sides.values():
        compile_and_warm_up(1)
    seconds = in_turn(sides, ROUNDS, SECONDS)
    single = statistics.median(seconds["jit, 1 device"])
    kind = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {kind}, {config.train.batch_size} slices per device")
    for name, found in seconds.items():
        median, spread = statistics.median(found), np.subtract(*np.percentile(found, (75, 25)))
        times = f"{1e3 * median:.1f} ms (IQR {1e3 * spread:.1f})"
        print(f"{name}: {times}, {median / single:.3f} of a single device's step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
