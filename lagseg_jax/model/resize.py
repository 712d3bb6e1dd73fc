"""Linear resizing of feature maps, as matrix products and, where a map is doubled, from slices."""

import jax
import jax.numpy as jnp

from lagseg_jax.imaging.interpolation import linear_matrix


def resize_linear(x: jax.Array, size: tuple[int, int], step: float | None = None) -> jax.Array:
    """Resizes (B, H, W, C) to (B, *size, C) by linear interpolation, in the dtype of x.

    The matrices are those of `interpolation.linear_matrix`, as everywhere in the project; `step` is
    the number of pixels of x for each new one, by default what the sizes say.
    """
    for axis, new in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != new or step not in (None, 1):
            matrix = jnp.asarray(linear_matrix(x.shape[axis], new, step), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x


def upsample_double(x: jax.Array) -> jax.Array:
    """Linear upsampling (B, H, W, C) -> (B, 2 H, 2 W, C), as `resize_linear` but from slices.

    Every output pixel is 3/4 of its nearest and 1/4 of its second nearest neighbour.
    """
    # The matrices multiply mostly by zero: decoder and gradients 1.14 times as long with them.
    for axis in (1, 2):
        y, size = x.astype(jnp.float32), x.shape[axis]
        first, last = (jax.lax.slice_in_dim(y, i, i + 1, axis=axis) for i in (0, size - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(y, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(y, 1, size, axis=axis), last], axis)
        pairs = [(0.75 * y + 0.25 * beside).astype(x.dtype) for beside in (before, after)]
        x = jnp.stack(pairs, axis=axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x
