"""Shapes that phantoms are made of: signed distances in mm, negative inside, each a little varied.

Points are float32 (3, X, Y, Z) in mm. Every function draws from `rng` in the same order each time,
so that the same state makes the same shape.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial.transform import Rotation


def pose(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Points (3, X, Y, Z) of the scan -> the same in the frame of a turned and scaled heart."""
    turn = Rotation.from_euler("xyz", rng.normal(0, (5, 5, 8)), degrees=True).as_matrix()
    turned = np.tensordot(turn.astype(np.float32), points, 1)
    return turned / np.float32(rng.uniform(0.88, 1.1))


def warp(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Shifts points (3, X, Y, Z) by waves of 60 to 120 mm: no shape stays a plain ellipsoid."""
    warped = points.copy()
    for _ in range(3):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / rng.uniform(60, 120) / np.linalg.norm(direction)
        phase = np.tensordot(direction.astype(np.float32), points, 1) + rng.uniform(0, 2 * np.pi)
        warped += as_column(rng.normal(0, 1.2, 3)) * np.sin(phase.astype(np.float32))
    return warped


def ellipsoid(rng: np.random.Generator, points: np.ndarray, part: tuple) -> np.ndarray:
    """Points (3, X, Y, Z) -> about their signed distance in mm to a varied ellipsoid.

    First-order estimate f / |grad f|, exact in sign: k0 (k0 - 1) / k1 with k0 = |p / r| and
    k1 = |p / r^2| (I. Quilez, "ellipsoid distance estimation", 2008).
    """
    centre, half_axes, degrees = part
    half_axes = np.array(half_axes) * rng.uniform(0.93, 1.07, 3)
    turn = Rotation.from_euler("z", degrees + rng.normal(0, 3), degrees=True).as_matrix()
    offset = points - as_column(centre + rng.normal(0, 1.5, 3))
    scaled = np.tensordot((turn.T / half_axes[:, None]).astype(np.float32), offset, 1)
    k0 = np.sqrt((scaled**2).sum(0))
    k1 = np.sqrt(((scaled / as_column(half_axes)) ** 2).sum(0)) + np.float32(1e-6)
    return k0 * (k0 - 1) / k1


def tube(rng: np.random.Generator, points: np.ndarray, part: tuple) -> np.ndarray:
    """Points (3, X, Y, Z) -> signed distance in mm to a varied bent tube, a radius per point."""
    line, radii = part
    line = np.array(line, np.float32) + rng.normal(0, 1.2, (len(line), 3))
    radii = np.array(radii) * rng.uniform(0.92, 1.08)
    distances = []
    for start, end, first, last in zip(line[:-1], line[1:], radii[:-1], radii[1:]):
        offset, segment = points - as_column(start), as_column(end - start)
        along = np.clip((offset * segment).sum(0) / (segment**2).sum(), 0, 1)
        away = np.sqrt(((offset - along * segment) ** 2).sum(0))
        distances.append(away - np.float32(first) - np.float32(last - first) * along)
    return np.minimum.reduce(distances)


def as_column(vector: ArrayLike) -> np.ndarray:
    """One vector (3,) -> (3, 1, 1, 1), to be combined with points (3, X, Y, Z)."""
    return np.asarray(vector, np.float32).reshape(3, 1, 1, 1)


def blend(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Union of two distances with a rounded seam of `width` mm (polynomial smooth minimum)."""
    share = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * share - width * share * (1 - share)


def texture(rng: np.random.Generator, shape: Sequence[int], sigma: np.ndarray) -> np.ndarray:
    """Smooth noise, float32 of `shape`, mean 0 and SD 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return (noise - noise.mean()) / noise.std()
