"""position embedding (g, g, D) trained on one grid -> (h, w, D) for another image size, as PyTorch.

DINOv2 adapts its position embedding with `torch.nn.functional.interpolate(mode="bicubic")`.
`jax.image.resize` uses another kernel (a = -0.5 where PyTorch has -0.75) and always antialiases, so
the two small interpolation matrices are built here from PyTorch's formulas.
Letters: g training grid, h/w patches of the image, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np

# How the three published code bases call `interpolate`:
# "offset"    Meta, models without registers: scale factor (n + 0.1) / g, no antialiasing;
# "antialias" Meta and Hugging Face, models with registers: size n, antialiasing;
# "size"      Hugging Face, models without registers: size n, no antialiasing.
RULES = ("offset", "antialias", "size")


def interpolate(position_embedding: jax.Array, size: tuple[int, int], rule: str) -> jax.Array:
    """Position embedding for an image of `size` patches.

    Args:
        position_embedding: (g, g, D) float32, first axis down, second axis right.
        size: (h, w) patches of the image.
        rule: one of `RULES`.

    Returns:
        (h, w, D) float32: R E C^T with the (h, g) and (w, g) matrices of
        `interpolation_matrix`, or the input itself when the size is the training grid.
    """
    grid = position_embedding.shape[0]
    if tuple(size) == (grid, grid):
        return position_embedding
    rows, columns = (interpolation_matrix(grid, n, rule) for n in size)
    return jnp.einsum("hi,wj,ijd->hwd", rows, columns, position_embedding, precision="highest")


def interpolation_matrix(source: int, target: int, rule: str) -> np.ndarray:
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
