"""The model: inference equals training, the encoder is frozen, impossible configs are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lagseg_jax.model import backend
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model, compute_dtype, decoder_dtype, to_rgb
from lagseg_jax.model.weights import random_params
from lagseg_jax.runtime.errors import InputError
from network import probability

SIZE = 42


def tiny_config(**fields):
    config = default.get_config()
    config.data.image_size = SIZE
    config.encoder.dtype = config.decoder.dtype = "float32"
    config.decoder.scales, config.decoder.widths = (4, 2), (16, 16, 8)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def model():
    return build_model(tiny_config(), EncoderSpec("tiny"))


@pytest.fixture(scope="module")
def params(model):
    """Encoder and head; the fusion weights are made unequal."""
    head = model.init_head(jax.random.key(1), SIZE)
    theta = head["fusion"]["theta"]
    head["fusion"]["theta"] = jax.random.normal(jax.random.key(2), theta.shape)
    return random_params(EncoderSpec("tiny"), 0, "float32"), head


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, SIZE, SIZE)), jnp.float32)


def training_form(model, encoder, head, images):
    """Logits (B, H, W) as the training step computes them, in its two parts."""
    return model.head_logits(head, model.tokens(encoder, images), images)


def test_inference_is_the_same_function_as_training(model, params, images):
    """It fuses blocks while the encoder runs, and is compiled in other parts."""
    found = probability(model, *params, images)
    logits = jax.jit(functools.partial(training_form, model))(*params, images)
    assert found.shape == logits.shape == images.shape
    assert found.dtype == logits.dtype == jnp.float32
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), atol=1e-5)
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_shape_of_fused_tokens_is_known_before(params, images, dtype):
    model = build_model(tiny_config(**{"encoder.dtype": dtype}), EncoderSpec("tiny"))
    assert model.fused_struct(2, SIZE) == jax.eval_shape(model.fused, *params, images)


def test_gradients_stop_at_the_encoder(model, params, images):
    def total(encoder, head):
        return training_form(model, encoder, head, images).sum()

    for_encoder, for_head = jax.jit(jax.grad(total, argnums=(0, 1)))(*params)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(for_encoder))
    assert all((np.asarray(x) != 0).any() for x in jax.tree.leaves(for_head))


def test_the_head_has_a_weight_for_every_chosen_block_and_scale():
    spec = EncoderSpec("giant", registers=4)
    for blocks, learned, expected in (
        ("all", True, (5, 40)),
        ("last", True, (5, 1)),
        ("9,19,29,39", True, (5, 4)),
        ("all", False, None),
    ):
        config = default.get_config()
        config.fusion.blocks, config.fusion.learned = blocks, learned
        model = build_model(config, spec)
        shapes = jax.eval_shape(lambda key, m=model: m.init_head(key, 448), jax.random.key(0))
        found = shapes["fusion"]["theta"].shape if "fusion" in shapes else None
        assert found == expected


def test_grey_becomes_what_torchvision_makes_of_it():
    """ToTensor, three equal channels, Normalize(mean, std): (x - mean) / std for each channel."""
    grey = np.array([[[0.0, 0.25], [0.5, 1.0]]], np.float32)
    rgb = to_rgb(jnp.asarray(grey))
    assert rgb.shape == (1, 2, 2, 3)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        np.testing.assert_allclose(rgb[..., channel], (grey - mean) / std, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"decoder.scales": (8, 4, 1)}, r"decoder\.scales is \(8, 4, 1\), expected halves"),
        ({"decoder.scales": ()}, r"decoder\.scales is \(\), expected halves"),
        ({"decoder.scales": (2, 4)}, r"decoder\.scales is \(2, 4\)"),
        ({"decoder.scales": (8, 4)}, r"decoder\.scales is .* dividing the image size 42"),
        ({"decoder.widths": (16, 16)}, r"decoder\.widths is \(16, 16\), expected 3 multiples of 8"),
        ({"decoder.widths": (16, 16, 12)}, r"decoder\.widths is \(16, 16, 12\), expected 3"),
        ({"decoder.widths": (16, 0, 8)}, r"decoder\.widths is \(16, 0, 8\), expected 3"),
        ({"decoder.dtype": "float16"}, r"decoder\.dtype is 'float16', expected one of float32"),
        ({"encoder.dtype": "half"}, r"encoder\.dtype is 'half', expected one of float32, bfloat16"),
        ({"fusion.blocks": "4"}, r"fusion\.blocks is '4', expected .* from 0 to 3"),
    ],
)
def test_impossible_configs_are_refused(fields, expected):
    with pytest.raises(InputError, match=r"config\.\S+ is .*") as error:
        build_model(tiny_config(**fields), EncoderSpec("tiny"))
    error.match(expected)


@pytest.mark.parametrize(
    "flags, jax_version, expected",
    [
        ({"fma", "avx512_bf16"}, (0, 12, 0), "bfloat16"),
        ({"amx_bf16"}, (0, 13, 1), "bfloat16"),
        ({"avx512f"}, (0, 12, 0), "float32"),
        ({"amx_bf16"}, (0, 10, 2), "float32"),
        (set(), (0, 12, 0), "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_and_jax_are_fast_in_it(
    flags, jax_version, expected, monkeypatch
):
    monkeypatch.setattr(backend, "processor_flags", lambda: flags)
    monkeypatch.setattr(jax, "__version_info__", jax_version)
    assert decoder_dtype("auto") == expected
    assert decoder_dtype("float32") == "float32"
    model = build_model(tiny_config(**{"decoder.dtype": "auto"}), EncoderSpec("tiny"))
    assert jnp.dtype(model.head.decoder.dtype) == expected


def test_dtypes():
    assert compute_dtype("a.b", "float32") == jnp.float32
    assert compute_dtype("a.b", "bfloat16") == jnp.bfloat16
