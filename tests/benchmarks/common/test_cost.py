"""benchmarks.common.cost: FLOPs by hand, and against what XLA counts."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from benchmarks.common import cost
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.model.decoder import Decoder
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.weights import param_structs


def flops(layers):
    return sum(layer.flops for layer in layers)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_cost_of_layers_by_hand():
    layers = cost.encoder(EncoderSpec("small"), 1, 448)
    qkv = next(layer for layer in layers if layer.name == "qkv")
    assert qkv.flops == 2 * 1025 * 384 * 1152
    assert qkv.elements == 1025 * 384 + 384 * 1152 + 1025 * 1152
    attention = next(layer for layer in layers if layer.name == "attention")
    assert attention.flops == 2 * (2 * 1025 * 1025 * 384)  # scores, and their product with values
    conv = cost.conv3x3("", 56 * 56, 128, 64)
    assert conv.flops == 2 * 56 * 56 * 64 * (128 * 9)
    # Known of these encoders: 63.3 and 214 GFLOP per image of 448 x 448.
    assert flops(layers) == pytest.approx(63.3e9, rel=2e-3)
    assert flops(cost.encoder(EncoderSpec("base"), 1, 448)) == pytest.approx(214e9, rel=3e-3)


@pytest.mark.parametrize(("variant", "close"), [("small", 0.05), ("giant", 0.01)])
def test_cost_of_the_encoder_is_what_xla_counts(monkeypatch, variant, close):
    # XLA counts the body of a loop once: one block.
    monkeypatch.setitem(VARIANTS, "one block", VARIANTS[variant] | {"depth": 1})
    spec = EncoderSpec("one block")
    params = {"params": unflatten_dict(param_structs(spec), sep="/")}
    counted = xla_flops(Encoder(spec).apply, params, struct(2, 224, 224, 3))
    assert flops(cost.encoder(spec, 2, 224)) == pytest.approx(counted, rel=close)


@pytest.mark.parametrize(
    ("image_path", "scales", "widths"),
    [("resized", (8, 4, 2, 1), (256, 128, 64, 32, 16)), ("pyramid", (8, 4, 2), (128, 96, 64, 32))],
)
def test_cost_of_the_decoder_is_what_xla_counts(image_path, scales, widths):
    decoder = Decoder(scales, widths, image_path=image_path)
    inputs = struct(len(widths), 1, 16, 16, 384), struct(1, 224, 224, 1)
    params = jax.eval_shape(decoder.init, jax.random.key(0), *inputs)
    layers = cost.decoder(384, 1, 224, scales, widths, image_path)
    counted = xla_flops(decoder.apply, params, *inputs)
    assert flops(layers) == pytest.approx(counted, rel=0.03)

    def total(params, fused, image):
        return decoder.apply(params, fused, image).sum()

    counted = xla_flops(jax.grad(total, argnums=(0, 1)), params, *inputs)
    assert flops(cost.with_backward(layers)) == pytest.approx(counted, rel=0.02)
