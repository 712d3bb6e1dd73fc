"""Every part of the model that is more complicated than it would have to be, and its plain form.

In bfloat16 at the sizes of 448 x 448 pixels and batches of 4.
"""

import functools
from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from lagseg_jax.model import backend, convolution, decoder, encoder
from lagseg_jax.model.backend import decoder_compiler_options
from lagseg_jax.model.convolution import conv3x3, group_norm_gelu, kernel_gradient
from lagseg_jax.model.resize import resize_linear, upsample_double

DTYPE = jnp.bfloat16
MAPS = ((56, 128), (112, 64), (224, 32), (448, 16))  # pixels along a side, channels
Pairs = dict[str, tuple[Callable, Callable]]  # {what: (plain, ours)}, already compiled


def draw(*shape: int) -> jax.Array:
    """Normal numbers."""
    return jax.random.normal(jax.random.key(0), shape, DTYPE)


def plain_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, with the gradients that JAX derives."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def plain_kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Of a 3 x 3 kernel, for the gradient g of the output."""
    zeros = jnp.zeros((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.vjp(lambda kernel: plain_convolution(x, kernel), zeros)[1](g)[0]


def flax_norm_gelu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Flax's GroupNorm and GELU in bfloat16."""
    norm = nn.GroupNorm(num_groups=None, group_size=8, dtype=DTYPE)
    return nn.gelu(norm.apply({"params": {"scale": scale, "bias": bias}}, x))


def plain_join(parts, kernel: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resized, concatenated, multiplied."""
    maps = [resize_linear(x, size) if x.shape[1] < size[0] // 2 else double(x) for x in parts]
    return jnp.concatenate(maps, axis=-1) @ kernel


def double(x: jax.Array) -> jax.Array:
    """`upsample_double` with the gradient that JAX derives."""
    return upsample_double.__wrapped__(x)


def our_join(parts, kernel: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The decoder's."""
    resize = functools.partial(resize_linear, size=size)
    module = decoder.Join(kernel.shape[-1], DTYPE)
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(kernel.shape[-1])}}
    return module.apply(params, list(zip(parts, (resize, upsample_double))))


def gradient(function: Callable) -> Callable:
    """The function's output and its gradients for a cotangent that is its first argument."""

    def both(cotangent, *arguments):
        y, pull = jax.vjp(function, *arguments)
        return y, *pull(cotangent.astype(y.dtype))

    return both


def layer_pairs() -> Pairs:
    """Of single layers, most of them with their gradients."""
    options = decoder_compiler_options(DTYPE)
    found: Pairs = {}

    def add(what: str, plain: Callable, ours: Callable, *arguments) -> None:
        codes = jax.jit(plain), jax.jit(ours, compiler_options=options)
        found[what] = tuple(
            lambda code=code: jax.block_until_ready(code(*arguments)) for code in codes
        )

    for side, channels in MAPS:
        name = f"{side} x {side} x {channels}"
        x, kernel = draw(4, side, side, channels), draw(3, 3, channels, channels)
        ours = functools.partial(conv3x3, stride=1)
        add(f"convolution, {name}", plain_convolution, ours, x, kernel)
        ours = functools.partial(kernel_gradient, size=3)
        add(f"gradient of its kernel, {name}", plain_kernel_gradient, ours, x, x)
        norms, ones = (gradient(flax_norm_gelu), gradient(group_norm_gelu)), jnp.ones(channels)
        add(f"GroupNorm, GELU and gradient, {name}", *norms, x, x, ones, ones)
    for side, channels in ((56, 64), (112, 32), (224, 16)):
        name = f"doubling {side} x {side} x {channels} and gradient"
        x, g = draw(4, side, side, channels), draw(4, 2 * side, 2 * side, channels)
        add(name, gradient(double), gradient(upsample_double), g, x)
    parts, kernel = (draw(4, 32, 32, 32), draw(4, 112, 112, 64)), draw(96, 32)
    joins = (gradient(functools.partial(f, size=(224, 224))) for f in (plain_join, our_join))
    add("joining at 224 x 224 and gradient", *joins, draw(4, 224, 224, 32), parts, kernel)
    return found


def decoder_pairs() -> Pairs:
    """Of the whole decoder, forward and gradients."""
    module = decoder.Decoder((8, 4, 2, 1), (256, 128, 64, 32, 16), dtype=DTYPE)
    fused, image = draw(5, 4, 32, 32, 384), draw(4, 448, 448, 1)
    params = module.init(jax.random.key(0), fused, image)

    def compiled(options: dict) -> Callable:
        def loss(params):
            return jnp.square(module.apply(params, fused, image)).mean()

        code = jax.jit(jax.value_and_grad(loss)).lower(params).compile(compiler_options=options)
        print(f"temporary memory: {code.memory_analysis().temp_size_in_bytes >> 20} MiB")
        return lambda: jax.block_until_ready(code(params))

    options = decoder_compiler_options(DTYPE)
    ours = compiled(options)
    with mock.patch.object(convolution, "group_norm_gelu", group_norm_gelu.__wrapped__):
        kept = compiled(options)
    return {
        "decoder and gradients: without the compiler's option": (compiled({}), ours),
        "decoder and gradients: normalised maps kept, not computed again": (kept, ours),
    }


def plain_attention(block: encoder.Block, x: jax.Array) -> jax.Array:
    """`Block.attention` with slices and heads as two axes and keys in rows."""
    heads, rounded = block.spec.heads, block.form != "plain"
    qkv = encoder.Dense(3 * x.shape[-1], DTYPE, rounded, name="qkv")(x)
    qkv = qkv.reshape(*x.shape[:2], 3, heads, -1)
    q, k, v = jnp.moveaxis(qkv.astype(DTYPE), 2, 0).swapaxes(2, 3)
    product = functools.partial(jnp.matmul, preferred_element_type=None if rounded else jnp.float32)
    scores = product(q * q.shape[-1] ** -0.5, k.swapaxes(2, 3)).astype(jnp.float32)
    weights = encoder.softmax(scores).astype(DTYPE)
    y = product(weights, v).swapaxes(1, 2).reshape(x.shape)
    return encoder.Dense(x.shape[-1], DTYPE, rounded, name="proj")(y)


def encoder_pairs() -> Pairs:
    """Of the whole ViT-S, in this machine's form."""
    form, images = backend.encoder_form(DTYPE), draw(4, 448, 448, 3)
    spec = encoder.EncoderSpec("small")
    params = jax.jit(encoder.Encoder(spec, DTYPE).init)(jax.random.key(0), images)

    def compiled(form: str = form) -> Callable:
        options, module = (
            backend.encoder_compiler_options(form),
            encoder.Encoder(spec, DTYPE, form),
        )
        code = jax.jit(lambda *arguments: module.apply(*arguments), compiler_options=options)
        code = code.lower(params, images).compile()
        return lambda: jax.block_until_ready(code(params, images))

    ours = compiled()
    with mock.patch.object(encoder, "_unfused", lambda x: x):
        fused = compiled()
    with mock.patch.object(encoder.Block, "attention", plain_attention):
        rows = compiled()
    with mock.patch.object(encoder, "gelu", functools.partial(nn.gelu, approximate=False)):
        erfc = compiled()
    with mock.patch.object(encoder, "softmax", jax.nn.softmax):
        jaxs = compiled()
    return {
        f"encoder: the form plain instead of {form}": (compiled("plain"), ours),
        f"encoder, {form}: slices and heads as two axes, keys in rows": (rows, ours),
        f"encoder, {form}: products fused with what stands beside them": (fused, ours),
        f"encoder, {form}: GELU by erfc": (erfc, ours),
        f"encoder, {form}: jax.nn.softmax": (jaxs, ours),
    }
