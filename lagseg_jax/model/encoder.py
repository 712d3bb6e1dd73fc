"""The vision transformer of DINOv2, which gives the tokens of every block or their weighted sums.

Oquab et al. 2023 (arXiv 2304.07193), with registers (Darcet et al. 2023, arXiv 2309.16588) or
without; patches of 14 x 14 pixels. The letters of shapes are those of docs/architecture.md, and
here N tokens, R registers, h x w patches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.encoder_spec import EncoderSpec
from lagseg_jax.model.position_embedding import interpolate


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless images of this shape can be encoded: (B, H, W, 3)."""
    if len(shape) != 4 or shape[-1] != 3:
        one = "; images[None] is a batch of one" if len(shape) == 3 and shape[-1] == 3 else ""
        raise ValueError(f"images of shape {shape} found, (B, H, W, 3) expected{one}")
    height, width = shape[1:3]
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"images of {height} x {width} pixels found, "
            f"height and width must be multiples of {PATCH}"
        )


class Activations(NamedTuple):
    """Normalised output tokens of every block."""

    patch_tokens: jax.Array  # (L, B, h, w, D)
    class_token: jax.Array  # (L, B, D)
    register_tokens: jax.Array  # (L, B, R, D)


def product(equation: str, a: jax.Array, b: jax.Array, form: str) -> jax.Array:
    """`einsum` of compute-dtype inputs: float32 in the form "plain", else in the compute dtype.

    The sums are float32 either way; where they are rounded, half the bytes leave the product. With
    float32 results the encoder of ViT-g takes 1.1 times as long on an NVIDIA GPU
    (docs/performance.md), and oneDNN would not multiply at all.
    """
    if form != "plain":
        return jnp.einsum(equation, a, b)
    # Float32 means float32: GPUs would round to TF32, TPUs to bfloat16.
    precision = "highest" if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


class Linear(nn.Module):
    """x (..., I) -> x W + b (..., O), the kernel W in the compute dtype; see `product`."""

    features: int
    dtype: jnp.dtype
    form: str = "plain"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Kernel W (I, O), bias b (O,) float32."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), shape, self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        y = product("...i,io->...o", _apart(x.astype(self.dtype)), kernel, self.form)
        return y + bias.astype(y.dtype)


def _apart(x: jax.Array) -> jax.Array:
    """x as it is; on CPUs a product is not fused with what comes before it.

    Else the encoder takes 1.2 times as long in the form "onednn", where oneDNN is not given all
    products, and 1.1 times in "plain" (with AMX; docs/log/2026-11-27-performance.md).
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, with DINOv2's epsilon of 1e-6."""

    width: int

    def setup(self) -> None:
        """Scale (D,) and bias (D,)."""
        self.scale = self.param("scale", nn.initializers.ones, (self.width,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., D) float32, same shape and dtype."""
        return layer_norm(x, self.scale, self.bias)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """`LayerNorm` as a function of its parameters."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + 1e-6) * scale + bias


@jax.custom_vjp
def cudnn_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention of (B, N, heads, size), bfloat16, in cuDNN; its gradient in XLA.

    JAX (0.10 to 0.12) refuses cuDNN's gradient for an odd number of tokens N, which is the rule
    here: an even number of patches, and the class token.
    """
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _cudnn_attention_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple:
    return cudnn_attention(q, k, v), (q, k, v)


def _cudnn_attention_backward(kept: tuple, gradient: jax.Array) -> tuple:
    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    return jax.vjp(plain, *kept)[1](gradient)


cudnn_attention.defvjp(_cudnn_attention_forward, _cudnn_attention_backward)


class Block(nn.Module):
    """A transformer block with layer scales; `form` as in `Encoder`."""

    spec: EncoderSpec
    dtype: jnp.dtype
    form: str = "plain"

    def setup(self) -> None:
        """Parameters of one block; `Encoder` stacks those of all blocks."""
        spec, ones = self.spec, nn.initializers.ones
        linear = functools.partial(Linear, dtype=self.dtype, form=self.form)
        self.norm1, self.norm2 = LayerNorm(spec.width), LayerNorm(spec.width)
        self.qkv, self.proj = linear(3 * spec.width), linear(spec.width)
        self.scale1 = self.param("scale1", ones, (spec.width,))
        self.scale2 = self.param("scale2", ones, (spec.width,))
        # The gate of SwiGLU is the first half of one product.
        self.fc1 = linear(spec.hidden if spec.mlp == "gelu" else 2 * spec.hidden)
        self.fc2 = linear(spec.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Residual stream (B, N, D) float32 -> the same after this block."""
        x = x + self.scale1 * self.attention(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))

    def attention(self, x: jax.Array) -> jax.Array:
        """Softmax attention of every token on every token (B, N, D)."""
        heads, size = self.spec.heads, self.spec.width // self.spec.heads
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, heads, size)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # (B, N, heads, size)
        if self.form == "cudnn":  # scores never leave the chip
            q, k, v = (a.astype(self.dtype) for a in (q, k, v))
            y = cudnn_attention(q, k, v)
        else:
            q, k, v = (a.astype(self.dtype) for a in (q * size**-0.5, k, v))
            scores = product("bqhd,bkhd->bhqk", q, k, self.form).astype(jnp.float32)
            weights = jax.nn.softmax(scores).astype(self.dtype)
            y = product("bhqk,bkhd->bqhd", weights, v, self.form)
        return self.proj(y.reshape(x.shape))

    def mlp(self, x: jax.Array) -> jax.Array:
        """Two linear layers around the exact GELU, or around SwiGLU (arXiv 2002.05202)."""
        x = self.fc1(x).astype(jnp.float32)
        if self.spec.mlp == "gelu":
            return self.fc2(jax.nn.gelu(x, approximate=False))
        gate, x = jnp.split(x, 2, axis=-1)
        return self.fc2(jax.nn.silu(gate) * x)


class Encoder(nn.Module):
    """DINOv2 encoder; the parameters of all blocks are stacked over a leading axis L.

    Attributes:
        spec: variant, registers, interpolation rule.
        dtype: compute dtype, float32 or bfloat16. Matrix products take their inputs in it;
            the residual stream, normalisation and softmax are float32 always.
        form: of the products and the attention, one of `backend.FORMS`.
    """

    spec: EncoderSpec
    dtype: jnp.dtype = jnp.float32
    form: str = "plain"

    def setup(self) -> None:
        """Parameters."""
        width, registers = self.spec.width, self.spec.registers
        normal = nn.initializers.truncated_normal(0.02)
        self.patch_embedding = Linear(width, self.dtype)
        # The class token's own position is part of it: both are only ever used as their sum.
        self.class_token = self.param("class_token", normal, (width,))
        if registers:
            self.register_tokens = self.param("register_tokens", normal, (registers, width))
        grid = (self.spec.grid, self.spec.grid, width)
        self.position_embedding = self.param("position_embedding", normal, grid)
        self.blocks = Block(self.spec, self.dtype, self.form)
        self.norm = LayerNorm(width)

    def __call__(self, images: jax.Array) -> Activations:
        """Tokens of every block after the final normalisation, in the compute dtype.

        Args:
            images: (B, H, W, 3) float, normalised as in training; H and W multiples of 14.

        Raises:
            ValueError: the images have another shape.
        """
        x, size = self.embed(images)
        norm, first = (self.norm.scale, self.norm.bias), 1 + self.spec.registers

        def step(block: Block, x: jax.Array, _: None) -> tuple[jax.Array, Activations]:
            x = block(x)
            y = layer_norm(x, *norm).astype(self.dtype)
            return x, Activations(y[:, first:], y[:, 0], y[:, 1:first])

        _, tokens = self._scan(step, x, None)
        patches = tokens.patch_tokens
        return tokens._replace(patch_tokens=patches.reshape(*patches.shape[:2], *size, -1))

    def fused(self, images: jax.Array, fusion_weights: jax.Array) -> jax.Array:
        """S weighted sums over blocks of the normalised patch tokens, summed while scanning.

        Equals `einsum("sl,lbhwd->sbhwd", fusion_weights, patch_tokens)`, but memory does not
        grow with the number of blocks.

        Args:
            images: (B, H, W, 3) as in `__call__`.
            fusion_weights: (S, L) float32.

        Returns:
            (S, B, h, w, D) in the compute dtype, summed in float32.
        """
        x, size = self.embed(images)
        norm, first = (self.norm.scale, self.norm.bias), 1 + self.spec.registers

        def step(block: Block, carry: tuple, weights: jax.Array) -> tuple[tuple, None]:
            x, sums = carry
            x = block(x)
            y = layer_norm(x, *norm)[:, first:]
            return (x, sums + weights[:, None, None, None] * y), None

        scales, (batch, _, width) = len(fusion_weights), x.shape
        sums = jnp.zeros((scales, batch, size[0] * size[1], width))
        (_, sums), _ = self._scan(step, (x, sums), fusion_weights.astype(jnp.float32).T)
        return sums.astype(self.dtype).reshape(scales, batch, *size, width)

    def _scan(self, step: Callable, carry: Any, inputs: jax.Array | None) -> tuple[Any, Any]:
        """`step(block, carry, inputs[l])` for every block l; compile time is flat in depth."""
        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.spec.depth
        )
        return scan(self.blocks, carry, inputs)

    def embed(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """Images (B, H, W, 3) -> tokens (B, 1 + R + hw, D) float32 before block 1, and (h, w)."""
        check_shape(images.shape)
        batch, height, width, channels = images.shape
        h, w = height // PATCH, width // PATCH
        # Patches do not overlap, so their convolution is one matrix product. Kernel rows are
        # ordered (row in patch, column in patch, channel), as the pixels are.
        x = images.reshape(batch, h, PATCH, w, PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(x.reshape(batch, h, w, -1))
        assert self.spec.interpolation is not None  # chosen in __post_init__
        x = x + interpolate(self.position_embedding, (h, w), self.spec.interpolation)
        extra = self.class_token[None]
        if self.spec.registers:
            extra = jnp.concatenate([extra, self.register_tokens])
        extra = jnp.broadcast_to(extra, (batch, *extra.shape))
        return jnp.concatenate([extra, x.reshape(batch, h * w, -1)], axis=1), (h, w)
