"""What a browser unpacks is what was packed, in as many bytes as a page may have."""

import base64
import io
from pathlib import Path

import matplotlib.image
import numpy as np
from PIL import Image

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.orientation import affine_of_letters
from lagseg_jax.imaging.review_case import PERCENTILES, case_content
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.sprites import (
    BYTES_PER_VOXEL,
    EXACT_VOXELS,
    PROBABILITY_BYTES_PER_VOXEL,
    grey_sprites,
    mask_sprites,
    probability_sprites,
)

MOST_BYTES = 6 * 10**6  # of the page of a case of 576 x 576 x 44


def unpacked(files):
    """(Z, H, W) of PNG files, 0..255."""
    pictures = [matplotlib.image.imread(io.BytesIO(file), format="png") for file in files]
    return np.rint(np.stack(pictures) * 255).astype(int)


def test_pictures_equal_the_arrays_pixel_by_pixel():
    draw = np.random.default_rng(0)
    images, truth, prediction = draw.random((3, 5, 13, 7))
    levels = np.rint(images * 255).astype(np.uint8)
    kind, files = grey_sprites(levels)
    assert kind == "png"
    np.testing.assert_array_equal(unpacked(files), levels)
    found = unpacked(mask_sprites(truth > 0.5, prediction > 0.3))
    np.testing.assert_array_equal(found, (truth > 0.5) + 2 * (prediction > 0.3))
    np.testing.assert_array_equal(unpacked(mask_sprites(None, truth > 0.5)), 2 * (truth > 0.5))
    levels, files = probability_sprites(truth)
    assert levels == 50
    np.testing.assert_array_equal(unpacked(files), np.rint(truth * 50))


def test_large_volumes_are_small_and_near():
    shape = (6, 523, 547)
    assert np.prod(shape) > EXACT_VOXELS
    z, row, column = np.indices(shape)
    smooth = (np.sin(row / 17 + z) * np.cos(column / 23) + 1) / 2
    noise = np.random.default_rng(0).random(shape)
    for images, far in ((smooth, 4), (noise, 256)):
        kind, files = grey_sprites(np.rint(images * 255).astype(np.uint8))
        found = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        assert kind == "jpeg" and found.shape == shape and found.dtype == np.uint8
        assert np.abs(found - images * 255).max() < far
        assert sum(map(len, files)) <= BYTES_PER_VOXEL * images.size
    levels, files = probability_sprites(noise)
    assert levels == 4 and np.abs(unpacked(files) / 4 - noise).max() <= 1 / 8
    # Three bytes are four letters in a page; the masks come on top.
    share = BYTES_PER_VOXEL + PROBABILITY_BYTES_PER_VOXEL
    assert share * 576 * 576 * 44 * 4 / 3 < MOST_BYTES - 400_000


def test_the_content_of_a_case_is_its_slices():
    draw = np.random.default_rng(1)
    shape = (7, 5, 11)
    affine = affine_of_letters("SAL", np.array([3.0, 1.0, 1.1]))
    array = draw.normal(300, 50, shape).astype(np.float32)
    prediction = np.zeros(shape, np.uint8)
    prediction[2:5, 3, 4:9] = 1
    truth = np.roll(prediction, 1, 2)
    probability = prediction * np.float32(0.7)
    volume = Volume(array, affine, shape, {}, Path("x.nii"))
    content = case_content(volume, prediction, truth, probability)
    slices, masks, truths = (to_slices(a, affine)[0] for a in (array, prediction, truth))
    files = {name: map(base64.b64decode, content[name]) for name in ("images", "masks")}
    low, high = content["grey"]
    assert (low, high) == grey_range(slices, PERCENTILES) and content["shape"] == list(slices.shape)
    expected = np.rint(normalise(slices, (low, high)) * 255)
    np.testing.assert_array_equal(unpacked(files["images"]), expected)
    np.testing.assert_array_equal(unpacked(files["masks"]), truths + 2 * masks)
    z, row, column = content["start"]
    assert masks[z, row].any() and (masks | truths)[:, row, column].any()
    assert content["truth"] and content["views"][0]["plane"] == "axial"
    alone = case_content(volume, np.zeros_like(prediction))
    assert not alone["truth"] and alone["probability"] is None and alone["start"] == [3, 2, 5]
