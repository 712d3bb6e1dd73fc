"""images (B, H, W, 3) -> tokens of every DINOv2 block (L, B, h, w, D), or their weighted sums.

The frozen vision transformer of DINOv2 (Oquab et al. 2023, arXiv 2304.07193), with registers
(Darcet et al. 2023, arXiv 2309.16588) or without, patches of 14 x 14 pixels.
Letters: B batch, H/W pixels, h/w patches, N tokens, D width, L blocks, R registers, S fused maps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lagseg_jax.config.choices import PATCH, VARIANTS
from lagseg_jax.imaging.interpolation import RULES, interpolation_matrix


@dataclass(frozen=True)
class EncoderSpec:
    """What distinguishes one DINOv2 encoder from another.

    Attributes:
        variant: a key of `VARIANTS`.
        registers: 0 or 4 register tokens.
        interpolation: a rule of `position_embedding.RULES`; by default Meta's own for this number
            of registers.
        grid: patches along each side of the stored position embedding (518 / 14 = 37).
    """

    variant: str
    registers: int = 0
    interpolation: str | None = None
    grid: int = 37

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r} found, one of {tuple(VARIANTS)} expected")
        if self.registers not in (0, 4):
            raise ValueError(f"{self.registers} registers found, 0 or 4 expected")
        if self.interpolation is None:
            rule = "antialias" if self.registers else "offset"
            object.__setattr__(self, "interpolation", rule)
        if self.interpolation not in RULES:
            raise ValueError(f"rule {self.interpolation!r} found, one of {RULES} expected")
        if not isinstance(self.grid, int) or self.grid < 1:
            raise ValueError(f"grid {self.grid!r} found, a positive integer expected")

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return VARIANTS[self.variant]["width"]

    @property
    def depth(self) -> int:
        """L, number of blocks."""
        return VARIANTS[self.variant]["depth"]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return VARIANTS[self.variant]["heads"]

    @property
    def mlp(self) -> str:
        """ "gelu" (two layers) or "swiglu" (gated)."""
        return VARIANTS[self.variant]["mlp"]

    @property
    def hidden(self) -> int:
        """Channels inside the MLP, after gating."""
        return VARIANTS[self.variant]["hidden"]


class Activations(NamedTuple):
    """Normalised output tokens of every block."""

    patch_tokens: jax.Array  # (L, B, h, w, D)
    class_token: jax.Array  # (L, B, D)
    register_tokens: jax.Array  # (L, B, R, D)


class Dense(nn.Module):
    """x (..., I) -> x W + b (..., O) in float32, a product of compute-dtype inputs.

    Where `rounded`, the sums, still float32 inside the product, leave it in the compute dtype: half
    the bytes.
    """

    features: int
    dtype: jnp.dtype
    rounded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Kernel W (I, O) in the compute dtype: casts inside the graph would eat its speed."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), shape, self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        # As one 2-D product: XLA's CPU backend is several times slower on batched 3-D ones.
        x, leading = x.astype(self.dtype).reshape(-1, shape[0]), x.shape[:-1]
        if self.rounded:
            y = _unfused(x) @ kernel + bias.astype(self.dtype)
        else:
            y = _unfused(_matmul(x, kernel)) + bias
        return y.reshape(*leading, self.features)


class LayerNorm(nn.Module):
    """Parameters of a layer normalisation, for `layer_norm`."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Scale (D,) and bias (D,)."""
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return scale, self.param("bias", nn.initializers.zeros, (self.width,))


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalise the last axis of x (..., D) float32, with DINOv2's epsilon of 1e-6."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + 1e-6) * scale + bias


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """(..., I, K) @ (..., K, J) -> float32."""
    # Float32 means float32: GPUs would round to TF32, TPUs to bfloat16.
    precision = "highest" if a.dtype == jnp.float32 else None
    return jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)


def _unfused(y: jax.Array) -> jax.Array:
    """y as it is; on CPUs XLA must not fuse products with what stands on its other side: slower."""
    return jax.lax.platform_dependent(y, cpu=jax.lax.optimization_barrier, default=lambda y: y)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x (1 + erf(x / sqrt(2))) / 2; on CPUs `jax.nn.gelu`'s erfc takes longer."""
    return x * (0.5 * (1 + jax.lax.erf(x * 0.5**0.5)))


def softmax(x: jax.Array) -> jax.Array:
    """Over the last axis; not `jax.nn.softmax`, which oneDNN would take out of XLA's attention."""
    x = jnp.exp(x - jax.lax.stop_gradient(x.max(axis=-1, keepdims=True)))
    return x * (1 / x.sum(axis=-1, keepdims=True))


class Block(nn.Module):
    """One step of the scan over depth: a transformer block, and what becomes of its output.

    In every form but "plain" products are rounded: with float32 results the encoder of ViT-g takes
    1.1 times as long on an NVIDIA GPU, and oneDNN would not multiply at all. With "cudnn",
    attention is cuDNN's.
    """

    spec: EncoderSpec
    dtype: jnp.dtype
    form: str = "plain"

    @nn.compact
    def __call__(self, carry, final_norm, fusion_weights):
        """Without `fusion_weights` (S,), hands out this block's tokens; with them, sums patches.

        The carry is x (B, N, D) and the sums (S, B, hw, D) so far or None, all float32.
        """
        x, sums = carry
        width, ones = self.spec.width, nn.initializers.ones
        y = layer_norm(x, *LayerNorm(width, name="norm1")())
        x = x + self.attention(y) * self.param("scale1", ones, (width,))
        y = layer_norm(x, *LayerNorm(width, name="norm2")())
        x = x + self.mlp(y) * self.param("scale2", ones, (width,))
        y, first = layer_norm(x, *final_norm), 1 + self.spec.registers
        if fusion_weights is None:
            y = y.astype(self.dtype)
            return (x, None), Activations(y[:, first:], y[:, 0], y[:, 1:first])
        return (x, sums + fusion_weights[:, None, None, None] * y[:, first:]), None

    def attention(self, x: jax.Array) -> jax.Array:
        """Softmax attention of every token on every token (B, N, D)."""
        (batch, tokens, width), heads = x.shape, self.spec.heads
        size, rounded = width // heads, self.form != "plain"
        qkv = Dense(3 * width, self.dtype, rounded, name="qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, heads, size)
        project = Dense(width, self.dtype, rounded, name="proj")
        if self.form == "cudnn":  # scores never leave the chip
            q, k, v = jnp.moveaxis(qkv.astype(self.dtype), 2, 0)
            y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
            return project(y.reshape(x.shape))
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        q = (q * size**-0.5).swapaxes(1, 2)  # (B, heads, N, size)
        k = k.transpose(0, 2, 3, 1)  # (B, heads, size, N)
        v = v.swapaxes(1, 2)
        # XLA's CPU backend multiplies bfloat16 as float32 where products have two leading axes, or
        # contract the last axis of both.
        q, k, v = (x.astype(self.dtype).reshape(-1, *x.shape[2:]) for x in (q, k, v))
        product = jnp.matmul if rounded else _matmul
        weights = softmax(product(q, k).astype(jnp.float32)).astype(self.dtype)  # (B heads, N, N)
        y = product(weights, v).reshape(batch, heads, tokens, size)
        return project(y.swapaxes(1, 2).reshape(x.shape))

    def mlp(self, x: jax.Array) -> jax.Array:
        """Two dense layers around the exact GELU, or around SwiGLU (arXiv 2002.05202)."""
        hidden, rounded = self.spec.hidden, self.form != "plain"
        # Of 2-D products XLA lets oneDNN compute the GELU, too.
        x, leading = x.reshape(-1, x.shape[-1]), x.shape[:-1]
        if self.spec.mlp == "gelu":
            x = Dense(hidden, self.dtype, rounded, name="fc1")(x)
            x = gelu(x.astype(jnp.float32))
        else:
            x = Dense(2 * hidden, self.dtype, rounded, name="fc1")(x)
            gate, x = jnp.split(x.astype(jnp.float32), 2, axis=-1)
            x = jax.nn.silu(gate) * x
        return Dense(self.spec.width, self.dtype, rounded, name="fc2")(x).reshape(*leading, -1)


class Encoder(nn.Module):
    """DINOv2 encoder; the parameters of all blocks are stacked over a leading axis L.

    Attributes:
        spec: variant, registers, interpolation rule.
        dtype: compute dtype, float32 or bfloat16. Matrix products take their inputs in it;
            the residual stream, normalisation and softmax are float32 always.
        form: of the products and the attention, one of `encoder_form.FORMS`.
    """

    spec: EncoderSpec
    dtype: jnp.dtype = jnp.float32
    form: str = "plain"

    def setup(self):
        """Parameters; those of the blocks are scanned so that compile time is flat in depth."""
        width, registers = self.spec.width, self.spec.registers
        normal = nn.initializers.truncated_normal(0.02)
        self.patch_embedding = Dense(width, self.dtype)
        # The class token's own position is part of it: both are only ever used as their sum.
        self.class_token = self.param("class_token", normal, (width,))
        if registers:
            self.register_tokens = self.param("register_tokens", normal, (registers, width))
        grid = (self.spec.grid, self.spec.grid, width)
        self.position_embedding = self.param("position_embedding", normal, grid)
        self.blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=self.spec.depth,
        )(self.spec, self.dtype, self.form)
        self.norm = LayerNorm(width)

    def __call__(self, images: jax.Array) -> Activations:
        """Tokens of every block after the final normalisation, in the compute dtype.

        Args:
            images: (B, H, W, 3) float, normalised as in training; H and W multiples of 14.

        Raises:
            ValueError: H or W is not a multiple of 14.
        """
        x, size = self.tokens(images)
        _, tokens = self.blocks((x, None), self.norm(), None)
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
        x, size = self.tokens(images)
        batch, _, width = x.shape
        shape = (fusion_weights.shape[0], batch, size[0] * size[1], width)
        carry = (x, jnp.zeros(shape, jnp.float32))
        (_, sums), _ = self.blocks(carry, self.norm(), fusion_weights.astype(jnp.float32).T)
        return sums.astype(self.dtype).reshape(*shape[:2], *size, width)

    def tokens(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """Images (B, H, W, 3) -> tokens (B, 1 + R + hw, D) float32 before block 1, and (h, w)."""
        batch, height, width, channels = images.shape
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"images of {height} x {width} pixels found, "
                f"height and width must be multiples of {PATCH}"
            )
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
