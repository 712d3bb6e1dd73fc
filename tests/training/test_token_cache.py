"""Cached tokens are the encoder's, computed once, and never more than there is room for."""

import dataclasses
import os
import re
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lagseg_jax.data import disk_cache
from lagseg_jax.data.batches import SliceSource, TrainingBatches
from lagseg_jax.data.disk_cache import TEMPORARY
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.model.backend import encoder_compiler_options
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.training import token_cache
from lagseg_jax.training.token_cache import cached_tokens, feature_folder

SLICES = (5, 3)  # of two cases; batches of 2 on each of two devices
DEPTH, WIDTH = 4, 64  # of the tiny encoder


def cases_of(size=28, counts=SLICES):
    rng = np.random.default_rng(0)
    cases = []
    for number, count in enumerate(counts):
        images = rng.random((count, size, size)).astype(np.float16)
        masks = np.zeros(images.shape, np.uint8)
        # A real key covers the image size.
        cases.append(PreparedCase(f"case_{number}", images, masks, f"{size}-{number}"))
    return cases


def encoder_of(dtype="float32", seed=0, size=28):
    config = default.get_config()
    config.data.image_size, config.decoder.scales, config.decoder.widths = size, (2,), (8, 8)
    config.encoder.update({"variant": "tiny", "dtype": dtype, "seed": seed})
    encoder = load_frozen_encoder(config)
    return build_model(config, encoder.spec), encoder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "features"


def names(folder):
    return {entry.name for entry in folder.iterdir()}


def cache(folder, cases=None, max_gb=1.0, **encoder):
    return cached_tokens(cases or cases_of(), *encoder_of(**encoder), 2, folder, max_gb)


@pytest.fixture
def encoded(monkeypatch):
    """The shapes of all batches that are encoded."""
    shapes, original = [], token_cache.pmapped

    def counted(function, *arguments, **options):
        call = original(function, *arguments, **options)

        def count(params, images):
            shapes.append(images.shape)
            return call(params, images)

        return count

    monkeypatch.setattr(token_cache, "pmapped", counted)
    return shapes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tokens_are_those_of_the_encoder(folder, dtype, encoded):
    cases, (model, encoder) = cases_of(), encoder_of(dtype)
    found = cached_tokens(cases, model, encoder, 2, folder, 1.0)
    assert encoded == 3 * [(2, 2, 28, 28)]  # 5 slices in 2 batches, 3 in one; one shape
    options = encoder_compiler_options(model.encoder.form)
    tokens = jax.jit(model.tokens, compiler_options=options)
    for case, array in zip(cases, found, strict=True):
        assert isinstance(array, np.memmap) and array.dtype == model.encoder.dtype
        assert array.shape == (len(case.images), DEPTH, 2, 2, WIDTH)
        expected = np.moveaxis(np.asarray(tokens(encoder.params, jnp.float32(case.images))), 1, 0)
        if dtype == "bfloat16":
            np.testing.assert_array_equal(array.view(np.uint16), expected.view(np.uint16))
        else:
            np.testing.assert_allclose(array, expected, atol=1e-5)


def test_the_second_time_nothing_is_encoded(folder, encoded):
    first = cache(folder)
    count = len(encoded)
    second = cache(folder, cases_of()[::-1])[::-1]
    assert len(encoded) == count > 0
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(names(folder)) == len(SLICES)


def test_only_new_cases_are_encoded(folder, encoded):
    cache(folder, cases_of()[:1])
    del encoded[:]
    cache(folder)
    assert len(encoded) == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"dtype": "bfloat16"}, {"size": 42}])
def test_another_encoder_or_image_has_entries_of_its_own(folder, change):
    before = [np.array(tokens) for tokens in cache(folder)]
    after = cache(folder, cases_of(change.get("size", 28)), **change)
    assert len(names(folder)) == 2 * len(SLICES)
    for old, new in zip(before, after, strict=True):
        assert old.shape != new.shape or (old != new.astype(np.float32)).any()


def test_every_setting_of_the_encoder_is_in_the_key():
    """Also where the hash of the weights stays: converted ones are hashed as the file has them."""
    case, (model, encoder) = cases_of()[0], encoder_of()
    keys = [token_cache._key(case, model, encoder)]
    keys.append(token_cache._key(case, encoder_of("bfloat16")[0], encoder))
    for change in ({"variant": "small"}, {"registers": 4}, {"interpolation": "antialias"}):
        other = dataclasses.replace(encoder, spec=dataclasses.replace(encoder.spec, **change))
        keys.append(token_cache._key(case, model, other))
    keys.append(token_cache._key(case, model, dataclasses.replace(encoder, sha256="another")))
    keys.append(token_cache._key(dataclasses.replace(case, key="another"), model, encoder))
    assert len(set(keys)) == 7


def test_a_bound_below_what_is_needed_is_refused_before_anything_is_encoded(folder, encoded):
    needed = sum(SLICES) * DEPTH * 2 * 2 * WIDTH * 4
    with pytest.raises(InputError, match=r"GB of tokens, but config\.train\.feature_cache_gb is"):
        cache(folder, max_gb=0.99 * needed / 1e9)
    assert not encoded and not names(folder)
    assert len(cache(folder, max_gb=1.2 * needed / 1e9)) == len(SLICES)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_encoded(
    folder, encoded, monkeypatch
):
    needed = sum(SLICES) * DEPTH * 2 * 2 * WIDTH * 4
    usage = namedtuple("usage", "total used free")
    disk = {"free": needed - 1}
    monkeypatch.setattr(
        token_cache.shutil, "disk_usage", lambda _: usage(10 * needed, 0, disk["free"])
    )
    with pytest.raises(InputError, match=r"GB free, expected .* for the tokens of 8 slices"):
        cache(folder)
    assert not encoded and not names(folder)
    disk["free"] = needed
    cache(folder)
    disk["free"] = 0  # nothing more is to be written
    cache(folder)


def test_room_is_made_before_the_disk_fills(folder):
    """The entries used longest ago go first, and the cache never grows beyond its bound."""
    cache(folder)
    before = names(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*.npy"))
    sizes, write = [], token_cache._write_tokens

    def watched(path, *arguments):
        write(path, *arguments)
        sizes.append(sum(f.stat().st_size for f in folder.rglob("*.npy")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "_write_tokens", watched)
        cache(folder, seed=1, max_gb=1.1 * size / 1e9)
    assert max(sizes) < 1.1 * size and len(sizes) == len(SLICES)
    assert not before & names(folder)


@pytest.mark.parametrize("cleans_up", [True, False], ids=["exception", "kill -9"])
def test_a_killed_writer_leaves_nothing_under_the_final_name(folder, monkeypatch, cleans_up):
    original, count = token_cache.read_row, []

    def killed(images, z):
        count.append(z)
        if len(count) > 5:  # within the second batch of the first case
            raise KeyboardInterrupt
        return original(images, z)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(token_cache, "read_row", killed)
        if not cleans_up:
            patch.setattr(disk_cache.shutil, "rmtree", lambda *_, **__: None)
        cache(folder)
    left = names(folder)
    assert all(name.startswith(TEMPORARY) for name in left) and bool(left) == (not cleans_up)
    again, reference = cache(folder), cache(folder.parent / "reference")
    for a, b in zip(again, reference, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_that_is_short_at_the_start_is_named(folder):
    cache(folder)
    path = sorted(folder.glob("*/tokens.npy"))[0]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} cannot be read"):
        cache(folder)


def test_a_file_cut_short_after_it_was_opened_is_named(folder):
    """Reading the memory map would end the process with SIGBUS, which names nothing."""
    cases = cases_of(counts=(70,))
    source = SliceSource(cases, cache(folder, cases))
    assert source[69]["tokens"].shape == (DEPTH, 2, 2, WIDTH)
    path = next(folder.glob("*/tokens.npy"))
    os.truncate(path, 5000)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} has 5000 bytes, expected"):
        source[69]


def test_folder(monkeypatch, tmp_path):
    assert feature_folder(str(tmp_path)) == tmp_path / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert feature_folder("") == tmp_path / "xdg" / "lagseg_jax" / "features"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_have_the_tokens_of_their_slices(folder, dtype):
    cases = cases_of()
    tokens = cache(folder, cases, dtype=dtype)
    batches = TrainingBatches(SliceSource(cases, tokens), 4, seed=0, threads=2)
    every = np.concatenate([np.array(array).astype(np.float32) for array in tokens])
    for _ in range(5):
        batch = next(batches)
        assert batch["tokens"].dtype == tokens[0].dtype
        np.testing.assert_array_equal(batch["tokens"].astype(np.float32), every[batch["slice"]])
    batches.close()
