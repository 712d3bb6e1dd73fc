"""Traces on the disk: the next start finds them, and never those of something else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lagseg_jax.inference import slice_probability
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.weights import random_params
from lagseg_jax.runtime import traced
from lagseg_jax.runtime.traced import KeptJit
from network import probability


class Pair(NamedTuple):
    """Of arrays."""

    a: jax.Array
    b: list


class Python:
    """A function that counts how often Python runs it; each new one is a new start."""

    def __init__(self):
        self.runs, self.__module__ = 0, "here"
        self.__name__ = self.__qualname__ = "function"

    def __call__(self, factor, pair, flip=None):
        self.runs += 1
        x = factor * pair.a @ pair.b[0]
        return x, x if flip is None else jnp.where(flip, -x, x)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of the traces, with one device."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def files(folder):
    return sorted(folder.glob("traced-*"))


def start(*arguments, size=3, options=None):
    """What a new start computes, and whether it had to trace."""
    python = Python()
    pair = Pair(jnp.arange(2.0 * size).reshape(2, size), [jnp.ones((size, 5))])
    x, y = KeptJit(python, options)(2.0, pair, *arguments)
    np.testing.assert_array_equal(x, 2 * np.asarray(pair.a) @ np.ones((size, 5)))
    np.testing.assert_array_equal(y, -x if any(arguments) else x)
    return bool(python.runs)


def test_the_next_start_does_not_trace(folder):
    assert start() and not start()
    assert len(files(folder)) == 1
    # One trace for both mirrorings, which is another one than that of none.
    assert start(True) and not start(False)
    assert start(size=7) and not start(size=7) and not start()
    assert len(files(folder)) == 3


def test_options_of_the_compiler_are_no_hindrance(folder):
    options = {"xla_backend_optimization_level": 1}
    assert start(options=options) and not start(options=options)


def test_what_is_compiled_for_shapes_is_called_with_arrays(folder):
    kept, pair = KeptJit(Python()), Pair(jnp.ones((2, 3)), [jnp.ones((3, 5))])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pair)
    kept.compile(2.0, like, True)
    (compiled,) = kept.programs.values()
    assert isinstance(compiled, jax.stages.Compiled)
    mesh = jax.sharding.Mesh(jax.local_devices()[:1], ("devices",))  # that of `devices.replicate`
    placed = jax.device_put(pair, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    x, y = kept(2.0, placed, False)
    assert (np.asarray(x) == 6).all() and (np.asarray(y) == 6).all()
    kept.compile(2.0, pair, False)
    assert list(kept.programs.values()) == [compiled]


@pytest.mark.parametrize("change", ["code", "version", "settings"])
def test_a_change_traces_anew(folder, monkeypatch, change):
    assert start()
    if change == "code":
        monkeypatch.setattr(traced, "_code_sha256", lambda: "other")
    elif change == "version":
        monkeypatch.setattr(jax, "__version__", "9")
    with jax.default_matmul_precision("highest" if change == "settings" else None):
        assert start() and not start()


def test_another_static_argument_is_another_trace(folder):
    assert start()
    python = Python()
    (x, _) = KeptJit(python)(3.0, Pair(jnp.ones((2, 3)), [jnp.ones((3, 5))]))
    assert python.runs and (x == 9).all()


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:90] + c[91:]])
def test_a_damaged_file_is_replaced(folder, damage):
    start()
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert start() and not start()


def test_nothing_is_kept_of_several_devices_or_without_a_folder(folder, monkeypatch):
    for other in (None, "gs://bucket/xla"):  # JAX's own place may be no folder
        jax.config.update("jax_compilation_cache_dir", other)
        assert start() and start()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert start() and start()
    assert not files(folder)


def test_what_cannot_be_kept_is_computed_all_the_same(folder):
    def doubled(_, x):
        return jax.pure_callback(lambda x: 2 * x, x, x)

    assert KeptJit(doubled)(None, jnp.float32(4)) == 8
    assert not files(folder)


def test_the_oldest_files_go(folder, monkeypatch):
    monkeypatch.setattr(traced, "MOST", 2)
    for size in (3, 4, 5):
        start(size=size)
    assert len(files(folder)) == 2
    assert start(size=3) and not start(size=5)


def test_the_network_is_the_same_kept_or_not(folder, monkeypatch):
    config = default.get_config()
    config.decoder.scales, config.decoder.widths = (4, 2), (16, 16, 8)
    config.decoder.dtype = config.encoder.dtype = "float32"
    model = build_model(config, EncoderSpec("tiny"))
    encoder = random_params(EncoderSpec("tiny"), 0, "float32")
    head = model.init_head(jax.random.key(1), 42)
    images = jnp.asarray(np.random.default_rng(0).random((2, 42, 42)), jnp.float32)
    how = slice_probability.Resampling(*2 * [2 * [jnp.eye(42)]], jnp.array([0.0, 1.0]))
    found = []
    for _ in range(2):  # traced, and read
        for made in (slice_probability.encoder, slice_probability.decoder):
            made.cache_clear()
        like = jax.ShapeDtypeStruct(images.shape, images.dtype)
        slice_probability.compile_ahead(model, encoder, head, like, how)
        found.append(probability(model, encoder, head, images))
        assert [len(made.programs) for made in slice_probability.compiled(model)] == [1, 1]
    assert len(files(folder)) == 2
    for made in (slice_probability.encoder, slice_probability.decoder):
        made.cache_clear()
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    plain = probability(model, encoder, head, images)
    for kept in found:
        np.testing.assert_allclose(kept, plain, atol=1e-6)
