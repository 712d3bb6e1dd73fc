"""The decoder: a UNet over the fused tokens that sees the image again at every scale.

At 1/14 the state is the projected tokens of scale 0. Then, for each finer scale s, three things
are joined and convolved: the upsampled state, the fused tokens of that scale (the skip connection
of a UNet) and the input image again, which brings back what 14-pixel patches cannot hold
(arXiv 2502.06615). The letters of shapes are those of docs/architecture.md; h x w are patches.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.backend import convolves_in_onednn
from lagseg_jax.model.convolution import conv3x3, convolve
from lagseg_jax.model.resize import resize_linear, upsample_double

GROUP = 8  # channels normalised together
Resize = Callable[[jax.Array], jax.Array]


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
        form = conv3x3 if convolves_in_onednn(self.dtype) else convolve
        return form(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class NormalisedGelu(nn.Module):
    """GELU of the group-normalised input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Same shape and dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return group_norm_gelu(x, scale, self.param("bias", nn.initializers.zeros, x.shape[-1:]))


# JAX's own gradient, computed again as well, is 7 more kernels of a GPU for each of these, of which
# most take less time than to start them (docs/log/2026-11-28-start.md). On CPUs both take as long.
@jax.custom_vjp
def group_norm_gelu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """`gelu(scale (x - mean) / sqrt(variance + 1e-6) + bias)`, GELU in its tanh form.

    Statistics over 8 channels of one slice, never over the batch, so that one device or many give
    the same numbers (Wu and He 2018, arXiv 1803.08494); all in float32 and rounded once.

    Args:
        x: (B, H, W, C), C a multiple of 8, any dtype.
        scale: (C,) float32.
        bias: (C,) float32.

    Returns:
        (B, H, W, C) in the dtype of x.
    """
    return _group_norm_gelu(x, scale, bias)[0]


def _group_norm_gelu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple]:
    y = x.astype(jnp.float32)
    moments = jnp.stack([y.mean(axis=(1, 2)), jnp.square(y).mean(axis=(1, 2))])
    # As one multiplication and addition per pixel.
    factor, offset = _factor_and_offset(moments, scale, bias)
    y = y * factor[:, None, None] + offset[:, None, None]
    return jax.nn.gelu(y).astype(x.dtype), (x, moments, scale, bias)


def _factor_and_offset(
    moments: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Means of values and of squares over pixels (2, B, C) -> of each channel (B, C), (B, C)."""
    groups = moments.reshape(*moments.shape[:2], -1, GROUP).mean(axis=-1)
    mean, square = jnp.repeat(groups, GROUP, axis=-1)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    factor = jax.lax.rsqrt(variance + 1e-6) * scale
    return factor, bias - mean * factor


def _gradients(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of x, scale and bias."""
    x, *rest = kept
    # Else XLA would keep what lies between, instead of computing it again.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    y = x.astype(jnp.float32)
    (factor, offset), pull = jax.vjp(_factor_and_offset, *rest)
    _, through_gelu = jax.vjp(jax.nn.gelu, y * factor[:, None, None] + offset[:, None, None])
    (g,) = through_gelu(gradient.astype(jnp.float32))
    # Else the bias' gradient would be a sum of its own over all pixels of the batch.
    sums = jax.lax.optimization_barrier(((g * y).sum(axis=(1, 2)), g.sum(axis=(1, 2))))
    of_moments, of_scale, of_bias = pull(sums)
    constant, slope = of_moments / math.prod(x.shape[1:3])
    of_x = g * factor[:, None, None] + y * 2 * slope[:, None, None] + constant[:, None, None]
    return of_x.astype(x.dtype), of_scale, of_bias


group_norm_gelu.defvjp(_group_norm_gelu, _gradients)


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


def conv1x1(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x (..., I) @ kernel (I, O) of inputs in `dtype` -> float32.

    A bias is added to that: its gradient, a sum over all pixels, is too long for bfloat16.
    """
    if x.shape[-1] == 1:
        # No sum, so a multiplication; the gradient of a product would round sums over all pixels.
        return x.astype(jnp.float32) * kernel[0]
    rows = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
    return rows.reshape(*x.shape[:-1], -1).astype(jnp.float32)


class Projection(nn.Module):
    """x (..., I) -> x W + b (..., features) in `dtype`."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Kernel W (I, features), bias b (features,), both float32."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        return (conv1x1(x, kernel, self.dtype) + bias).astype(self.dtype)


class Join(nn.Module):
    """maps of several sizes -> one map: resized, concatenated, and a 1x1 convolution of them all.

    Not in this order: a 1x1 convolution and a linear resizing commute, so that the products are
    done before, where the maps are small, and nothing is ever concatenated.
    """

    # In the order above, decoder and gradients take 1.17 times as long.

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, parts: Sequence[tuple[jax.Array, Resize]]) -> jax.Array:
        """[(map (B, H', W', C), its resizing to H x W), ...] -> (B, H, W, features) in `dtype`."""
        shape = (sum(x.shape[-1] for x, _ in parts), self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        total = self.param("bias", nn.initializers.zeros, shape[-1:])
        for x, resize in parts:
            rows, kernel = kernel[: x.shape[-1]], kernel[x.shape[-1] :]
            total = total + resize(conv1x1(x, rows, self.dtype).astype(self.dtype))
        return total.astype(self.dtype)


class ImagePyramid(nn.Module):
    """Learned stem: image (B, H, W, C) -> its features at 1/scale for every scale, coarse first."""

    scales: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Returns [(B, ceil(H / s), ceil(W / s), width) for s in scales]."""
        x = ConvBlock(self.widths[-1], dtype=self.dtype)(space_to_depth(image, self.scales[-1]))
        features = [x]
        for width in reversed(self.widths[:-1]):
            x = ConvBlock(width, stride=2, dtype=self.dtype)(x)
            features.insert(0, x)
        return features


class Decoder(nn.Module):
    """The decoder of arXiv 2502.06615.

    Attributes:
        scales: factors below full size, each half of the one before, e.g. (8, 4, 2, 1). When the
            last is 2, each state pixel gives the logits of 2 x 2 image pixels.
        widths: channels at 1/14 and at each scale.
        image_injection: whether the image enters again at every scale.
        image_path: "resized" gives each scale the resized image, as in the paper; "pyramid" gives
            it the features of a light learned convolutional stem.
        dtype: of the convolutions; parameters and logits are float32.
    """

    scales: tuple[int, ...]
    widths: tuple[int, ...]
    image_injection: bool = True
    image_path: str = "resized"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, fused: jax.Array, image: jax.Array) -> jax.Array:
        """Decodes the fused tokens.

        Args:
            fused: (S, B, h, w, D).
            image: (B, H, W, C), normalised; H and W multiples of 14 and of the last scale.

        Returns:
            Logits (B, H, W), float32.
        """
        # Pixel i of a map at 1/s is centred at (i + 0.5) s image pixels, also where the size was
        # rounded up and the last one reaches beyond the image: so all maps lie over each other.
        height, width = image.shape[1:3]
        strides = (PATCH, *self.scales)
        sizes = [(-(-height // s), -(-width // s)) for s in strides]
        views = self._image_views(image.astype(self.dtype), sizes)
        state: jax.Array | None = None
        for s, (size, channels) in enumerate(zip(sizes, self.widths)):
            from_tokens = functools.partial(resize_linear, size=size, step=strides[s] / PATCH)
            tokens = Projection(channels, self.dtype, name=f"project_{s}")(fused[s])
            parts: list[tuple[jax.Array, Resize]] = [(tokens, from_tokens)]
            if state is not None:  # from 1/14 to the first scale, or from a scale to the next
                double = functools.partial(_double, size=size)
                parts.append((state, from_tokens if s == 1 else double))
            if self.image_injection:
                parts.append((views[s], lambda view: view))
            # A 1x1 convolution first: a 3x3 one over all joined channels costs twice as much.
            joined = Join(channels, self.dtype, name=f"join_{s}")(parts)
            state = ConvBlock(channels, dtype=self.dtype, name=f"block_{s}")(joined)
        logits = nn.Dense(self.scales[-1] ** 2, dtype=jnp.float32, name="logits")(state)
        return depth_to_space(logits, self.scales[-1])[..., 0]

    def _image_views(self, image: jax.Array, sizes: list[tuple[int, int]]) -> list[jax.Array]:
        if not self.image_injection:
            return []
        if self.image_path == "resized":
            return [resize_linear(image, *at) for at in zip(sizes, (PATCH, *self.scales))]
        pyramid = ImagePyramid(self.scales, self.widths[1:], self.dtype, name="pyramid")(image)
        return [resize_linear(pyramid[0], sizes[0], PATCH / self.scales[0]), *pyramid]


def _double(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """An odd size was rounded up before: its last half goes."""
    return upsample_double(x)[:, : size[0], : size[1]]


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """(B, H, W, C) -> (B, H / factor, W / factor, factor * factor * C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """(B, h, w, factor * factor * C) -> (B, h * factor, w * factor, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * factor, w * factor, c // factor**2)
