"""The whole model: an encoder, frozen or adapted, and a head of fusion weights and decoder.

The letters of shapes are those of docs/architecture.md; h x w are patches.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from lagseg_jax.config.choices import DECODER_DTYPE_NAMES, PATCH
from lagseg_jax.config.validate import check_decoder, parse_blocks
from lagseg_jax.model.backend import encoder_form, fast_dtype
from lagseg_jax.model.decoder import Decoder
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.fusion import FusionWeights, fuse
from lagseg_jax.model.lora import LORA, Adapter, adapted, adapted_tokens, adapter_of
from lagseg_jax.runtime.errors import one_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of the images DINOv2 was trained on
IMAGENET_STD = (0.229, 0.224, 0.225)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Head(nn.Module):
    """What is always trained: the fusion weights and the decoder."""

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
    """The two halves. Their parameters are separate trees: the encoder's are never trained.

    With an adapter, the trained tree is the head's with one more entry, `lora`, which the head
    does not look at.
    """

    encoder: Encoder
    head: Head
    adapter: Adapter | None = None

    def init_params(self, key: jax.Array, image_size: int) -> dict:
        """All that is trained, freshly initialised, float32: the head, and the adapter if any."""
        params = self.init_head(key, image_size)
        return params if self.adapter is None else {**params, LORA: self.init_adapter(key)}

    def init_adapter(self, key: jax.Array) -> dict[str, jax.Array]:
        """Freshly initialised parameters of the adapter, which has to be there; float32."""
        assert self.adapter is not None
        return self.adapter.init(jax.random.fold_in(key, 1), self.encoder.spec.width)

    def init_head(self, key: jax.Array, image_size: int) -> dict:
        """Freshly initialised parameters of the head, float32."""
        spec, patches = self.encoder.spec, image_size // PATCH
        tokens = jnp.zeros((spec.depth, 1, patches, patches, spec.width))
        # Compiled, the forward pass that tells the shapes is left out.
        init = jax.jit(self.head.init)
        return init(key, tokens, jnp.zeros((1, image_size, image_size)))["params"]

    def tokens(self, encoder_params: dict, images: jax.Array) -> jax.Array:
        """What training keeps of the encoder: images (B, H, W) in 0..1 -> (L, B, h, w, D).

        The tokens of all blocks, because the gradient of the fusion weights needs them, in the
        compute dtype. The gradient stops there: the encoder is frozen.
        """
        tokens = _apply(self.encoder, encoder_params, to_rgb(images)).patch_tokens
        return jax.lax.stop_gradient(tokens)

    def adapted(self, encoder_params: dict, params: dict) -> dict:
        """The encoder's parameters with the adapter merged in; as they are without one."""
        return encoder_params if self.adapter is None else adapted(encoder_params, params[LORA])

    def adapted_tokens(self, encoder_params: dict, params: dict, images: jax.Array) -> jax.Array:
        """As `tokens` of the adapted encoder, but with a gradient for the adapter in `params`."""
        return adapted_tokens(self.encoder, encoder_params, params[LORA], to_rgb(images))

    def head_logits(self, head_params: dict, tokens: jax.Array, images: jax.Array) -> jax.Array:
        """Tokens of all blocks (L, B, h, w, D), images (B, H, W) -> logits (B, H, W) float32."""
        return _apply(self.head, head_params, tokens, images)

    def fused(self, encoder_params: dict, head_params: dict, images: jax.Array) -> jax.Array:
        """What inference keeps of the encoder: images (B, H, W) -> fused tokens (S, B, h, w, D).

        Blocks are fused while the encoder runs, so that memory does not grow with its depth.
        """
        weights = _apply(self.head, head_params, method="fusion_weights")
        return _apply(self.encoder, encoder_params, to_rgb(images), weights, method="fused")

    def fused_struct(self, batch: int, image_size: int) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what `fused` gives for images (B, H, H), without tracing it."""
        patches, scales = image_size // PATCH, self.head.fusion.scales
        shape = scales, batch, patches, patches, self.encoder.spec.width
        return jax.ShapeDtypeStruct(shape, self.encoder.dtype)

    def fuse(self, head_params: dict, tokens: jax.Array) -> jax.Array:
        """What `fused` gives, of tokens (L, B, h, w, D) that are there: (S, B, h, w, D)."""
        return fuse(tokens, _apply(self.head, head_params, method="fusion_weights"))

    def decode(self, head_params: dict, fused: jax.Array, images: jax.Array) -> jax.Array:
        """Fused tokens (S, B, h, w, D), images (B, H, W) -> logits (B, H, W) float32."""
        return _apply(self.head, head_params, fused, images, method="decode")


def _apply(module: nn.Module, params: dict, *inputs: jax.Array, method: str | None = None) -> Any:
    return module.apply({"params": params}, *inputs, method=method)


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
            dtype=DTYPES[decoder_dtype(decoder.dtype)],
        ),
    )
    dtype = compute_dtype("config.encoder.dtype", config.encoder.dtype)
    encoder = Encoder(spec, dtype, encoder_form(dtype))
    return Model(encoder, head, adapter_of(config.encoder, spec))


def decoder_dtype(name: str) -> str:
    """`config.decoder.dtype` with "auto" replaced by what is fastest here."""
    one_of("config.decoder.dtype", name, DECODER_DTYPE_NAMES)
    return fast_dtype() if name == "auto" else name


def compute_dtype(field: str, name: str) -> jnp.dtype:
    """ "float32" or "bfloat16" -> dtype; anything else is an InputError naming the field."""
    one_of(field, name, tuple(DTYPES))
    return DTYPES[name]
