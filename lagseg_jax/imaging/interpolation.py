"""Interpolation along one axis as a small matrix: linear for images, bicubic for positions.

The same linear matrix serves NumPy (slices read for training), the device (whole-volume prediction,
there and back) and the decoder, so that all of them agree.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=256)
def linear_matrix(size: int, new_size: int, step: float | None = None) -> np.ndarray:
    """The matrix (new_size, size) that resizes a signal by linear interpolation; float32.

    Row i holds the triangle kernel `max(0, 1 - |x - j| / k)` around `x = (i + 0.5) step - 0.5`,
    with `k = max(1, step)`, normalised to sum 1 (edges repeat no pixel, they renormalise). Pixel
    centres are at half-integers, and shrinking widens the kernel (antialiasing), as
    `jax.image.resize(method="linear")` and PyTorch's `antialias=True` do.

    Args:
        size: of the signal, in pixels.
        new_size: of the result.
        step: pixels of the signal for each new one. By default both cover the same length, so it
            is `size / new_size`; a new size that was rounded up needs its own.
    """
    scale = size / new_size if step is None else step
    centres = (np.arange(new_size) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)[None])
    weights = np.maximum(0, 1 - distance / max(1.0, scale))
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


# How the three published code bases call `interpolate`:
# "offset"    Meta, models without registers: scale factor (n + 0.1) / g, no antialiasing;
# "antialias" Meta and Hugging Face, models with registers: size n, antialiasing;
# "size"      Hugging Face, models without registers: size n, no antialiasing.
RULES = ("offset", "antialias", "size")


def bicubic_matrix(source: int, target: int, rule: str) -> np.ndarray:
    """The (target, source) float32 matrix of 1-D bicubic interpolation; every row sums to one.

    Coordinates are rounded to float32 where PyTorch's CPU kernels round them (its `scale * x - 0.5`
    is a fused multiply-add): exact ones would move the result by up to 4e-6.
    """
    if rule not in RULES:
        raise ValueError(f"interpolation rule {rule!r} found, one of {RULES} expected")
    # Historical: 0.1 keeps floor(source * scale factor) from falling below target, see
    # https://github.com/facebookresearch/dino/issues/8. PyTorch takes its coordinates from that
    # factor, not from the sizes, so that "offset" samples the grid slightly off.
    step = np.float32(source / (target + 0.1 if rule == "offset" else target))
    centre = np.float64(step) * (np.arange(target)[:, None] + 0.5)  # in source pixels, from 0 up
    if rule == "antialias":
        # A kernel with a = -0.5, widened to the step, cut off at the border and renormalised.
        distance = np.arange(source) + 0.5 - centre.astype(np.float32)
        matrix = _cubic(np.abs(distance) / max(step, 1.0), a=-0.5)
        return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    centre = (centre - 0.5).astype(np.float32).astype(np.float64)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        index = np.floor(centre).astype(int) + tap
        weight = _cubic(np.abs(centre - index), a=-0.75)
        # Taps outside the grid read the border value.
        np.add.at(matrix, (np.arange(target)[:, None], index.clip(0, source - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distances x >= 0 (Keys 1981, eq. 15 with free a)."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
