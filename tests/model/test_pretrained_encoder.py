"""`load_encoder`: the encoder itself, wherever in a JAX program it is called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from encoders import draw_params, images
from lagseg_jax import load_encoder
from lagseg_jax.model import pretrained_encoder
from lagseg_jax.model.encoder import Encoder
from lagseg_jax.model.encoder_spec import EncoderSpec
from lagseg_jax.model.weights import read_card
from lagseg_jax.runtime.errors import InputError
from weight_conversion.write import write_encoder

SPEC = EncoderSpec("tiny", 4, grid=5)


@pytest.fixture(scope="module")
def params():
    return draw_params(SPEC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    write_encoder(folder, SPEC, "float32", lambda name: iter(flat[name]), {})
    return folder


@pytest.fixture(scope="module")
def encode(folder):
    return load_encoder(folder)


@pytest.fixture(scope="module")
def x():
    return images(2, 28, 42)


@pytest.fixture(scope="module")
def expected(params, x):
    return jax.jit(Encoder(SPEC).apply)({"params": params}, x)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_it_is_the_encoder(encode, folder, x, expected):
    assert_same(encode(x), expected)
    assert_same(encode(np.asarray(x)), expected)
    assert load_encoder(str(folder), "bfloat16")(x).patch_tokens.dtype == jnp.bfloat16


def test_it_says_what_it_is(encode, folder):
    spec = encode.spec
    assert (spec.variant, spec.width, spec.depth, spec.heads) == ("tiny", 64, 4, 2)
    assert (spec.patch_size, spec.registers, spec.grid) == (14, 4, 5)
    words = str(folder), "tiny", "4 blocks", "width 64", "2 heads", "4 registers", "float32"
    words += "patches of 14 pixels", "grid 5", "form plain"
    assert [word for word in words if word not in repr(encode)] == []
    assert encode.sha256 == read_card(folder)["encoder_sha256"]


def test_within_jit(encode, x, expected):
    assert_same(jax.jit(lambda x: encode(x))(x), expected)
    assert_same(jax.jit(encode)(x), expected)


def test_as_an_argument_of_a_compiled_function(encode, x, expected):
    """Then the program holds no copy of the weights, and works for those of another encoder."""
    call = jax.jit(lambda encoder, x: encoder(x))
    assert_same(call(encode, x), expected)
    silent = jax.tree.map(jnp.zeros_like, encode)
    assert not call(silent, x).class_token.any()
    assert call._cache_size() == 1


def test_gradients_of_images_and_weights(encode, x):
    def loss(encoder, x):
        return jnp.square(encoder(x).class_token[-1]).sum()

    direction = jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    slope = (jax.grad(loss, argnums=1)(encode, x) * direction).sum()
    step = 1e-2
    difference = loss(encode, x + step * direction) - loss(encode, x - step * direction)
    assert float(slope) == pytest.approx(float(difference) / (2 * step), rel=0.05) and slope != 0
    of_weights = jax.jit(jax.grad(loss))(encode, x).params
    assert jnp.abs(of_weights["blocks"]["qkv"]["kernel"]).max() > 0


def test_within_vmap(encode, x, expected):
    one_by_one = jax.vmap(lambda image: encode(image[None]))(x)
    assert_same([jnp.moveaxis(a[:, :, 0], 0, 1) for a in one_by_one], expected)
    stacked = jax.vmap(encode)(jnp.stack([x, x[::-1]]))
    assert_same([a[1][:, ::-1] for a in stacked], expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_images_on_several_devices_are_encoded_there(folder, x, expected, compiled):
    encode = load_encoder(folder)
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    call = jax.jit(encode.__call__) if compiled else encode
    tokens = call(divided)
    assert_same(tokens, expected)
    for array in tokens[:2]:
        assert {shard.data.shape[1] for shard in array.addressable_shards} == {1}
    assert_same(encode(x), expected)  # and again on one


def test_weights_are_put_beside_the_images_once(folder, x, monkeypatch):
    encode = load_encoder(folder)
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    encode(divided)
    put = []
    monkeypatch.setattr(pretrained_encoder.jax, "device_put", lambda *a: put.append(a))
    encode(divided)
    assert put == []


def test_it_takes_the_fast_form_of_this_machine(folder, x, monkeypatch):
    """Its options of the compiler are refused by JAX within other functions, and left out there."""
    expected = load_encoder(folder, "bfloat16")(x).class_token.astype(float)
    monkeypatch.setattr(pretrained_encoder, "encoder_form", lambda dtype: "onednn")
    options = []

    def tell(form):
        options.append(form)
        return {"xla_cpu_enable_fast_math": False}

    monkeypatch.setattr(pretrained_encoder, "encoder_compiler_options", tell)
    encode = load_encoder(folder, "bfloat16")
    found = encode(x).class_token.astype(float)
    assert options == ["onednn"] and 0 < jnp.abs(found - expected).max() < 0.5
    assert "form onednn" in repr(encode)
    within = jax.jit(lambda x: encode(x).class_token)(x).astype(float)
    np.testing.assert_allclose(within, found, atol=0.1)
    gradient = jax.grad(lambda x: encode(x).class_token.astype(float).sum())(x)
    assert gradient.shape == x.shape and jnp.abs(gradient).max() > 0
    assert options == ["onednn"]


def test_it_refuses_in_a_sentence(folder, encode):
    with pytest.raises(InputError, match="dtype is 'float16', expected one of float32, bfloat16"):
        load_encoder(folder, "float16")
    with pytest.raises(ValueError, match=r"\(28, 42, 3\) found, \(B, H, W, 3\).*images\[None\]"):
        encode(jnp.zeros((28, 42, 3)))
    for channels in (1, 4):
        with pytest.raises(ValueError, match=rf"\(1, 28, 42, {channels}\) found, \(B, H, W, 3\)"):
            encode(jnp.zeros((1, 28, 42, channels)))
    with pytest.raises(ValueError, match=r"images of 28 x 41 pixels found.*multiples of 14"):
        encode(jnp.zeros((1, 28, 41, 3)))
    with pytest.raises(ValueError, match=r"images of uint8 found, floating point.*to_rgb"):
        encode(np.zeros((1, 28, 42, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\) expected"):
        jax.jit(encode.__call__)(jnp.zeros((28, 42, 3)))
