"""The compiled functions from grey slices (B, H, W) to their probability of atrium (B, H, W).

There are two, because on CPUs encoder and decoder want different options of the compiler.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lagseg_jax.imaging.slices import SliceGeometry, resize_matrices, restore_matrices
from lagseg_jax.model import backend
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runtime.ahead import ahead
from lagseg_jax.runtime.traced import KeptJit

Mirroring = tuple[bool, bool] | None  # of rows and of columns; None needs no choice when compiled
MIRRORINGS = ((False, False), (True, False), (False, True), (True, True))


class Resampling(NamedTuple):
    """How slices become the network's images, and its probability returns to their grid.

    Attributes:
        there: `rows (E, H)` and `columns (E, W)` of `slices.resize_matrices`.
        back: `rows (H, E)` and `columns (W, E)` of `slices.restore_matrices`.
        grey: (2,) the values that become 0 and 1.
    """

    there: Sequence[jax.Array]
    back: Sequence[jax.Array]
    grey: jax.Array


class Cut(NamedTuple):
    """A volume as the devices take it.

    Attributes:
        slices: (Z, H, W), as stored.
        geometry: of the slices.
        grey: for each model, the values that become 0 and 1.
    """

    slices: np.ndarray
    geometry: SliceGeometry
    grey: Sequence[tuple[float, float]]


def resampling(
    size: int, shape: Sequence[int], padded: Sequence[int], grey: tuple[float, float]
) -> Resampling:
    """For slices (H, W), padded to these sides, images of this size, and `Cut.grey`."""
    height, width = shape
    # Zero columns (rows) in the matrices make the padding of the slices irrelevant.
    there = [
        np.pad(m, ((0, 0), (0, p - m.shape[1])))
        for m, p in zip(resize_matrices(height, width, size), padded)
    ]
    back = [
        np.pad(m, ((0, p - m.shape[0]), (0, 0)))
        for m, p in zip(restore_matrices(height, width, size), padded)
    ]
    return Resampling(*jax.device_put((there, back, np.array(grey, np.float32))))


def slice_probability(
    model: Model,
    encoder_params: dict,
    head_params: dict,
    slices: jax.Array,
    how: Resampling,
    tta: bool = False,
) -> jax.Array:
    """Grey slices (B, H, W), as stored, any dtype -> probability of atrium (B, H, W), float32.

    Compiled once for every model architecture and size of slices. With `tta`, it is the average
    over the four in-plane mirrorings.
    """
    to_tokens, to_probability = compiled(model)

    def probability(mirrored: Mirroring) -> jax.Array:
        images, fused = to_tokens(model, encoder_params, head_params, slices, how, mirrored)
        return to_probability(model, head_params, images, fused, how, mirrored)

    if not tta:
        return probability(None)
    # One after the other, by the same compiled functions.
    return functools.reduce(jnp.add, map(probability, MIRRORINGS)) / len(MIRRORINGS)


def compile_ahead(
    model: Model,
    encoder_params: dict,
    head_params: dict,
    slices: jax.ShapeDtypeStruct,
    how: Resampling,
    tta: bool = False,
) -> None:
    """Compiles what `slice_probability` needs for slices like these, encoder and decoder at once.

    One after the other leaves cores idle: reading traces, and parts of XLA, need one alone.
    """
    to_tokens, to_probability = compiled(model)
    mirrored = MIRRORINGS[0] if tta else None
    size = how.there[0].shape[0]
    images = jax.ShapeDtypeStruct((slices.shape[0], size, size), jnp.float32)
    fused = model.fused_struct(*images.shape[:2])
    decoding = ahead(to_probability.compile, model, head_params, images, fused, how, mirrored)
    to_tokens.compile(model, encoder_params, head_params, slices, how, mirrored)
    decoding.result()


def compiled(model: Model) -> tuple[KeptJit, KeptJit]:
    """`encode` and `decode` of a model."""
    return encoder(model.encoder.form), decoder(model.head.decoder.dtype)


def encode(
    model: Model,
    encoder_params: dict,
    head_params: dict,
    slices: jax.Array,
    how: Resampling,
    mirrored: Mirroring,
) -> tuple[jax.Array, jax.Array]:
    """Slices -> images (B, E, E) as the network sees them, and their fused tokens."""
    grey = how.grey
    images = jnp.clip((slices.astype(jnp.float32) - grey[0]) / (grey[1] - grey[0]), 0, 1)
    images = _mirror(_product(how.there[0], images, how.there[1]), mirrored)
    return images, model.fused(encoder_params, head_params, images)


def decode(
    model: Model,
    head_params: dict,
    images: jax.Array,
    fused: jax.Array,
    how: Resampling,
    mirrored: Mirroring,
) -> jax.Array:
    """Images and fused tokens -> probability on the slices' own grid."""
    probability = jax.nn.sigmoid(model.decode(head_params, fused, images))
    return _product(how.back[0], _mirror(probability, mirrored), how.back[1])


@functools.cache
def encoder(form: str) -> KeptJit:
    """`encode`, compiled for encoders of this form."""
    options = backend.encoder_compiler_options(form)
    return KeptJit(encode, options)


@functools.cache
def decoder(dtype: jnp.dtype) -> KeptJit:
    """`decode`, compiled for this machine; late, because asking for its devices starts them."""
    options = backend.decoder_compiler_options(dtype)
    return KeptJit(decode, options)


def _mirror(images: jax.Array, mirrored: Mirroring) -> jax.Array:
    """Images (B, E, E) with rows and columns reversed as two bools say; None: as they are."""
    if mirrored is None:
        return images
    for axis in (1, 2):
        images = jnp.where(mirrored[axis - 1], jnp.flip(images, axis), images)
    return images


def _product(rows: jax.Array, images: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.einsum("ij,bjk,lk->bil", rows, images, columns, precision="highest")


@functools.partial(jax.jit, static_argnames="threshold")
def average_probability(outputs: list[jax.Array], threshold: float | None) -> jax.Array:
    """The mean of equally shaped probabilities; with a threshold, where it is reached, uint8."""
    mean = sum(outputs[1:], outputs[0]) / len(outputs)
    return mean if threshold is None else (mean >= threshold).astype(jnp.uint8)
