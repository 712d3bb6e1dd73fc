"""Decoder: shapes, parameter counts, alignment, and that tokens and image reach the logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lagseg_jax.model.backend import decoder_compiler_options
from lagseg_jax.model.decoder import Decoder, depth_to_space, space_to_depth

D = 11  # encoder width


def inputs(decoder, patches=(2, 3), batch=1, seed=0):
    rng = np.random.default_rng(seed)
    fused = rng.normal(size=(len(decoder.scales) + 1, batch, *patches, D))
    image = rng.normal(size=(batch, 14 * patches[0], 14 * patches[1], 1))
    return jnp.asarray(fused, jnp.float32), jnp.asarray(image, jnp.float32)


def init(decoder, fused, image):
    """Random parameters, none of them zero; scales of the normalisations around 1."""
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), fused, image)
    rng = np.random.default_rng(1)

    def draw(path, x):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(centre, 0.2, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


# Shapes and parameters


@pytest.mark.parametrize("image_path", ["resized", "pyramid"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scales", [(8, 4, 2, 1), (8, 4, 2), (4,), (14, 7), (16, 8, 4, 2)])
def test_logits_have_the_size_of_the_image(image_path, dtype, scales):
    """Images of 5 x 7 patches: 70 and 98 pixels are odd at 1/2 or 1/4, and 1/8 is rounded up."""
    patches = (10, 14) if scales == (4,) else (5, 7)  # the last scale divides the image
    widths = tuple(8 * (n + 1) for n in range(len(scales) + 1))
    decoder = Decoder(scales, widths, image_path=image_path, dtype=dtype)
    fused, image = inputs(decoder, patches, batch=3)
    logits, variables = jax.eval_shape(decoder.init_with_output, jax.random.key(0), fused, image)
    assert logits.shape == image.shape[:3] and logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def parameters_by_hand(d, scales, widths, image_path):
    """All weights of the decoder: convolutions have no bias, normalisations scale and bias."""

    def block(channels_in, channels):
        return 9 * channels_in * channels + 9 * channels * channels + 4 * channels

    last = scales[-1] ** 2
    image_channels, total = [1] * len(widths), 0
    if image_path == "pyramid":
        image_channels = [widths[1], *widths[1:]]
        inward = [last, *reversed(widths[2:])]
        total += sum(block(i, o) for i, o in zip(inward, reversed(widths[1:])))
    before = 0
    for width, extra in zip(widths, image_channels):
        total += d * width + width  # projection of the tokens
        total += (width + before + extra) * width + width  # joining
        total += block(width, width)
        before = width
    return total + widths[-1] * last + last


@pytest.mark.parametrize(
    ("image_path", "scales", "widths", "count"),
    [
        ("resized", (8, 4, 2, 1), (256, 128, 64, 32, 16), 2_086_561),
        ("pyramid", (8, 4, 2, 1), (256, 128, 64, 32, 16), 2_434_305),
        ("pyramid", (8, 4, 2), (128, 96, 64, 32), 1_083_268),
    ],
)
def test_parameter_counts(image_path, scales, widths, count):
    decoder = Decoder(scales, widths, image_path=image_path)
    fused = jnp.zeros((len(widths), 1, 4, 4, 768))
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), fused, jnp.zeros((1, 56, 56, 1)))
    found = sum(x.size for x in jax.tree.leaves(shapes))
    assert found == parameters_by_hand(768, scales, widths, image_path) == count


def test_the_counts_above_are_those_of_the_default_config():
    config = default.get_config().decoder
    assert (config.scales, config.widths) == ((8, 4, 2, 1), (256, 128, 64, 32, 16))
    assert config.image_path == "resized"


# What reaches the logits


@pytest.mark.parametrize("image_path", ["resized", "pyramid"])
def test_image_and_tokens_of_every_scale_reach_the_logits(image_path):
    decoder = Decoder((4, 2), (8, 16, 8), image_path=image_path)
    fused, image = inputs(decoder)
    params = init(decoder, fused, image)

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(fused, image):
        return jnp.sum(decoder.apply(params, fused, image) ** 2)

    for_fused, for_image = jax.jit(gradients)(fused, image)
    assert (np.abs(for_fused).max(axis=(1, 2, 3, 4)) > 0).all()
    # Every patch counts, and every pixel: none is lost by resizing or cropping.
    assert (np.abs(for_fused).max(axis=(0, 1, 4)) > 0).all()
    assert (np.abs(for_image).max(axis=(0, 3)) > 0).all()


def test_without_injection_the_image_is_ignored():
    decoder = Decoder((4, 2), (8, 16, 8), image_injection=False, image_path="pyramid")
    fused, image = inputs(decoder)
    params = init(decoder, fused, image)
    assert "pyramid" not in params["params"]
    apply = jax.jit(decoder.apply)
    logits = apply(params, fused, image)
    np.testing.assert_array_equal(logits, apply(params, fused, jnp.full_like(image, jnp.nan)))
    assert (logits != apply(params, fused + 1, image)).any()


def test_slices_of_a_batch_do_not_touch_each_other():
    """Normalisation is per slice; so the loss does not depend on how devices share a batch."""
    decoder = Decoder((4, 2), (8, 16, 8), image_path="pyramid")
    fused, image = inputs(decoder, batch=2)
    params = init(decoder, fused, image)
    apply = jax.jit(decoder.apply)
    logits = apply(params, fused, image)
    other = apply(params, fused.at[:, 1].multiply(7), image.at[1].multiply(-3))
    np.testing.assert_array_equal(logits[0], other[0])
    assert (logits[1] != other[1]).any()


# Alignment


def mirrored(params):
    """Every 3x3 kernel made equal to its mirror images."""

    def mirror(x):
        if x.ndim != 4:
            return x
        return (x + x[::-1] + x[:, ::-1] + x[::-1, ::-1]) / 4

    return jax.tree.map(mirror, params)


def test_mirrored_input_gives_mirrored_logits():
    """With mirrored kernels: true only when no scale is shifted against the others.

    At 56 pixels every scale has a whole number of pixels, and 1/14 to 1/8 is 4 to 7 pixels.
    """
    decoder = Decoder((8, 4, 2, 1), (8, 8, 8, 8, 8))
    fused, image = inputs(decoder, patches=(4, 4))
    params = mirrored(init(decoder, fused, image))
    apply = jax.jit(decoder.apply)
    logits = apply(params, fused, image)
    for axis in (1, 2):
        flipped = apply(params, jnp.flip(fused, axis + 1), jnp.flip(image, axis))
        np.testing.assert_allclose(jnp.flip(flipped, axis), logits, atol=1e-4)


# Between pixels and channels


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_depth_to_space_inverts_space_to_depth(factor):
    x = np.random.default_rng(0).normal(size=(2, 5 * factor, 7 * factor, 3)).astype(np.float32)
    deep = space_to_depth(jnp.asarray(x), factor)
    assert deep.shape == (2, 5, 7, 3 * factor**2)
    np.testing.assert_array_equal(depth_to_space(deep, factor), x)


def test_space_to_depth_by_hand():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)  # rows 0 1 2 3 and 4 5 6 7
    expected = [[[[0, 1, 4, 5], [2, 3, 6, 7]]]]
    np.testing.assert_array_equal(space_to_depth(x, 2), expected)


# Numbers of 16 bits


@functools.cache
def start_of(decoder):
    """Parameters as a training begins with them; they do not depend on the size of the image."""
    return jax.jit(decoder.init)(jax.random.key(2), *inputs(decoder, (7, 7)))


@pytest.mark.parametrize("image_path", ["resized", "pyramid"])
@pytest.mark.parametrize("patches", [7, 32])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(patches, image_path):
    """As compiled for training; sums over 448 x 448 pixels are what bfloat16 cannot hold."""
    scales, widths = (8, 4, 2, 1), (16, 16, 16, 8, 8)
    fused, image = inputs(Decoder(scales, widths), (patches, patches), batch=2)

    def gradients(dtype, params):
        decoder = Decoder(scales, widths, image_path=image_path, dtype=dtype)

        def loss(params):
            return jnp.square(decoder.apply(params, fused.astype(dtype), image) - 1).mean()

        return jax.jit(jax.grad(loss), compiler_options=decoder_compiler_options(dtype))(params)

    params = start_of(Decoder(scales, widths, image_path=image_path))
    exact, rounded = gradients(jnp.float32, params), gradients(jnp.bfloat16, params)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(rounded)):
        error = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
        assert error < 0.04, f"{jax.tree_util.keystr(path)}: {error:.3f}"
