"""The position embedding of a DINOv2 encoder, interpolated from its own grid to an image's."""

import jax
import jax.numpy as jnp

from lagseg_jax.imaging.interpolation import bicubic_matrix


def interpolate(position_embedding: jax.Array, size: tuple[int, int], rule: str) -> jax.Array:
    """Position embedding for an image of `size` patches.

    Args:
        position_embedding: (g, g, D) float32, first axis down, second axis right.
        size: (h, w) patches of the image.
        rule: one of `interpolation.RULES`.

    Returns:
        (h, w, D) float32: R E C^T with the (h, g) and (w, g) matrices of `bicubic_matrix`, or the
        input itself when the size is the training grid.
    """
    grid = position_embedding.shape[0]
    if tuple(size) == (grid, grid):
        return position_embedding
    rows, columns = (bicubic_matrix(grid, n, rule) for n in size)
    return jnp.einsum("hi,wj,ijd->hwd", rows, columns, position_embedding, precision="highest")
