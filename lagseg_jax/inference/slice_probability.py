"""grey slices (B, H, W) -> probability of atrium (B, H, W): an encoder and a decoder, compiled.

Two compiled functions, because on CPUs encoder and decoder want different options of the compiler.
"""

import functools

import jax
import jax.numpy as jnp

from lagseg_jax.model import backend

MIRRORINGS = ((False, False), (True, False), (False, True), (True, True))  # of rows, of columns


def slice_probability(model, encoder_params, head_params, slices, there, back, grey, tta=False):
    """Grey slices (B, H, W) of any dtype -> probability of atrium (B, H, W), float32.

    Compiled once for every model architecture and size of slices.

    Args:
        model: encoder and head.
        encoder_params: of the encoder.
        head_params: of the head.
        slices: as stored in the volume.
        there: `rows (S, H)` and `columns (S, W)` of `slices.resize_matrices`.
        back: `rows (H, S)` and `columns (W, S)` of `slices.restore_matrices`.
        grey: (2,) the values that become 0 and 1.
        tta: average over the four in-plane mirrorings.
    """
    total = 0
    # One after the other, by the same compiled functions.
    for mirrored in MIRRORINGS if tta else (None,):
        images, fused = encoder(model.encoder.form)(
            model, encoder_params, head_params, slices, there, grey, mirrored
        )
        compiled = decoder(model.head.decoder.dtype)
        total = total + compiled(model, head_params, images, fused, back, mirrored)
    return total / len(MIRRORINGS) if tta else total


def encode(model, encoder_params, head_params, slices, there, grey, mirrored):
    """Slices -> images (B, S, S) as the network sees them, and their fused tokens."""
    images = jnp.clip((slices.astype(jnp.float32) - grey[0]) / (grey[1] - grey[0]), 0, 1)
    images = _mirror(_product(there[0], images, there[1]), mirrored)
    return images, model.fused(encoder_params, head_params, images)


def decode(model, head_params, images, fused, back, mirrored):
    """Images and fused tokens -> probability on the slices' own grid."""
    probability = jax.nn.sigmoid(model.decode(head_params, fused, images))
    return _product(back[0], _mirror(probability, mirrored), back[1])


@functools.cache
def encoder(form: str):
    """`encode`, compiled for encoders of this form."""
    options = backend.encoder_compiler_options(form)
    return jax.jit(encode, static_argnames="model", compiler_options=options)


@functools.cache
def decoder(dtype: jnp.dtype):
    """`decode`, compiled for this machine; late, because asking for its devices starts them."""
    options = backend.decoder_compiler_options(dtype)
    return jax.jit(decode, static_argnames="model", compiler_options=options)


def _mirror(images: jax.Array, mirrored) -> jax.Array:
    """Images (B, S, S) with rows and columns reversed as two bools say; None: as they are."""
    if mirrored is None:
        return images
    for axis in (1, 2):
        images = jnp.where(mirrored[axis - 1], jnp.flip(images, axis), images)
    return images


def _product(rows, images, columns):
    return jnp.einsum("ij,bjk,lk->bil", rows, images, columns, precision="highest")


@functools.partial(jax.jit, static_argnames="threshold")
def average_probability(outputs: list[jax.Array], threshold: float | None) -> jax.Array:
    """The mean of equally shaped probabilities; with a threshold, where it is reached, uint8."""
    mean = sum(outputs[1:], outputs[0]) / len(outputs)
    return mean if threshold is None else (mean >= threshold).astype(jnp.uint8)
