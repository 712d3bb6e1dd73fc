"""What a GPU would be given, lowered for CUDA where there is none: it is not run, nor compiled."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs import default
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.inference import slice_probability
from lagseg_jax.inference.slice_probability import Resampling
from lagseg_jax.model import backend
from lagseg_jax.model.encoder_spec import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.trained_shapes import trained_structs
from lagseg_jax.runtime import traced
from lagseg_jax.runtime.devices import AXIS
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import augmentation_of, init_state, make_encode, make_update

ATTENTION = "__cudnn$fmhaSoftmax"
SIZE, BATCH = 56, 2
RATE = jax.ShapeDtypeStruct((), jnp.float32)


@pytest.fixture
def gpu(monkeypatch):
    """The choices of a GPU with cuDNN, and JAX's own questions about it answered."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(backend, "has_cudnn_attention", lambda: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    # Ampere: heads of at most 128 channels.
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: float(least) <= 8)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)


def a_model(variant, **encoder):
    """Of the default config; its encoder's parameters and what is trained, as shapes."""
    config = default.get_config()
    config.encoder.update(encoder)
    config.data.image_size, config.encoder.variant, config.decoder.dtype = SIZE, variant, "auto"
    model = build_model(config, EncoderSpec(variant))
    images = jnp.zeros((1, SIZE, SIZE, 3))
    encoder_params = jax.eval_shape(model.encoder.init, jax.random.key(0), images)["params"]
    return config, model, encoder_params, trained_structs(model)


def lowered(function, *arguments):
    """StableHLO for CUDA, of one device of the axis of training steps."""
    mapped = jax.vmap(function, axis_name=AXIS, axis_size=1, in_axes=None, out_axes=None)
    text = jax.jit(mapped).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "f64" not in text
    return text


def products(text):
    """Dtypes of the factors and the result of every matrix product."""
    found = re.findall(r"stablehlo.dot_general .*: \((.*?)\) -> (\S+)", text)
    return [re.findall(r"tensor<(?:\d+x)*(\w+)>", " ".join(types)) for types in found]


def a_batch():
    batch = {"image": jnp.zeros((BATCH, SIZE, SIZE), jnp.float16), "slice": jnp.arange(BATCH)}
    return batch | {"mask": jnp.zeros((BATCH, SIZE, SIZE), jnp.uint8)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_uses_cudnn_and_the_tensor_cores(gpu, variant):
    config, model, encoder_params, params = a_model(variant)
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    batch = a_batch()
    encode = make_encode(model, augmentation_of(config.augment), 0)
    text = lowered(encode, state.step, encoder_params, batch)
    assert text.count(f"@{ATTENTION}(") == 1  # all blocks are one loop
    of_bfloat16 = [types[2] for types in products(text) if types[0] == "bf16"]
    assert sorted(of_bfloat16) == ["bf16"] * 4 + ["f32"]  # of a block, and the patches' embedding
    encoded = jax.eval_shape(encode, state.step, encoder_params, batch)
    assert encoded["tokens"].dtype == jnp.bfloat16
    text = lowered(make_update(model, optimizer, config.train.loss), state, RATE, encoded)
    convolutions = re.findall(r"stablehlo.convolution.*: \((.*?)\) -> (\S+)", text)
    assert len(convolutions) == 3 * 10  # two at each of five scales, forward and both gradients
    assert not any("f32" in " ".join(types) for types in convolutions)


def test_an_adapter_is_trained_although_cudnn_has_no_gradient(gpu):
    """JAX refuses it for 17 tokens."""
    config, model, encoder_params, params = a_model("small", lora_rank=4)
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    encode = make_encode(model, augmentation_of(config.augment), 0)
    encoded = jax.eval_shape(encode, state.step, encoder_params, a_batch())
    update = make_update(model, optimizer, config.train.loss)
    text = lowered(update, state, RATE, encoded, encoder_params)
    assert f"@{ATTENTION}(" in text and f"@{ATTENTION}Backward" not in text


def test_the_trace_of_a_prediction_is_kept(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for_cuda = functools.partial(jax.export.export, platforms=["cuda"])
    monkeypatch.setattr(jax.export, "export", for_cuda)
    _, model, encoder_params, params = a_model("small")
    there = [jnp.zeros((SIZE, 64))] * 2
    how = Resampling(there, [x.T for x in there], jnp.zeros(2))
    trees = encoder_params, params, jnp.zeros((BATCH, 64, 64), jnp.int16), how, None
    leaves, tree = jax.tree.flatten(trees)
    like = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        slice_probability.encoder.__wrapped__("cudnn")._program(model, tree, like)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    (path,) = tmp_path.glob("traced-*")
    kept = traced._read(path)
    assert kept.platforms == ("cuda",) and kept.mlir_module().count(f"@{ATTENTION}(") == 1
