"""Kinds of scans that phantoms imitate: their grid, their grey values, what the scanner adds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Family:
    """One kind of scan: its grid and its grey values, where blood of the left heart is 1.

    Attributes:
        shape: voxels along x, y, z.
        spacing: mm per voxel along x, y, z.
        fat, muscle, air, lung, lung_vessel, gullet, wall: grey values; gullet of wall and inside.
        bone: cortex and marrow as multiples of fat (which is below water in CT).
        soft: from, to of a factor on fat and muscle.
        right_blood: from, to of the blood of the right heart.
        myocardium: from, to.
        valve: what the mitral valve adds to the wall.
        scar: from, to of the bright patches on the atrium's wall.
    """

    shape: tuple[int, int, int] = (96, 88, 24)
    spacing: tuple[float, float, float] = (1.5, 1.5, 2.75)
    air: float = 0.02
    lung: float = 0.06
    lung_vessel: float = 0.7
    fat: float = 0.32
    muscle: float = 0.42
    bone: tuple[float, float] = (0.6, 0.9)
    soft: tuple[float, float] = (0.8, 1.3)
    gullet: tuple[float, float] = (0.55, 0.3)
    wall: float = 0.4
    right_blood: tuple[float, float] = (0.88, 1.08)
    myocardium: tuple[float, float] = (0.2, 0.4)
    valve: float = 0.35
    scar: tuple[float, float] = (1.2, 1.5)


# CT with contrast agent in the left heart, in units of 400 HU above water.
FAMILIES = {
    "lge": Family(),
    "ct": Family(
        shape=(84, 79, 40),
        spacing=(1.75, 1.75, 1.5),
        air=-2.5,
        lung=-2.1,
        fat=-0.25,
        muscle=0.13,
        bone=(-7.0, -2.5),
        soft=(0.9, 1.1),
        gullet=(0.1, -0.5),
        wall=0.15,
        right_blood=(0.4, 0.75),
        myocardium=(0.2, 0.3),
        valve=0.6,
        scar=(0.2, 0.3),
    ),
}


def mri_scanner(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What MRI makes of grey values (x, y, z): bias field, Rician noise, arbitrary units."""
    image *= _bias_field(rng, image.shape)
    sigma = rng.uniform(0.05, 0.09)
    real, imaginary = (rng.normal(0, sigma, image.shape) for _ in range(2))
    return np.rint(np.hypot(image + real, imaginary) * rng.uniform(120, 400)).astype(np.int16)


def ct_scanner(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What CT makes of grey values (x, y, z): HU of a random tube voltage, Gaussian noise.

    A lower voltage brightens what is denser than water, iodine and bone, but neither fat nor air.
    """
    attenuation = 400 * np.where(image > 0, image * rng.uniform(0.75, 1.25), image)
    noise = rng.normal(0, rng.uniform(15, 40), image.shape)
    return np.rint(np.clip(attenuation + noise, -1024, 3071)).astype(np.int16)


def _bias_field(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Receive field, float64 of `shape`: exp of a random quadratic, brighter at the front."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    weights = rng.normal(0, 0.1, len(terms)) + np.array([0, -0.15] + [0] * 7)
    return np.exp(sum(weight * term for weight, term in zip(weights, terms)))
