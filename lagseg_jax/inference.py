"""grey slices (B, H, W) -> probability of atrium (B, H, W): one compiled function."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("model", "tta"))
def slice_probability(model, encoder_params, head_params, slices, there, back, grey, tta=False):
    """Grey slices (B, H, W) of any dtype -> probability of atrium (B, H, W), float32.

    Compiled once for every model architecture and size of slices.

    Args:
        model: encoder and head (static).
        encoder_params: of the encoder.
        head_params: of the head.
        slices: as stored in the volume.
        there: `rows (S, H)` and `columns (S, W)` of `slices.resize_matrices`.
        back: `rows (H, S)` and `columns (W, S)` of `slices.restore_matrices`.
        grey: (2,) the values that become 0 and 1.
        tta: average over the four in-plane mirrorings (static).
    """
    images = jnp.clip((slices.astype(jnp.float32) - grey[0]) / (grey[1] - grey[0]), 0, 1)
    images = _product(there[0], images, there[1])
    predict = functools.partial(model.probability, encoder_params, head_params)
    probability = _mirrored_mean(predict, images) if tta else predict(images)
    return _product(back[0], probability, back[1])


def _mirrored_mean(predict, images: jax.Array) -> jax.Array:
    """The mean of `predict` over images (B, S, S) mirrored along no, either and both axes."""

    def mirror(x, flips):
        for axis in (1, 2):
            x = jnp.where(flips[axis - 1], jnp.flip(x, axis), x)
        return x

    def add(total, flips):
        return total + mirror(predict(mirror(images, flips)), flips), None

    flips = jnp.array([(False, False), (True, False), (False, True), (True, True)])
    # One after the other: neither memory nor compile time grows with their number.
    return jax.lax.scan(add, jnp.zeros_like(images), flips)[0] / len(flips)


def _product(rows, images, columns):
    return jnp.einsum("ij,bjk,lk->bil", rows, images, columns, precision="highest")


@functools.partial(jax.jit, static_argnames="threshold")
def average_probability(outputs: list[jax.Array], threshold: float | None) -> jax.Array:
    """The mean of equally shaped probabilities; with a threshold, where it is reached, uint8."""
    mean = sum(outputs[1:], outputs[0]) / len(outputs)
    return mean if threshold is None else (mean >= threshold).astype(jnp.uint8)
