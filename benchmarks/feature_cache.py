"""Measures after how many epochs `train.cache_features` has paid for itself.

    python -m benchmarks.feature_cache --variant=small --size=448 --dtype=bfloat16 --batch=4

One case of random slices is encoded and written once; then training steps with the encoder and
steps with tokens read from the file take turns. Without augmentation, as the cache asks for. The
file is in the page cache: of a disk slower than `tokens per slice / time saved per slice`, the
time of reading decides.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from benchmarks.common.options import benchmark_parser
from benchmarks.common.timing import timed
from benchmarks.speed.cases import Case
from benchmarks.speed.problem import config_of
from benchmarks.speed.training_step import step_call, without_augmentation
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.data.batches import SliceSource, TrainingBatches
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.runtime.host import tune
from lagseg_jax.training.token_cache import cached_tokens


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.feature_cache", __doc__)
    add = parser.add_argument
    add("--variant", choices=VARIANTS, default="small", help="of the encoder (default: small)")
    add("--size", type=int, default=448, help="of the image in pixels")
    about = "of the encoder (default: bfloat16)"
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help=about)
    add("--batch", type=int, default=4, help="slices per step")
    add("--slices", type=int, default=24, help="of the case")
    add("--steps", type=int, default=6, help="of each kind that are timed")
    add("--folder", help="on the disk to be measured (default: that of temporary files)")
    return parser.parse_args(arguments)


def steps(
    step: Callable, source: SliceSource, config: ml_collections.ConfigDict
) -> Iterator[float]:
    """Training steps without end; yields the seconds of each, reading the batch included."""
    batches = TrainingBatches(
        source, config.train.batch_size, config.seed, config.data.read_threads
    )
    while True:
        yield timed(lambda: step(next(batches)))


def main(arguments: list[str] | None = None) -> int:
    """Prints the seconds and the break-even."""
    options = parse_arguments(arguments)
    tune()
    case = Case(options.variant, options.size, options.batch, options.dtype)
    config = without_augmentation(config_of(case))
    encoder = load_frozen_encoder(config)
    model = build_model(config, encoder.spec)
    images = np.random.default_rng(0).random((options.slices, options.size, options.size))
    case = PreparedCase("random", images.astype(np.float16), (images > 0.7).astype(np.uint8), "0")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:

        def encode(name: str) -> list[np.ndarray]:
            place = Path(folder) / name
            return cached_tokens([case], model, encoder, options.batch, place, 1e3)

        tokens = encode("compiles")
        once = timed(lambda: encode("timed")) / options.slices
        head_params, devices = model.init_head(jax.random.key(0), options.size), jax.local_devices()
        step = step_call(config, model, encoder.params, head_params, devices)
        sources = SliceSource([case]), SliceSource([case], tokens)
        sides = [steps(step, source, config) for source in sources]
        timings = [[next(side) for side in sides] for _ in range(options.steps + 2)][2:]
    without, cached = (statistics.median(column) for column in zip(*timings))
    saved, size = (without - cached) / options.batch, tokens[0][0].nbytes / 1e6
    print(f"{options.variant}, {options.size} pixels, {options.dtype}, {size:.2f} MB per slice")
    print(f"encoding, compiling and writing once: {1e3 * once:.1f} ms per slice")
    print(f"step of {options.batch}: {without:.4f} s, with cached tokens {cached:.4f} s")
    if saved <= 0:
        print("nothing saved: never pays")
    else:
        print(f"saved: {1e3 * saved:.1f} ms per slice; break-even after {once / saved:.1f} epochs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
