"""The 3x3 convolution for CPUs, with gradients of its own.

On CPUs, bfloat16 convolutions are handed to oneDNN by a compiler option of XLA; functions that
contain them are compiled with `backend.decoder_compiler_options`. Gains are ratios of the time that
the whole decoder takes with its gradients, without and with the form: ViT-S at 448 pixels, batches
of 4, bfloat16, two cores of an AMD EPYC (Zen 4), jax 0.12; `benchmarks/parts.py` measures them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")
PIXELS = 6272  # of one matrix product in the kernel's gradient; more of them leave the cache


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution of `conv3x3` with the gradients that JAX derives."""
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """3x3 convolution whose gradients are right and fast with oneDNN.

    With the compiler option, XLA gives oneDNN the gradient of the kernel as a convolution with a
    kernel as large as the map, and on CPUs with AMX the answer is wrong, without an error. Here it
    is a sum of matrix products, and the gradient of x a convolution like the one forward.

    Args:
        x: (B, H, W, C).
        kernel: (3, 3, C, O), same dtype.
        stride: 1 or 2.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), O), padded as "SAME".
    """
    return convolve(x, kernel, stride)


def _conv3x3_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple:
    return convolve(x, kernel, stride), (x, kernel)


def _conv3x3_backward(stride: int, kept: tuple, gradient: jax.Array) -> tuple:
    x, kernel = kept
    if stride == 1:
        of_x = _input_gradient(gradient, kernel)[:, 1:-1, 1:-1]
        return of_x, kernel_gradient(x, gradient, 3).astype(kernel.dtype)
    # The same as a 2x2 convolution of cells of 2x2 pixels with stride 1, half of the work that the
    # gradient interleaved with zeros would be: 21 instead of 42 ms (8 x 98 x 98 x 32, one core).
    cells, unfold = fold(x)
    channels = x.shape[-1]
    of_x = unfold(_input_gradient(gradient, _fold_kernel(kernel)))
    folded = kernel_gradient(cells, gradient, 2).reshape(2, 2, 2, 2, channels, -1)
    of_kernel = folded.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, channels, -1)[:3, :3]
    return of_x, of_kernel.astype(kernel.dtype)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _input_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of a convolution's input, and of the padding around it."""
    # Flipped here: a convolution that XLA itself would have to flip is not given to oneDNN.
    around = 2 * [(kernel.shape[0] - 1,) * 2]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return jax.lax.conv_general_dilated(gradient, flipped, (1, 1), around, dimension_numbers=LAYOUT)


def fold(x: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """(B, H, W, C) -> cells of 2x2 pixels (B, h + 1, w + 1, 4 C), and the way back.

    With h, w = ceil(H / 2), ceil(W / 2), padded so that a 3x3 convolution with stride 2 and "SAME"
    begins in the first cell: a pixel in front of odd sides.
    """
    batch, height, width, channels = x.shape
    sides = [(n % 2, 2) for n in (height, width)]
    rows, columns = ((n + sum(side)) // 2 for n, side in zip((height, width), sides))
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0))).reshape(batch, rows, 2, columns, 2, channels)
    (top, _), (left, _) = sides

    def unfold(cells: jax.Array) -> jax.Array:
        pixels = cells.reshape(batch, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        pixels = pixels.reshape(batch, 2 * rows, 2 * columns, channels)
        return pixels[:, top : top + height, left : left + width]

    return padded.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1), unfold


def _fold_kernel(kernel: jax.Array) -> jax.Array:
    """(3, 3, C, O) -> the same for cells (2, 2, 4 C, O)."""
    channels, outputs = kernel.shape[2:]
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    cells = padded.reshape(2, 2, 2, 2, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    return cells.reshape(2, 2, 4 * channels, outputs)


def kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """`dK[i, j] = sum over b, r, c of x[b, r + i - p, c + j - p]^T g[b, r, c]`, by bands of rows.

    Args:
        x: (B, H, W, C).
        gradient: (B, H + 2 p - size + 1, ..., O), of the output of a convolution with stride 1.
        size: of the kernel, 3 (p = 1, padded with zeros) or 2 (p = 0).

    Returns:
        (size, size, C, O) float32.
    """
    (batch, height, width, inputs), outputs = x.shape, gradient.shape[-1]
    fitting = [r for r in range(1, height + 1) if height % r == 0 and r * width <= PIXELS]
    rows = max(fitting, default=1)
    bands = height // rows
    padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    last = size - 1

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        image, row = number // bands, number % bands * rows
        band = jax.lax.dynamic_slice(x, (image, row, 0, 0), (1, rows, width, inputs))
        around = jax.lax.dynamic_slice(
            padded, (image, row, 0, 0), (1, rows + last, width + last, outputs)
        )
        # Channels first, so that pixels are the inner axis of the product.
        around = around[0].transpose(2, 0, 1)
        shifted = jnp.concatenate([around[:, :, last - j : last - j + width] for j in range(size)])
        products = [
            shifted[:, last - i : last - i + rows].reshape(size * outputs, -1)
            @ band.reshape(-1, inputs)
            for i in range(size)
        ]
        return total + jnp.stack(products).astype(jnp.float32), None

    start = jnp.zeros((size, size * outputs, inputs))
    total, _ = jax.lax.scan(add, start, jnp.arange(batch * bands))
    return total.reshape(size, size, outputs, inputs).swapaxes(2, 3)
