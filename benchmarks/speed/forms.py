"""What of the model is more complicated than it would have to be, beside its plain form."""

from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model import backend, decoder, encoder
from lagseg_jax.model.convolution import convolve
from lagseg_jax.model.resize import resize_linear

Pairs = dict[str, tuple[Callable, Callable]]  # {what: (plain, ours)}, compiled; they return arrays


class PlainJoin(decoder.Join):
    """Resized, concatenated, and one 1x1 convolution of them all."""

    @nn.compact
    def __call__(self, parts: list[tuple[jax.Array, decoder.Resize]]) -> jax.Array:
        """As `decoder.Join`, with the same parameters."""
        x = jnp.concatenate([resize(x) for x, resize in parts], axis=-1)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return (decoder.conv1x1(x, kernel, self.dtype) + bias).astype(self.dtype)


def flax_norm_gelu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Flax's GroupNorm in the dtype of x, and GELU."""
    norm = nn.GroupNorm(num_groups=None, group_size=decoder.GROUP, dtype=x.dtype)
    return nn.gelu(norm.apply({"params": {"scale": scale, "bias": bias}}, x))


def double_by_matrices(x: jax.Array) -> jax.Array:
    """`upsample_double` as two matrix products."""
    return resize_linear(x, (2 * x.shape[1], 2 * x.shape[2]))


# Of the decoder: the plain form, and the name that it takes the place of.
PLAIN = {
    "convolutions with the gradients that JAX derives": ("conv3x3", convolve),
    "normalised maps kept, not computed again": (
        "group_norm_gelu",
        decoder.group_norm_gelu.__wrapped__,
    ),
    "Flax's GroupNorm, kept": ("group_norm_gelu", flax_norm_gelu),
    "maps doubled by matrix products": ("upsample_double", double_by_matrices),
    "maps resized and concatenated before the 1x1 convolution": ("Join", PlainJoin),
}


def decoder_pairs(module: decoder.Decoder, size: int, batch: int) -> Pairs:
    """Of a decoder behind ViT-S, forward and gradients."""
    dtype, shape = module.dtype, (batch, size // PATCH, size // PATCH, 384)
    fused = jax.random.normal(jax.random.key(0), (len(module.widths), *shape), dtype)
    image = jax.random.normal(jax.random.key(1), (batch, size, size, 1), dtype)
    params = jax.jit(module.init)(jax.random.key(0), fused, image)

    def compiled(what: str, options: dict) -> Callable:
        def loss(params):
            return jnp.square(module.apply(params, fused, image)).mean()

        code = jax.jit(jax.value_and_grad(loss)).lower(params).compile(compiler_options=options)
        print(f"{what}: {code.memory_analysis().temp_size_in_bytes >> 20} MiB of temporary memory")
        return lambda: jax.block_until_ready(code(params))

    options = backend.decoder_compiler_options(dtype)
    ours = compiled("decoder", options)
    found = {"decoder: without the compiler's option": (compiled("without the option", {}), ours)}
    for what, (name, plain) in PLAIN.items():
        with mock.patch.object(decoder, name, plain):
            found[f"decoder: {what}"] = compiled(what, options), ours
    return found


def encoder_pairs(dtype: jnp.dtype, size: int, batch: int) -> Pairs:
    """Of ViT-S in this machine's form."""
    form, spec = backend.encoder_form(dtype), encoder.EncoderSpec("small")
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    params = jax.jit(encoder.Encoder(spec, dtype).init)(jax.random.key(0), images)

    def compiled(form: str) -> Callable:
        options, module = backend.encoder_compiler_options(form), encoder.Encoder(spec, dtype, form)
        code = jax.jit(module.apply, compiler_options=options).lower(params, images).compile()
        return lambda: jax.block_until_ready(code(params, images))

    ours = compiled(form)
    found = {f"encoder: the form plain instead of {form}": (compiled("plain"), ours)}
    if form == "onednn":
        with mock.patch.object(jax.lax, "optimization_barrier", lambda x: x):
            fused = compiled(form)
        found["encoder: products fused with what stands beside them"] = fused, ours
    return found
