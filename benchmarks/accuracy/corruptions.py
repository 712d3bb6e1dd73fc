"""Spoils volumes as scanners do, more than training's augmentation: noise, bias field, blur."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def noise(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of an SD of 0.1 to 0.4 of the range of grey values."""
    return volume + rng.normal(0, rng.uniform(0.1, 0.4), volume.shape) * _range(volume)


def bias(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A factor that changes from one end of the field of view to the other, up to 20-fold."""
    direction = rng.normal(size=3)
    direction *= rng.uniform(0.5, 1.5) / np.abs(direction).sum()
    axes = [np.linspace(-1, 1, size) * one for size, one in zip(volume.shape, direction)]
    return volume * np.exp(sum(np.meshgrid(*axes, indexing="ij")))


def blur(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of an SD of 1 to 4 voxels along each axis."""
    return ndimage.gaussian_filter(volume, rng.uniform(1, 4))


CORRUPTIONS: dict[str, Corruption] = {"noise": noise, "bias": bias, "blur": blur}


def corrupted(volume: np.ndarray, how: str, seed: int) -> np.ndarray:
    """The volume (x, y, z), any real dtype, with one of `CORRUPTIONS`; float32, never below 0."""
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(how)])
    return np.maximum(CORRUPTIONS[how](volume.astype(np.float32), rng), 0).astype(np.float32)


def _range(volume: np.ndarray) -> float:
    low, high = np.percentile(volume, (0.5, 99.5))
    return float(high - low)
