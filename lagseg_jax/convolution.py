"""maps (B, H, W, C) -> 3x3 convolution, GroupNorm, GELU, twice: the decoder's block.

On CPUs, bfloat16 convolutions are handed to oneDNN by a compiler option of XLA; functions that
contain them are compiled with `compiler_options()`. The numbers behind every form chosen here are
in docs/performance.md.
"""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

GROUP = 8  # channels normalised together
PIXELS = 6272  # of one matrix product in the kernel's gradient; more of them leave the cache


def onednn(dtype: jnp.dtype) -> bool:
    """Whether XLA can hand these convolutions to oneDNN: bfloat16 on CPUs, from jax 0.12 on."""
    on_cpu = jax.default_backend() == "cpu" and jax.__version_info__ >= (0, 12)
    return on_cpu and dtype == jnp.bfloat16


def compiler_options(dtype: jnp.dtype) -> dict[str, bool]:
    """For `jax.jit(..., compiler_options=...)` of decoders in this dtype.

    Not for encoders: with it XLA's products of bfloat16 that give float32 take up to twice as long.
    Functions compiled with it cannot be kept on disk, and are compiled at every start.
    """
    return {"xla_cpu_experimental_onednn_custom_call": True} if onednn(dtype) else {}


def fast_dtype() -> str:
    """The dtype in which this machine convolves fastest, "float32" or "bfloat16"."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    # Without these instructions bfloat16 is converted to float32 and back at every step.
    multiplied = {"avx512_bf16", "amx_bf16"} & _processor_flags()
    return "bfloat16" if multiplied and onednn(jnp.bfloat16) else "float32"


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


class ConvBlock(nn.Module):
    """Two times 3x3 convolution, GroupNorm, GELU."""

    width: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), width) in `dtype`."""
        for number, stride in enumerate((self.stride, 1)):
            x = Convolution(self.width, stride, self.dtype, name=f"Conv_{number}")(x)
            x = NormalisedGelu(name=f"GroupNorm_{number}")(x)
        return x


class Convolution(nn.Module):
    """3x3 convolution without bias, padded with zeros ("SAME")."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), width) in `dtype`."""
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if onednn(self.dtype):
            return conv3x3(x, kernel, self.stride)
        return _convolve(x, kernel, self.stride)


class NormalisedGelu(nn.Module):
    """GELU of the group-normalised input: groups of 8 channels of one slice."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Same shape and dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return group_norm_gelu(x, scale, self.param("bias", nn.initializers.zeros, x.shape[-1:]))


@jax.checkpoint
def group_norm_gelu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """`gelu(scale (x - mean) / sqrt(variance + 1e-6) + bias)`, GELU in its tanh form.

    Statistics per slice, never per batch, so that one device or many give the same numbers (Wu and
    He 2018, arXiv 1803.08494). All of it in float32 and rounded once; computed again for the
    gradient, at no cost in time, because what would be kept is 1.6 times all other memory.

    Args:
        x: (B, H, W, C), C a multiple of 8, any dtype.
        scale: (C,) float32.
        bias: (C,) float32.

    Returns:
        (B, H, W, C) in the dtype of x.
    """
    y = x.astype(jnp.float32)

    def group_mean(values):  # (B, H, W, C) -> (B, C)
        groups = values.mean(axis=(1, 2)).reshape(x.shape[0], -1, GROUP)
        return jnp.repeat(groups.mean(axis=-1), GROUP, axis=-1)

    mean = group_mean(y)
    variance = jnp.maximum(group_mean(jnp.square(y)) - jnp.square(mean), 0)
    factor = jax.lax.rsqrt(variance + 1e-6) * scale
    # As one multiplication and addition per pixel.
    y = y * factor[:, None, None] + (bias - mean * factor)[:, None, None]
    return jax.nn.gelu(y).astype(x.dtype)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)


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
    return _convolve(x, kernel, stride)


def _forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride, kept, gradient):
    x, kernel = kept
    if stride == 2:
        gradient = _interleave_zeros(gradient, x.shape[1:3])
    # Flipped here: a convolution that XLA itself would have to flip is not given to oneDNN.
    of_x = _convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    return of_x, kernel_gradient(x, gradient).astype(kernel.dtype)


conv3x3.defvjp(_forward, _backward)


def _interleave_zeros(gradient: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The gradient of every second pixel (B, h, w, O) -> of all of them (B, *size, O)."""
    # "SAME" pads an even side behind only, so the pixels kept are then the odd ones.
    low = [(n + 1) % 2 for n in size]
    high = [n - (start + 2 * m - 1) for n, start, m in zip(size, low, gradient.shape[1:3])]
    sides = [(low[0], high[0], 1), (low[1], high[1], 1)]
    return jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """`dK[i, j] = sum over b, r, c of x[b, r + i - 1, c + j - 1]^T g[b, r, c]`, by bands of rows.

    Args:
        x: (B, H, W, C).
        gradient: (B, H, W, O), of the output of the convolution with stride 1.

    Returns:
        (3, 3, C, O) float32.
    """
    (batch, height, width, inputs), outputs = x.shape, gradient.shape[-1]
    fitting = [r for r in range(1, height + 1) if height % r == 0 and r * width <= PIXELS]
    rows = max(fitting, default=1)
    bands = height // rows
    padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add(total, number):
        image, row = number // bands, number % bands * rows
        band = jax.lax.dynamic_slice(x, (image, row, 0, 0), (1, rows, width, inputs))
        around = jax.lax.dynamic_slice(
            padded, (image, row, 0, 0), (1, rows + 2, width + 2, outputs)
        )
        # Channels first, so that pixels are the inner axis of the product.
        around = around[0].transpose(2, 0, 1)
        shifted = jnp.concatenate([around[:, :, 2 - j : 2 - j + width] for j in range(3)])
        products = [
            shifted[:, 2 - i : 2 - i + rows].reshape(3 * outputs, -1) @ band.reshape(-1, inputs)
            for i in range(3)
        ]
        return total + jnp.stack(products).astype(jnp.float32), None

    start = jnp.zeros((3, 3 * outputs, inputs))
    total, _ = jax.lax.scan(add, start, jnp.arange(batch * bands))
    return total.reshape(3, 3, outputs, inputs).swapaxes(2, 3)
