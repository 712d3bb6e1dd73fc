"""maps (B, H, W, C) -> maps (B, H', W', C): linear resizing as matrix products and slices.

The matrices are those of `interpolation`, as everywhere in the project.
"""

import jax
import jax.numpy as jnp

from lagseg_jax.imaging.interpolation import linear_matrix


def resize_linear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes (B, H, W, C) to (B, *size, C) by linear interpolation, in the dtype of x."""
    for axis, new in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != new:
            matrix = jnp.asarray(linear_matrix(x.shape[axis], new), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x


@jax.custom_vjp
def upsample_double(x: jax.Array) -> jax.Array:
    """Linear upsampling (B, H, W, C) -> (B, 2 H, 2 W, C), as `resize_linear` but from slices.

    Every output pixel is 3/4 of its nearest and 1/4 of its second nearest neighbour; adding slices
    is bound by memory, the matrix product by arithmetic that multiplies mostly by zero.
    """
    for axis in (1, 2):
        y = x.astype(jnp.float32)
        before = 0.75 * y + 0.25 * _shift(y, axis, -1)
        after = 0.75 * y + 0.25 * _shift(y, axis, 1)
        x = jnp.stack([before.astype(x.dtype), after.astype(x.dtype)], axis=axis + 1)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return x


def _forward(x):
    return upsample_double(x), None


def _backward(_, gradient):
    # By hand, from slices again: several times faster than what JAX derives (docs/performance.md).
    for axis in (1, 2):
        pairs = gradient.reshape(*gradient.shape[:axis], -1, 2, *gradient.shape[axis + 1 :])
        before, after = (
            jax.lax.index_in_dim(pairs, n, axis + 1, keepdims=False).astype(jnp.float32)
            for n in (0, 1)
        )
        # The outer pixels took their own edge as a neighbour.
        beside = _shift(before, axis, 1, after) + _shift(after, axis, -1, before)
        gradient = (0.75 * (before + after) + 0.25 * beside).astype(gradient.dtype)
    return (gradient,)


upsample_double.defvjp(_forward, _backward)


def _shift(x: jax.Array, axis: int, by: int, edge: jax.Array | None = None) -> jax.Array:
    """`x[i + by]` along the axis; what lies outside is the outermost of `edge` (default x)."""
    size, edge = x.shape[axis], x if edge is None else edge
    if by == 1:
        parts = [(x, 1, size), (edge, size - 1, size)]
    else:
        parts = [(edge, 0, 1), (x, 0, size - 1)]
    slices = [jax.lax.slice_in_dim(a, start, stop, axis=axis) for a, start, stop in parts]
    return jnp.concatenate(slices, axis=axis)
