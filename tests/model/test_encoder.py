"""The encoder's own promises; that it equals PyTorch is shown in test_conversion.py."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from encoders import bfloat16_kernels, draw_params, images
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.model.encoder import Activations, Encoder, EncoderSpec, layer_norm
from lagseg_jax.model.weights import param_shapes, param_structs, random_params


@pytest.fixture(scope="module", params=[0, 4], ids=["plain", "registers"])
def spec(request):
    return EncoderSpec("tiny", request.param)


@pytest.fixture(scope="module")
def params(spec):
    return draw_params(spec)


@functools.partial(jax.jit, static_argnames=("encoder", "method"))
def apply(encoder, params, *inputs, method=None):
    return encoder.apply({"params": params}, *inputs, method=method)


def test_shapes(spec, params):
    batch, h, w = 3, 5, 7
    tokens = apply(Encoder(spec), params, images(batch, 14 * h, 14 * w))
    assert isinstance(tokens, Activations)
    assert tokens.patch_tokens.shape == (4, batch, h, w, 64)
    assert tokens.class_token.shape == (4, batch, 64)
    assert tokens.register_tokens.shape == (4, batch, spec.registers, 64)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fused_is_the_weighted_sum_of_all_blocks(spec, params, dtype):
    encoder, x = Encoder(spec, dtype), images(3, 70, 98)
    params = bfloat16_kernels(params) if dtype == jnp.bfloat16 else params
    weights = jax.random.normal(jax.random.key(3), (3, 4))
    tokens = apply(encoder, params, x).patch_tokens
    fused = apply(encoder, params, x, weights, method="fused")
    assert tokens.dtype == fused.dtype == dtype
    expected = jnp.einsum("sl,lbhwd->sbhwd", weights, tokens.astype(jnp.float32))
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    assert np.abs(fused - expected).max() <= tolerance * np.abs(expected).max()


def test_fused_memory_does_not_grow_with_depth(monkeypatch):
    def temporary_bytes(depth):
        monkeypatch.setitem(VARIANTS, "tiny", VARIANTS["tiny"] | {"depth": depth})
        spec = EncoderSpec("tiny")
        shapes = {"params": jax.eval_shape(lambda: random_params(spec, 0, "float32"))}
        fused = jax.jit(functools.partial(Encoder(spec).apply, method="fused"))
        lowered = fused.lower(shapes, images(2, 112, 112), jnp.ones((5, depth)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    # Weights of 24 more blocks (50 kB each) must not be copied, nor 24 more activations kept.
    assert temporary_bytes(28) <= 1.02 * temporary_bytes(4)


def test_size_must_be_a_multiple_of_the_patch(spec, params):
    for height, width in ((70, 71), (69, 70)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels found.*multiples of 14"):
            Encoder(spec).apply({"params": params}, images(1, height, width))


@pytest.mark.parametrize("shape", [(70, 70, 3), (1, 70, 70), (1, 70, 70, 1), (1, 2, 70, 70, 3)])
def test_images_need_a_batch_axis_and_three_channels(spec, params, shape):
    found = re.escape(f"images of shape {shape} found, (B, H, W, 3) expected")
    found += r"; images\[None\] is a batch of one\b" if shape == (70, 70, 3) else r"(?!;)"
    with pytest.raises(ValueError, match=found):
        Encoder(spec).apply({"params": params}, jnp.zeros(shape))


def test_images_of_a_batch_do_not_mix(spec, params):
    x = images(3, 70, 98)
    together, alone = apply(Encoder(spec), params, x), apply(Encoder(spec), params, x[1:2])
    for whole, single in zip(together, alone):
        assert np.allclose(whole[:, 1:2], single, atol=1e-5)


def test_position_tells_equal_patches_apart(spec, params):
    tokens = apply(Encoder(spec), params, jnp.ones((3, 70, 98, 3))).patch_tokens[0, 0]
    distance = jnp.abs(tokens[:, :, None, None] - tokens[None, None]).max(axis=-1).reshape(35, 35)
    assert (distance + jnp.eye(35)).min() > 1e-3


def test_rows_and_columns_are_not_swapped(spec, params):
    """Changing one pixel changes the tokens of its own patch most, before attention mixes them."""
    x = np.zeros((1, 42, 70, 3), np.float32)
    x[0, 30, 20] = 1  # patch row 2, column 1
    encode = functools.partial(apply, Encoder(spec), params, method="embed")
    (before, size), (after, _) = encode(jnp.zeros_like(x)), encode(x)
    changed = np.abs(after - before)[0, 1 + spec.registers :].max(axis=-1).reshape(size)
    assert size == (3, 5)
    assert np.argwhere(changed > 0).tolist() == [[2, 1]]


def test_bfloat16_is_close(spec, params):
    low = bfloat16_kernels(params)
    x = images(3, 70, 98)
    exact = apply(Encoder(spec), params, x).patch_tokens
    rounded = apply(Encoder(spec, jnp.bfloat16), low, x).patch_tokens
    error = jnp.abs(rounded.astype(jnp.float32) - exact)
    assert 0 < error.mean() < 0.02 * jnp.abs(exact).mean()
    assert error.max() < 0.05 * jnp.abs(exact).max()


def test_layer_norm_by_hand():
    x = jnp.array([[1.0, 3.0], [5.0, 5.0]])
    y = layer_norm(x, jnp.array([2.0, 2.0]), jnp.array([0.5, -0.5]))
    assert np.allclose(y, [[-1.5, 1.5], [0.5, -0.5]], atol=1e-5)


# Published: 22.1 M, 86.6 M, 304.4 M and 1136.5 M, counting the mask token and the class token's
# position, which we leave out and add up; registers are four more tokens.
COUNTS = {
    "tiny": 325_952,
    "small": 22_055_808,
    "base": 86_578_944,
    "large": 304_366_592,
    "giant": 1_136_477_696,
}


def test_every_variant_is_counted():
    assert COUNTS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count(variant):
    def count(registers):
        shapes = param_shapes(EncoderSpec(variant, registers)).values()
        return sum(int(np.prod(shape)) for shape in shapes)

    assert count(0) == COUNTS[variant]
    assert count(4) == COUNTS[variant] + 4 * VARIANTS[variant]["width"]


@pytest.mark.parametrize(("variant", "registers"), [("tiny", 0), ("tiny", 4), ("giant", 4)])
def test_parameters_are_those_that_flax_initialises(variant, registers):
    spec = EncoderSpec(variant, registers)
    one = jax.ShapeDtypeStruct((1, 14, 14, 3), jnp.float32)
    init = Encoder(spec, jnp.bfloat16).init
    tree = jax.eval_shape(init, jax.random.key(0), one)["params"]
    assert param_structs(spec, "bfloat16") == flatten_dict(tree, sep="/")
    assert list(param_structs(spec)) == sorted(param_structs(spec))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count_equals_torch(variant):
    torch = pytest.importorskip("torch")
    import dinov2_torch

    with torch.device("meta"):
        model = dinov2_torch.DINOv2(variant)
    width = VARIANTS[variant]["width"]
    assert sum(t.numel() for t in model.parameters()) == COUNTS[variant] + 2 * width


@pytest.mark.parametrize(
    "bad", [{"variant": "huge"}, {"registers": 5}, {"interpolation": "linear"}, {"grid": 0}]
)
def test_impossible_specs(bad):
    with pytest.raises(ValueError, match="found"):
        EncoderSpec(**{"variant": "tiny"} | bad)


def test_default_rule_is_metas():
    assert EncoderSpec("base").interpolation == "offset"
    assert EncoderSpec("base", 4).interpolation == "antialias"
