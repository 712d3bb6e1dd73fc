"""config -> encoder (frozen) and head (fusion + decoder, trained), and the way through both.

Legend: B batch, L encoder blocks, S decoder scales, h x w patches, D encoder width.
"""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from lagseg_jax.decoder import Decoder
from lagseg_jax.encoder import VARIANTS, Encoder, EncoderSpec
from lagseg_jax.errors import InputError
from lagseg_jax.fusion import FusionWeights, fuse, parse_blocks

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of the images DINOv2 was trained on
IMAGENET_STD = (0.229, 0.224, 0.225)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Head(nn.Module):
    """Everything that is trained: the fusion weights and the decoder."""

    fusion: FusionWeights
    decoder: Decoder

    def fusion_weights(self) -> jax.Array:
        """(S, L): how much each block counts at each scale."""
        return self.fusion()

    def decode(self, fused: jax.Array, images: jax.Array) -> jax.Array:
        """Fused tokens (S, B, h, w, D) and grey images (B, H, W) in 0..1 -> logits (B, H, W)."""
        return self.decoder(fused, 4 * images[..., None] - 2)

    def __call__(self, patch_tokens: jax.Array, images: jax.Array) -> jax.Array:
        """Tokens of all blocks (L, B, h, w, D) and images (B, H, W) -> logits (B, H, W)."""
        return self.decode(fuse(patch_tokens, self.fusion_weights()), images)


@dataclasses.dataclass(frozen=True)
class Model:
    """The two halves. Their parameters are separate trees: only the head's are ever trained."""

    encoder: Encoder
    head: Head

    def init_head(self, key: jax.Array, image_size: int) -> dict:
        """Freshly initialised parameters of the head, float32."""
        spec, patches = self.encoder.spec, image_size // 14
        tokens = jnp.zeros((spec.depth, 1, patches, patches, spec.width))
        # Compiled, the forward pass that tells the shapes is left out.
        init = jax.jit(self.head.init)
        return init(key, tokens, jnp.zeros((1, image_size, image_size)))["params"]

    def logits(self, encoder_params: dict, head_params: dict, images: jax.Array) -> jax.Array:
        """Training form: grey images (B, H, W) in 0..1 -> logits (B, H, W) float32.

        Keeps the tokens of all blocks, because the gradient of the fusion weights needs them, and
        stops the gradient there: the encoder is frozen.
        """
        tokens = self.encoder.apply({"params": encoder_params}, to_rgb(images)).patch_tokens
        return self.head.apply({"params": head_params}, jax.lax.stop_gradient(tokens), images)

    def probability(self, encoder_params: dict, head_params: dict, images: jax.Array) -> jax.Array:
        """Inference form: images (B, H, W) in 0..1 -> probability of atrium (B, H, W) float32.

        The same function as `sigmoid(logits)`, but blocks are fused while the encoder runs, so
        that memory does not grow with its depth.
        """
        head = {"params": head_params}
        weights = self.head.apply(head, method="fusion_weights")
        encoder = {"params": encoder_params}
        fused = self.encoder.apply(encoder, to_rgb(images), weights, method="fused")
        return jax.nn.sigmoid(self.head.apply(head, fused, images, method="decode"))


def to_rgb(images: jax.Array) -> jax.Array:
    """Grey images (B, H, W) in 0..1 -> ImageNet-normalised (B, H, W, 3), grey repeated."""
    return (images[..., None] - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


def build_model(config: ml_collections.ConfigDict, spec: EncoderSpec) -> Model:
    """Builds both halves for an encoder of the given spec.

    Raises:
        InputError: fields that contradict each other, or have an impossible value.
    """
    blocks = parse_blocks(config.fusion.blocks, spec.depth)
    decoder = config.decoder
    check_decoder(decoder, config.data.image_size)
    scales = tuple(decoder.scales)
    head = Head(
        FusionWeights(len(scales) + 1, spec.depth, blocks, config.fusion.learned),
        Decoder(
            scales=scales,
            widths=tuple(decoder.widths),
            image_injection=decoder.image_injection,
            image_path=decoder.image_path,
            dtype=compute_dtype("config.decoder.dtype", decoder.dtype),
        ),
    )
    dtype = compute_dtype("config.encoder.dtype", config.encoder.dtype)
    return Model(Encoder(spec, dtype), head)


def check_decoder(decoder: ml_collections.ConfigDict, image_size: int) -> None:
    """Raises InputError for scales, widths or an image path that the decoder cannot have."""
    scales, widths = tuple(decoder.scales), tuple(decoder.widths)
    halves = all(2 * fine == coarse for coarse, fine in itertools.pairwise(scales))
    if not scales or not halves or scales[-1] < 1 or image_size % scales[-1]:
        raise InputError(
            f"config.decoder.scales is {scales}, expected halves such as (8, 4, 2, 1), the last "
            f"one dividing the image size {image_size}"
        )
    if len(widths) != len(scales) + 1 or any(w < 8 or w % 8 for w in widths):
        raise InputError(
            f"config.decoder.widths is {widths}, expected {len(scales) + 1} multiples of 8: one "
            f"for 1/14 and one for each scale of {scales}"
        )
    if decoder.image_path not in ("resized", "pyramid"):
        raise InputError(
            f"config.decoder.image_path is {decoder.image_path!r}, expected 'resized' or 'pyramid'"
        )


def check_encoder(encoder: ml_collections.ConfigDict) -> None:
    """Raises InputError for a variant or a number of registers that does not exist."""
    if encoder.variant not in VARIANTS:
        raise InputError(
            f"config.encoder.variant is {encoder.variant!r}, expected one of {', '.join(VARIANTS)}"
        )
    if encoder.registers not in (0, 4):
        raise InputError(f"config.encoder.registers is {encoder.registers}, expected 0 or 4")


def compute_dtype(field: str, name: str) -> jnp.dtype:
    """ "float32" or "bfloat16" -> dtype; anything else is an InputError naming the field."""
    if name not in DTYPES:
        raise InputError(f"{field} is {name!r}, expected 'float32' or 'bfloat16'")
    return DTYPES[name]
