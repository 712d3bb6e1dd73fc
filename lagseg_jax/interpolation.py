"""size, new size -> the matrix of linear interpolation along one axis; NumPy only.

Linear interpolation along an axis is a small sparse matrix. The same matrix serves NumPy (slices
read for training), the device (whole-volume prediction, there and back) and the decoder, so that
all of them agree; pixel centres are at half-integers, and shrinking widens the triangle kernel
(antialiasing), as `jax.image.resize(method="linear")` and PyTorch's `antialias=True` do.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=256)
def linear_matrix(size: int, new_size: int) -> np.ndarray:
    """The matrix (new_size, size) that resizes a signal by linear interpolation; float32.

    Row i holds the triangle kernel `max(0, 1 - |x - j| / k)` around `x = (i + 0.5) size / new_size
    - 0.5`, with `k = max(1, size / new_size)`, normalised to sum 1 (edges repeat no pixel, they
    renormalise).
    """
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)[None])
    weights = np.maximum(0, 1 - distance / max(1.0, scale))
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix
