"""fused tokens (S, B, h, w, D) + image (B, H, W, C) -> logits (B, H, W).

Legend: S = 1 + len(scales) decoder scales, B batch, h x w patches of 14 pixels, D encoder width.

At 1/14 the state is the projected tokens of scale 0. Then, for each finer scale s, three things
are joined and convolved: the upsampled state, the fused tokens of that scale (the skip connection
of a U-Net) and the input image again, which brings back what 14-pixel patches cannot hold.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lagseg_jax.model.backend import onednn
from lagseg_jax.model.convolution import _convolve, conv3x3, group_norm_gelu
from lagseg_jax.model.resize import resize_linear, upsample_double


class Dense(nn.Module):
    """x (..., I) -> x W + b (..., O) in `dtype`, as `nn.Dense` but for the sum with the bias."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Adds the bias in float32: its gradient sums over all pixels, too many for bfloat16."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        return (_product(x, kernel, self.dtype) + bias).astype(self.dtype)


class Join(nn.Module):
    """maps of several sizes -> one map: resized, concatenated, and a 1x1 convolution of them all.

    Not in this order: a 1x1 convolution and a linear resizing commute, so that the products are
    done before, where the maps are small, and nothing is ever concatenated.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, parts: Sequence[tuple[jax.Array, Callable]]) -> jax.Array:
        """[(map (B, H', W', C), its resizing to H x W), ...] -> (B, H, W, features) in `dtype`."""
        shape = (sum(x.shape[-1] for x, _ in parts), self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        total = self.param("bias", nn.initializers.zeros, shape[-1:])
        for x, resize in parts:
            rows, kernel = kernel[: x.shape[-1]], kernel[x.shape[-1] :]
            total = total + resize(_product(x, rows, self.dtype).astype(self.dtype))
        return total.astype(self.dtype)


def _product(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x (..., I) @ kernel (I, O) of inputs in `dtype` -> float32."""
    if x.shape[-1] == 1:
        # No sum, so a multiplication; the gradient of a product would round sums over all pixels.
        return x.astype(jnp.float32) * kernel[0]
    rows = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
    return rows.reshape(*x.shape[:-1], -1).astype(jnp.float32)


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
        height, width = image.shape[1:3]
        h, w = fused.shape[2:4]
        sizes = [(h, w)] + [(-(-height // s), -(-width // s)) for s in self.scales]
        views = self._image_views(image.astype(self.dtype), sizes)
        state: jax.Array | None = None
        for s, (size, channels) in enumerate(zip(sizes, self.widths)):
            to_size = functools.partial(resize_linear, size=size)
            tokens = Dense(channels, self.dtype, name=f"project_{s}")(fused[s])
            parts: list[tuple[jax.Array, Callable]] = [(tokens, to_size)]
            if state is not None:  # from 1/14 to the first scale, or from a scale to the next
                parts.append((state, to_size if s == 1 else functools.partial(_double, size=size)))
            if self.image_injection:
                parts.append((views[s], to_size))
            # A 1x1 convolution first: a 3x3 one over all joined channels costs twice as much.
            joined = Join(channels, self.dtype, name=f"join_{s}")(parts)
            state = ConvBlock(channels, dtype=self.dtype, name=f"block_{s}")(joined)
        logits = nn.Dense(self.scales[-1] ** 2, dtype=jnp.float32, name="logits")(state)
        return depth_to_space(logits, self.scales[-1])[..., 0]

    def _image_views(self, image: jax.Array, sizes: list[tuple[int, int]]) -> list[jax.Array]:
        if not self.image_injection:
            return []
        if self.image_path == "resized":
            return [resize_linear(image, size) for size in sizes]
        pyramid = ImagePyramid(self.scales, self.widths[1:], self.dtype, name="pyramid")(image)
        return [resize_linear(pyramid[0], sizes[0]), *pyramid]


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
