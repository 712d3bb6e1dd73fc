"""How the atrium looks in network images: numbers by hand, and what spoils a scan moves them."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lagseg_jax.imaging.appearance import appearance


def test_numbers_by_hand():
    images, masks = np.full((3, 29, 29), 0.2), np.zeros((3, 29, 29), np.uint8)
    masks[1, 10:13, 11:14] = 1
    images[1, 10:13, 11:14] = [[0.6, 0.8, 0.6], [0.8, 0.6, 0.8], [0.6, 0.8, 0.6]]
    images[0] = 0.9  # a slice without atrium
    found = appearance(images, masks)
    brightness = (5 * 0.6 + 4 * 0.8) / 9
    assert found.keys() == {"brightness", "contrast", "roughness"}
    np.testing.assert_allclose(found["brightness"], brightness, rtol=1e-6)
    np.testing.assert_allclose(found["contrast"], brightness - 0.2, rtol=1e-6)
    np.testing.assert_allclose(found["roughness"], 0.2, rtol=1e-6)


def test_nothing_to_be_measured():
    images, mask = np.zeros((2, 29, 29)), np.zeros((2, 29, 29), np.uint8)
    assert appearance(images, mask) == {}
    mask[0, 3, 4] = 1
    assert appearance(images, mask) == {}
    assert appearance(images, np.ones_like(mask)) == {}


def test_noise_and_blur_move_the_roughness():
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 43, 43), np.uint8)
    masks[1:4, 10:31, 12:30] = 1
    images = np.clip(0.3 + 0.3 * masks + rng.normal(0, 0.03, masks.shape), 0, 1)
    usual = appearance(images, masks)["roughness"]
    blurred = gaussian_filter(images, (0, 2, 2))
    noisy = np.clip(images + rng.normal(0, 0.1, masks.shape), 0, 1)
    assert appearance(blurred, masks)["roughness"] < usual / 2
    assert appearance(noisy, masks)["roughness"] > 2 * usual
