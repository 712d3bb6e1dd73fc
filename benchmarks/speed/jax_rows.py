"""What the speed benchmark times in JAX: {row: function that prepares it}.

Preparing returns (a call that waits for its result, facts about the compiled code if it is there).
Each row is what training or prediction really runs, or one part of it, compiled on its own.
"""

import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from benchmarks.speed.problem import SPACING, Problem
from benchmarks.speed.training_step import step_call, without_augmentation
from configs import default
from lagseg_jax.config.choices import PATCH
from lagseg_jax.data.batches import SliceSource, TrainingBatches
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.inference.slice_search import search
from lagseg_jax.model import backend
from lagseg_jax.training.losses import slice_losses
from lagseg_jax.training.optimizer import make_optimizer

Prepared = tuple[Callable[[], None], dict]


def jax_rows(problem: Problem, folder: Path) -> dict[str, Callable[[], Prepared]]:
    """Everything that the JAX worker can time, by the name of its row."""
    return {
        "encoder": lambda: encoder(problem),
        "fused encoder": lambda: encoder_fused(problem),
        "head forward": lambda: head(problem, backward=False),
        "head forward+backward": lambda: head(problem, backward=True),
        "optimiser": lambda: optimiser(problem),
        "train step": lambda: train_step(problem, without_augmentation(problem.config)),
        "augmented train step": lambda: train_step(problem, problem.config),
        "input": lambda: input_pipeline(problem, folder),
        "volume": lambda: volume(problem),
        "searched volume": lambda: volume_searched(problem),
        "volume from file": lambda: volume_files(problem, folder),
    }


def compiled(function: Callable, *arguments, options: dict | None = None) -> Prepared:
    """Compiles for these arguments; temporary memory as the compiler planned it."""
    start = time.perf_counter()
    code = jax.jit(function, compiler_options=options).lower(*arguments).compile()
    facts = {"compile_seconds": time.perf_counter() - start}
    if (memory := code.memory_analysis()) is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
    return (lambda: jax.block_until_ready(code(*arguments))), facts


def device_batch(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Images (B, E, E) float32 and masks (B, E, E) uint8, on the device."""
    return jnp.asarray(problem.batch["image"], jnp.float32), jnp.asarray(problem.batch["mask"])


def encoder(problem: Problem) -> Prepared:
    """Images -> patch tokens of all blocks."""
    images, _ = device_batch(problem)
    options = backend.encoder_compiler_options(problem.model.encoder.form)
    return compiled(problem.model.tokens, problem.encoder.params, images, options=options)


def encoder_fused(problem: Problem) -> Prepared:
    """Images -> the fused tokens of every scale, as inference does it."""
    model, (images, _) = problem.model, device_batch(problem)

    head_params = jax.device_put(problem.head_params)
    options = backend.encoder_compiler_options(model.encoder.form)
    return compiled(model.fused, problem.encoder.params, head_params, images, options=options)


def head_loss(problem: Problem, head_params: dict, tokens, images, masks) -> jax.Array:
    """Fusion, decoder and loss."""
    logits = problem.model.head.apply({"params": head_params}, tokens, images)
    return slice_losses(problem.config.train.loss, logits, masks).mean()


def head(problem: Problem, backward: bool) -> Prepared:
    """Tokens of all blocks -> loss, or loss and gradients."""
    images, masks = device_batch(problem)
    spec, patches = problem.encoder.spec, images.shape[1] // PATCH
    shape = (spec.depth, len(images), patches, patches, spec.width)
    tokens = jax.random.normal(jax.random.key(0), shape, problem.model.encoder.dtype)
    head_params = jax.device_put(problem.head_params)

    def loss(params, *rest):
        return head_loss(problem, params, *rest)

    function = jax.value_and_grad(loss) if backward else loss
    options = backend.decoder_compiler_options(problem.model.head.decoder.dtype)
    return compiled(function, head_params, tokens, images, masks, options=options)


def optimiser(problem: Problem) -> Prepared:
    """Gradients -> parameters: clipping and AdamW."""
    optimizer = make_optimizer(problem.config.train)
    params = jax.device_put(problem.head_params)

    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params, rate=1e-3)
        return optax.apply_updates(params, updates), state

    return compiled(update, params, optimizer.init(params), params)


def train_step(problem: Problem, config: ml_collections.ConfigDict) -> Prepared:
    """Host batch -> next state, as training/loop.py runs it on one device."""
    devices = jax.local_devices()[:1]
    step = step_call(config, problem.model, problem.encoder.params, problem.head_params, devices)
    return (lambda: step(problem.batch)), {}


def input_pipeline(problem: Problem, folder: Path) -> Prepared:
    """The training batches as Grain reads them from the slice cache; one call is one batch."""
    config, size = problem.config, problem.config.data.image_size
    repeat = -(-88 // len(problem.batch["image"]))
    arrays = []
    for name in ("image", "mask"):
        path = folder / f"{name}s.npy"
        np.save(path, np.tile(problem.batch[name], (repeat, 1, 1)))
        arrays.append(np.load(path, mmap_mode="r"))
    source = SliceSource([PreparedCase("benchmark", *arrays)])
    batches = TrainingBatches(source, config.train.batch_size, 0, config.data.read_threads)
    next(batches)
    assert arrays[0].shape[1:] == (size, size)
    return (lambda: next(batches)), {"compile_seconds": None}


def volume(problem: Problem) -> Prepared:
    """Array (x, y, z) -> mask (x, y, z): resizing there and back and the component included."""
    segmenter = problem.segmenter()

    def call():
        segmenter.predict_volume(problem.volume, SPACING, orientation="RAS")

    return call, {}


def volume_searched(problem: Problem) -> Prepared:
    """The same where slices far from the atrium are left out, as users predict.

    Random weights find atrium anywhere, so the search is told: in the middle two thirds of the
    slices, the mean of the 2018 challenge's labels.
    """
    segmenter = problem.segmenter(stride=default.get_config().predict.stride)
    count = problem.volume.shape[2]
    truth = np.abs(np.arange(count) - (count - 1) / 2) < count / 3

    def told(look, count: int, stride: int, batch: int, enough) -> np.ndarray:
        def look_and_be_told(numbers: np.ndarray) -> np.ndarray:
            look(numbers)
            return truth[numbers]

        return search(look_and_be_told, count, stride, batch, lambda: True)

    def call():
        with mock.patch("lagseg_jax.inference.segmenter.search", told):
            segmenter.predict_volume(problem.volume, SPACING, orientation="RAS")

    return call, {}


def volume_files(problem: Problem, folder: Path) -> Prepared:
    """A .nii.gz file -> a .nii.gz file."""
    source, target = folder / "volume.nii.gz", folder / "ours-mask.nii.gz"
    segmenter = problem.segmenter()

    def call():
        read = read_volume(source)
        mask = segmenter.predict_volume(read.array, read.spacing, read.affine)
        write_mask(target, mask, read)

    return call, {}
