"""Every form of the encoder is the same function; each is chosen where it is fastest."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from encoders import bfloat16_kernels, draw_params, images
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.model import backend
from lagseg_jax.model.backend import FORMS, encoder_compiler_options, encoder_form
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.lora import adapted_tokens
from lagseg_jax.model.weights import param_structs

OTHERS = [form for form in FORMS if form != "plain"]


@pytest.fixture(params=["gelu", "swiglu"])
def spec(request, monkeypatch):
    """The tiny encoder with each of both MLPs, and register tokens."""
    monkeypatch.setitem(VARIANTS, "tiny", VARIANTS["tiny"] | {"mlp": request.param})
    return EncoderSpec("tiny", 4)


def apply(encoder, params, x, options=None):
    return jax.jit(encoder.apply, compiler_options=options)({"params": params}, x)


@pytest.fixture
def without_cudnn(monkeypatch):
    """JAX's own form of the call stands in for cuDNN."""
    real = jax.nn.dot_product_attention

    def xla(*arguments, implementation):
        assert implementation in ("cudnn", "xla")
        return real(*arguments, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)


@pytest.mark.parametrize("form", OTHERS)
def test_every_form_is_the_same_function(without_cudnn, spec, form):
    """Layout, scale and heads of the attention are the same."""
    params, x = draw_params(spec), images(2, 42, 70)
    plain, other = (apply(Encoder(spec, form=f), params, x) for f in ("plain", form))
    for wanted, found in zip(plain, other, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("form", OTHERS)
def test_rounded_products_cost_no_more_than_bfloat16_does(without_cudnn, spec, form):
    params, x = draw_params(spec), images(2, 42, 70)
    exact = apply(Encoder(spec), params, x).patch_tokens
    half = bfloat16_kernels(params)

    def error(form, options=None):
        tokens = apply(Encoder(spec, jnp.bfloat16, form), half, x, options).patch_tokens
        return np.linalg.norm(tokens.astype(np.float32) - exact) / np.linalg.norm(exact)

    assert 0 < error(form) < 1.5 * error("plain")


def test_as_it_is_compiled_here_at_448_pixels():
    """With the options of this machine, at a size at which its libraries are called."""
    spec = EncoderSpec("small")
    params, x = draw_params(spec), images(1, 448, 448)
    exact = apply(Encoder(spec), params, x).patch_tokens
    form, half = encoder_form(jnp.bfloat16), bfloat16_kernels(params)
    tokens = apply(
        Encoder(spec, jnp.bfloat16, form), half, x, encoder_compiler_options(form)
    ).patch_tokens
    depth = spec.depth  # each block's tokens by themselves
    exact, tokens = (np.asarray(t, np.float32).reshape(depth, -1) for t in (exact, tokens))
    error = np.linalg.norm(tokens - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert (0 < error).all() and (error < 0.03).all(), error


@pytest.mark.parametrize("form", [f for f in FORMS if f != "cudnn"])
def test_gradient_of_an_adapter_is_the_same_in_every_form(form):
    spec = EncoderSpec("tiny")
    params, x = draw_params(spec), images(2, 42, 70)
    keys = jax.random.split(jax.random.key(3))
    width, depth, rank = spec.width, 2, 3
    lora = {
        "a": jax.random.normal(keys[0], (depth, width, rank)),
        "b": 0.01 * jax.random.normal(keys[1], (depth, rank, 3 * width)),
    }

    def loss(lora, form):
        return jnp.sin(adapted_tokens(Encoder(spec, form=form), params, lora, x)).mean()

    def naive(lora):  # kernels merged before the encoder runs
        kernel = params["blocks"]["qkv"]["kernel"]
        merged = jnp.matmul(lora["a"], lora["b"], precision="highest")
        kernel = kernel.at[-depth:].add(merged)
        blocks = {**params["blocks"], "qkv": {**params["blocks"]["qkv"], "kernel": kernel}}
        tokens = Encoder(spec).apply({"params": {**params, "blocks": blocks}}, x).patch_tokens
        return jnp.sin(tokens).mean()

    found = jax.jit(jax.grad(functools.partial(loss, form=form)))(lora)
    for name, wanted in jax.jit(jax.grad(naive))(lora).items():
        assert np.abs(wanted).max() > 0
        assert np.abs(found[name] - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_attention_on_nvidia_is_cudnns(monkeypatch):
    """Lowered for CUDA here, where there is none: every block calls cuDNN, and only where asked."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    spec = EncoderSpec("small")
    params = {"params": unflatten_dict(param_structs(spec, "bfloat16"), sep="/")}
    shape = jax.ShapeDtypeStruct((2, 448, 448, 3), jnp.float32)
    for form in FORMS:
        encoder = Encoder(spec, jnp.bfloat16, form)
        traced = jax.jit(encoder.apply).trace(params, shape)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert ("cudnn$fmhaSoftmax" in program) == (form == "cudnn")


def test_products_on_amx_are_onednns():
    """All of a block's but the attention's, with the GELU in one of them."""
    form = encoder_form(jnp.bfloat16)
    if form != "onednn":
        pytest.skip("this machine has no AMX, or this jax does not use it")
    spec = EncoderSpec("small")
    params = {"params": unflatten_dict(param_structs(spec, "bfloat16"), sep="/")}
    shape = jax.ShapeDtypeStruct((1, 448, 448, 3), jnp.float32)
    encoder = jax.jit(Encoder(spec, jnp.bfloat16, form).apply)
    code = (
        encoder.lower(params, shape)
        .compile(compiler_options=encoder_compiler_options(form))
        .as_text()
    )
    rows, width = 1025, spec.width
    for columns in (3 * width, width, 4 * width):
        assert f"bf16[{rows},{columns}]{{1,0}}, u8[" in code  # a result and oneDNN's scratchpad
    assert '"GELU_ERF"' in code and "__onednn$softmax" not in code


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "expected"),
    [
        ("gpu", "9.0", jnp.bfloat16, "cudnn"),
        ("gpu", "8.0", jnp.bfloat16, "cudnn"),
        ("gpu", "7.5", jnp.bfloat16, "plain"),
        ("gpu", "gfx90a", jnp.bfloat16, "plain"),
        ("gpu", "9.0", jnp.float32, "plain"),
        ("tpu", "", jnp.bfloat16, "plain"),
    ],
)
def test_the_form_on_accelerators(monkeypatch, platform, capability, dtype, expected):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(backend, "processor_flags", lambda: {"amx_bf16"})
    assert encoder_form(dtype) == expected
    assert encoder_compiler_options(expected) == {}


@pytest.mark.parametrize(
    ("flags", "version", "dtype", "expected"),
    [
        ({"amx_bf16", "avx512_bf16"}, (0, 12, 0), jnp.bfloat16, "onednn"),
        ({"amx_bf16", "avx512_bf16"}, (0, 11, 2), jnp.bfloat16, "plain"),
        ({"avx512_bf16"}, (0, 12, 0), jnp.bfloat16, "plain"),
        ({"amx_bf16"}, (0, 12, 0), jnp.float32, "plain"),
        (set(), (0, 12, 0), jnp.bfloat16, "plain"),
    ],
)
def test_the_form_on_cpus(monkeypatch, flags, version, dtype, expected):
    monkeypatch.setattr(backend, "processor_flags", lambda: flags)
    monkeypatch.setattr(jax, "__version_info__", version)
    assert encoder_form(dtype) == expected
    assert bool(encoder_compiler_options(expected)) == (expected == "onednn")
