"""maps (B, H, W, C) -> maps (B, H', W', C): linear resizing as matrix products and slices.

The matrices are those of `interpolation`, as everywhere in the project.
"""

import jax
import jax.numpy as jnp

from lagseg_jax.interpolation import linear_matrix


def resize_linear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes (B, H, W, C) to (B, *size, C) by linear interpolation, in the dtype of x."""
    for axis, new in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != new:
            matrix = jnp.asarray(linear_matrix(x.shape[axis], new), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x


def upsample_double(x: jax.Array) -> jax.Array:
    """Linear upsampling (B, H, W, C) -> (B, 2 H, 2 W, C), as `resize_linear` but from slices.

    Every output pixel is 3/4 of its nearest and 1/4 of its second nearest neighbour; adding slices
    is bound by memory, the matrix product by arithmetic that multiplies mostly by zero.
    """
    for axis in (1, 2):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
        body = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
        tail = jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        before = 0.75 * x + 0.25 * jnp.concatenate([first, body], axis=axis)
        after = 0.75 * x + 0.25 * jnp.concatenate([tail, last], axis=axis)
        x = jnp.stack([before, after], axis=axis + 1)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return x
